//go:build unix

package main

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/rstream-dev/rstream/internal/auth"
	"github.com/rstream-dev/rstream/internal/longtest"
	"github.com/rstream-dev/rstream/internal/testport"
)

// A killable is a server on one port that is killed and started again.
type killable struct {
	*walker
	base  string
	flags string
	cmd   *exec.Cmd
	away  sync.RWMutex // locked from a kill to the restart
}

// startKillable starts a server of a log in w.dir.
func startKillable(w *walker, flags string) *killable {
	w.t.Helper()
	k := newKillable(w)
	k.flags = flags
	k.restart()
	return k
}

// newKillable returns a server that restart starts.
func newKillable(w *walker) *killable {
	return &killable{walker: w, base: "http://" + testport.Addresses(1)[0]}
}

func (k *killable) restart() {
	k.t.Helper()
	cmd, _, said := k.start("serve --db log.db --listen " + strings.TrimPrefix(k.base, "http://") + " " + k.flags)
	said.waitFor(k.t, " on http://")
	k.cmd = cmd
}

func (k *killable) kill() {
	k.t.Helper()
	if err := k.cmd.Process.Kill(); err != nil {
		k.t.Fatal(err)
	}
	_ = k.cmd.Wait()
}

func (k *killable) killAndRestart() { k.t.Helper(); k.killDuring(func() {}) }

// killDuring kills the server, and restarts it after meanwhile.
func (k *killable) killDuring(meanwhile func()) {
	k.t.Helper()
	if err := k.cmd.Process.Kill(); err != nil {
		k.t.Fatal(err)
	}
	k.away.Lock()
	defer k.away.Unlock()
	_ = k.cmd.Wait()
	meanwhile()
	k.restart()
}

// put appends a PUT, or a DEL if value is empty. It tries again while the server is away.
func (k *killable) put(storage, key, value string) {
	k.t.Helper()
	body := fmt.Sprintf(`{"type":"DEL","key":%q}`, key)
	if value != "" {
		body = fmt.Sprintf(`{"key":%q,"value":%s}`, key, value)
	}
	for late := time.Now().Add(time.Minute); ; {
		status, err := k.trySend("/set/"+escapeSegments(storage), body)
		switch {
		case err == nil && status < 300:
			return
		case err == nil || time.Now().After(late):
			k.t.Fatalf("append to %s: %d, %v", storage, status, err)
		}
	}
}

func (k *killable) trySend(path, body string) (status int, err error) {
	k.away.RLock()
	defer k.away.RUnlock()
	req, err := http.NewRequestWithContext(k.t.Context(), http.MethodPost, k.base+path, strings.NewReader(body))
	if err != nil {
		return 0, err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	_, err = io.Copy(io.Discard, resp.Body)
	return resp.StatusCode, err
}

func escapeSegments(name string) string {
	segments := strings.Split(name, "/")
	for i := range segments {
		segments[i] = url.PathEscape(segments[i])
	}
	return strings.Join(segments, "/")
}

// read opens a stream, which leave ends.
func (k *killable) read(topic, token string) (leave func()) {
	k.t.Helper()
	ctx, cancel := context.WithCancel(k.t.Context())
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, k.base+"/events?since=now&topic="+url.QueryEscape(topic), nil)
	if err != nil {
		k.t.Fatal(err)
	}
	req.Header.Set("Accept", "text/event-stream")
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		k.t.Fatal(err)
	}
	if resp.StatusCode != http.StatusOK {
		k.t.Fatalf("a stream of %s: %s", topic, resp.Status)
	}
	return func() {
		cancel()
		_ = resp.Body.Close()
	}
}

// evil is a name that does harm in a page that takes it for HTML.
const evil = `<img src=x onerror=document.title='harmed'><!--"'&lt;`

