//go:build unix

package main

import (
	"strings"
	"syscall"
	"testing"

	"github.com/rstream-dev/rstream/internal/auth"
	"github.com/rstream-dev/rstream/internal/longtest"
)

// TestFrontLogin: the page at / asks a stranger for a token, follows a topic that the token covers,
// says when it was revoked, and logs out.
func TestFrontLogin(t *testing.T) {
	longtest.Require(t)
	t.Parallel()
	c := startChromium(t)
	if c == nil {
		return
	}
	w := &walker{t: t, dir: t.TempDir()}
	token := w.newTokens()
	bob, next := token("--sub bob --read alice"), token("--sub bob --read alice")
	w.write("root", token("--sub root --write *"))
	k := startKillable(w, "--keys keys.json --revoked revoked")
	p := c.newPage()
	logIn := func(with string) {
		t.Helper()
		p.value(`document.getElementById('token').select()`)
		p.write(with)
		p.press("Enter")
	}
	p.open(k.base + "/")
	p.waitText("h2", "Log in")
	p.runAxe()
	p.resize(360, 740, true)
	p.wait(`document.documentElement.scrollWidth === 360`)
	p.runAxe()
	p.resize(1280, 900, false)
	if text := p.value("document.body.innerText"); strings.Contains(text, "Head") {
		t.Errorf("a stranger sees %s", text)
	}
	logIn("letmein")
	p.waitText("#refusal", "token")
	logIn(bob)
	p.waitText("dd", "bob")
	p.waitText("#state", "live")
	p.wait(`document.getElementById('topic').value === 'alice' && document.cookie === ''`)
	w.run(exitDone, "put alice/posts/1 1 -s "+k.base+" --token-file root")
	p.waitText("#events", "alice/posts/1")
	p.runAxe()

	_, claims, err := auth.ReadToken(bob)
	if err != nil {
		t.Fatal(err)
	}
	w.write("revoked", claims.ID+"\n")
	if err := k.cmd.Process.Signal(syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	p.waitText("#state", "Reload the page to log in again.")
	p.waitText("#events", "alice/posts/1")
	p.open(k.base + "/")
	p.waitText("h2", "Log in")
	logIn(bob)
	p.waitText("#refusal", "revoked")
	logIn(next)
	p.waitText("#state", "live")
	p.click("#logout")
	p.waitText("h2", "Log in")
	p.checkQuiet(k.base)
}

// newTokens makes a key in keys.json and an empty list of revoked tokens, and returns a function
// that makes tokens.
func (w *walker) newTokens() func(flags string) string {
	w.run(exitDone, "key new keys.json")
	w.write("revoked", "")
	return func(flags string) string {
		out, _ := w.run(exitDone, "token --key keys.json "+flags)
		return strings.TrimSpace(out)
	}
}