// TestDashboard clicks through the page in a browser.
func TestDashboard(t *testing.T) {
	t.Parallel()
	c := startChromium(t)
	if c == nil {
		return
	}
	docs := httptest.NewUnstartedServer(nil)
	k := startKillable(&walker{t: t, dir: t.TempDir()}, "--allow-origin http://"+docs.Listener.Addr().String())
	docs.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/html")
		_, _ = io.WriteString(w, strings.ReplaceAll(pageOfDocs(t), "SERVER", k.base))
	})
	docs.Start()
	defer docs.Close()
	k.put("alice/profile", "k1", `{"name":"Zoë","size":1.0}`)
	p := c.newPage()
	p.open(k.base + "/dashboard")
	p.waitText("#status", "Live")
	p.waitText("#topics", "Nobody reads anything.")

	leave := k.read("alice", "")
	defer k.read("*", "")()
	p.wait(`[...document.querySelectorAll('#topic-rows tr')].map(tr => [...tr.cells].map(td => td.textContent).join(' ')).join() === '2 1 alice,1 1 *'`)
	p.wait(`document.title === '2 readers – rstream' && document.getElementById('count').textContent === '2'`)
	leave()
	p.waitNone("#topic-rows", "alice")
	p.waitText("#reader-rows", "127.0.0.1")

	// A room: its state, each change, its readers.
	defer k.read("alice", "")()
	p.waitText("#topic-rows", "alice")
	p.click("#topic-rows tr:first-child a")
	p.waitText("#state-rows", `{"name":"Zoë","size":1.0}`)
	p.waitText("#room-reader-rows", "alice")
	k.put("alice/profile", "k2", `{"name":"Zoé"}`)
	p.waitText("#state-rows", `{"name":"Zoé"}`)
	p.waitText("#event-rows", `alice/profile`)
	k.put("alice/"+evil, "k3", jsString(evil))
	p.waitText("#state-rows", `alice/`+evil)
	defer k.read("alice/"+evil, "")()
	p.waitText("#topic-rows", "alice/"+evil)
	p.wait(`!document.querySelector('img, td script') && document.title.endsWith(' – rstream')`)

	// On a phone nothing sticks out.
	p.resize(360, 740, true)
	p.wait(`document.documentElement.scrollWidth === 360`)

	// An address that a browser would change is no room.
	other := c.newPage()
	other.open(k.base + "/dashboard#alice%2F..%2Fbob")
	other.waitText("#room-said", "A path has no part . or ..")

	p.checkQuiet(k.base)
	if !longtest.Enabled() {
		return
	}

	// A room counts all of its storages, also those that the page does not keep.
	var lines strings.Builder
	for i := range 1100 {
		fmt.Fprintf(&lines, "{\"user\":\"big\",\"path\":\"s%04d\",\"key\":\"k\",\"value\":1}\n", i)
	}
	resp, err := http.Post(k.base+"/set", "application/x-ndjson", strings.NewReader(lines.String()))
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	large := c.newPage()
	large.open(k.base + "/dashboard#big")
	large.wait(`document.getElementById('state-title').textContent.replace(/\D/g, '') === '1100'`)
	k.put("big/new", "k1", "1")
	large.wait(`document.getElementById('state-title').textContent.replace(/\D/g, '') === '1101'`)
	k.put("big/new", "k2", "2")
	k.put("big/s1099", "k2", "2")
	k.put("big/last", "k3", "3")
	large.wait(`document.getElementById('state-title').textContent.replace(/\D/g, '') === '1102'`)

	// The page of the docs shows the same.
	documented := c.newPage()
	documented.open(docs.URL)
	documented.wait(`document.title === 'Readers'`)
	documented.waitText("tr", "1*")
	documented.waitText("td", "alice/"+evil)

	// The server is killed. The page says so, keeps what it has, and goes on.
	k.kill()
	p.waitText("#status", "No server at 127.0.0.1")
	p.waitText("#state-rows", `alice/`+evil)
	k.restart()
	k.put("alice/profile", "k4", `"back"`)
	p.waitText("#status", "Live")
	p.waitText("#room-said", "Live")
	p.waitText("#state-rows", `"back"`)
	p.waitText("#topics", "Nobody reads anything.")
	checkRoomInBrowser(p, k, k.killAndRestart)
	checkKeyboard(p, k)
	checkAccessible(p, k)
	checkHung(p, k)
	p.checkQuiet(k.base)
}

// pageOfDocs returns the page in docs/board.md.
func pageOfDocs(t *testing.T) string {
	b, err := os.ReadFile("../../docs/board.md")
	if err != nil {
		t.Error(err)
	}
	_, rest, _ := strings.Cut(string(b), "```html\n")
	page, _, _ := strings.Cut(rest, "```")
	return page
}

// checkRoomInBrowser follows a room by an EventSource and nothing else, while changes are appended
// and kill kills a server: there is one state, and then each change once and in order.
func checkRoomInBrowser(p *browserPage, k *killable, kill func()) {
	t := k.t
	t.Helper()
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	k.put("carol/log/0", "first", "0")
	p.value(`void (() => {
		window.got = []
		window.lost = 0
		const room = new EventSource('/api/room/carol')
		for (const type of ['state', 'live', 'PUT', 'DEL']) {
			room.addEventListener(type, e => {
				const ev = JSON.parse(e.data)
				got.push(type === 'PUT' ? ev.value : type === 'DEL' ? ev.path : type)
			})
		}
		room.onerror = () => { lost++ }
	})()`)
	p.wait(`got.join() === 'state,0,live'`)
	want := []string{"state", "0", "live"}
	kills := longtest.Scale(4, 4, 8)
	for i := range kills {
		n := 10 + r.IntN(30)
		at := r.IntN(n)
		var killing sync.WaitGroup
		for j := range n {
			if j == at {
				killing.Go(kill)
			}
			key, name := fmt.Sprintf("%d.%d", i, j), fmt.Sprint("log/", r.IntN(4))
			if r.IntN(4) == 0 {
				k.put("carol/"+name, key, "")
				want = append(want, name)
				continue
			}
			k.put("carol/"+name, key, strconv.Itoa(i*100+j+1))
			want = append(want, strconv.Itoa(i*100+j+1))
		}
		killing.Wait()
	}
	const last = "9999" // a change like no other: a deletion has only the name of its path
	k.put("carol/log/0", "last", last)
	want = append(want, last)
	p.wait(`String(got.filter(x => x !== 'live').at(-1)) === '` + last + `'`)
	withoutLive := func(all []string) []string { // there is one for each connection
		return slices.DeleteFunc(all, func(s string) bool { return s == "live" })
	}
	got := withoutLive(strings.Split(strings.Trim(p.value(`got.join()`), `"`), ","))
	if want = withoutLive(want); !slices.Equal(got, want) {
		t.Errorf("over %d kills the browser got\n%v\nwant\n%v", kills, got, want)
	}
}

// checkKeyboard uses the page without a mouse.
func checkKeyboard(p *browserPage, k *killable) {
	k.t.Helper()
	defer k.read("alice", "")()
	defer k.read("bob", "")()
	p.resize(1280, 900, false)
	p.open(k.base + "/dashboard")
	p.waitText("#topic-rows", "bob")
	focusOn := func(key, condition string) {
		k.t.Helper()
		for range 20 {
			p.press(key)
			if p.value("document.activeElement.matches(':focus-visible') && getComputedStyle(document.activeElement).outlineStyle === 'solid'") != "true" {
				continue
			}
			if p.value("(e => "+condition+")(document.activeElement)") == "true" {
				return
			}
		}
		k.t.Fatalf("no element with the focus: %s", condition)
	}
	focusOn("Tab", "e.id === 'filter'")
	p.write("BOB")
	p.waitNone("#topic-rows", "alice")
	focusOn("Tab", "e.innerText === 'bob'")
	p.press("Enter")
	p.wait("document.activeElement.id === 'room-title' && location.hash === '#bob'")
	p.waitText("#room-said", "Live")
	focusOn("Tab", "e.id === 'close'")
	p.press("Enter")
	p.wait("document.getElementById('room-body').hidden")
	focusOn("Tab", "e.id === 'topic'")
	p.write("alice")
	p.press("Enter")
	p.waitText("#state-rows", "alice/profile")
	focusOn("Tab", "e.innerText === 'alice/profile'")
	p.press("Enter")
	p.waitText("#room-title", "alice/profile$")
	focusOn("Shift+Tab", "e.id === 'filter'")
}

// checkAccessible looks for what makes the page hard to use.
func checkAccessible(p *browserPage, k *killable) {
	k.t.Helper()
	defer k.read("alice", "")()
	p.open(k.base + "/dashboard#alice")
	for _, width := range []int{1280, 360} {
		for _, dark := range []bool{false, true} {
			p.resize(width, 900, dark)
			p.waitText("#state-rows", "alice/profile")
			p.runAxe()
		}
	}
}

// runAxe fails if axe finds anything in the page.
func (p *browserPage) runAxe() {
	p.c.t.Helper()
	axe, err := os.ReadFile("../../testdata/axe/axe.min.js")
	if err != nil {
		p.c.t.Fatal(err)
	}
	if p.value("typeof window.axe") == `"undefined"` {
		p.value(string(axe) + "; 0")
	}
	found := p.value(`axe.run().then(r => r.violations.map(v => v.id + ': ' + v.help + ': ' + v.nodes.map(n => n.html + ' ' + n.failureSummary).join('; ')))`)
	if found != "[]" {
		p.c.t.Errorf("axe finds %s", found)
	}
}

// checkHung stops the server, which then closes no connection.
func checkHung(p *browserPage, k *killable) {
	k.t.Helper()
	p.open(k.base + "/dashboard")
	p.waitText("#status", "Live")
	signal := func(s os.Signal) {
		if err := k.cmd.Process.Signal(s); err != nil {
			k.t.Fatal(err)
		}
	}
	signal(syscall.SIGSTOP)
	p.waitText("#status", "No server at")
	signal(syscall.SIGCONT)
	p.waitText("#status", "Live")
}

// TestDashboardLogin: a stranger gets a form and nothing else.
func TestDashboardLogin(t *testing.T) {
	longtest.Require(t)
	t.Parallel()
	c := startChromium(t)
	if c == nil {
		return
	}
	w := &walker{t: t, dir: t.TempDir()}
	token := w.newTokens()
	all, ops, blind := token("--sub root --read *"), token("--sub ops --read alice --board read"), token("--sub bob --read *")
	k := startKillable(w, "--keys keys.json --revoked revoked")
	defer k.read("alice/posts", all)()
	defer k.read("carol", all)()

	p, stranger := c.newPage(), c.newPage()
	for _, page := range []*browserPage{p, stranger} {
		page.open(k.base + "/dashboard#alice")
		page.waitText("h1", "rstream")
	}
	checkStranger := func(page *browserPage) {
		t.Helper()
		page.wait(`document.activeElement.id === 'token' && !document.querySelector('table') && document.cookie === ''`)
	}
	logIn := func(with string) {
		t.Helper()
		p.value(`document.getElementById('token').focus()`)
		p.write(with)
		p.press("Enter")
	}
	checkStranger(p)
	p.runAxe()
	p.resize(360, 740, true)
	p.wait(`document.documentElement.scrollWidth === 360`)
	p.runAxe()
	p.resize(1280, 900, false)
	p.value(`window.direct = fetch, window.fetch = async () => new Response('<p>', {status: 502}), 0`)
	logIn("letmein")
	p.waitText("#problem", "Something else answers in place of the server, with status 502.")
	p.value(`window.fetch = direct, 0`)
	logIn("letmein")
	p.waitText("#problem", "token")
	logIn(blind)
	p.waitText("#problem", "The token does not allow to see the board.")
	logIn(ops)
	p.waitText("#status", "Live")
	p.waitText("#topic-rows", "alice/posts")
	p.wait(`location.hash === '#alice' && document.cookie === ''`)
	p.waitText("#room-said", "Live")
	p.waitText("header", "ops")
	if text := p.value("document.body.innerText"); strings.Contains(text, "carol") {
		t.Errorf("the page shows what the token does not cover: %s", text)
	}
	p.runAxe()
	stranger.open(k.base + "/dashboard")
	stranger.waitText("h1", "rstream")
	checkStranger(stranger)
	p.click("#logout")
	p.waitText("main", "Token")
	checkStranger(p)

	// A revoked token ends the page as well.
	logIn(ops)
	p.waitText("#status", "Live")
	_, claims, err := auth.ReadToken(ops)
	if err != nil {
		t.Fatal(err)
	}
	w.write("revoked", claims.ID+"\n")
	if err := k.cmd.Process.Signal(syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	p.waitText("main", "Token")
	p.checkQuiet(k.base)
	stranger.checkQuiet(k.base)
}
