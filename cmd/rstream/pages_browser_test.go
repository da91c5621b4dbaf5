//go:build unix

package main

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/rstream-dev/rstream/internal/longtest"
	"github.com/rstream-dev/rstream/internal/server"
)

// hurry makes a page ask every 50 ms whether a server hangs, count these times in ticks, and take ten
// seconds for one.
const hurry = `(() => {
	const every = setInterval, after = setTimeout
	window.ticks = 0
	window.setInterval = (f, ms) => every(() => { ticks++; f() }, ms === 5000 ? 50 : ms)
	window.setTimeout = (f, ms, ...args) => after(f, ms === 10000 ? 1000 : ms, ...args)
})()`

// before runs a script in each page before those of the page.
func (p *browserPage) before(script string) {
	p.c.t.Helper()
	p.do("Page.addScriptToEvaluateOnNewDocument", params{"source": script}, nil)
}

// TestPagesInTrouble: what the pages do with a slow state, a room that is away, an unseen tab, and
// numbers that JavaScript cannot hold.
func TestPagesInTrouble(t *testing.T) {
	longtest.Require(t)
	t.Parallel()
	c := startChromium(t)
	if c == nil {
		return
	}
	db := openNewLog(t, filepath.Join(t.TempDir(), "log.db"))
	log := server.New(db, server.Config{})
	var boards atomic.Int64 // streams of the board
	complete := make(chan struct{})
	stream := func(w http.ResponseWriter, text string) {
		w.Header().Set("Content-Type", "text/event-stream")
		fmt.Fprint(w, "retry: 10\n\n", text)
		_ = http.NewResponseController(w).Flush() // fails only if the page is gone
	}
	const state, live = "event: state\ndata: {\"nodes\":[]}\n\n", "id: 1\nevent: live\ndata: {}\n\n"
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.URL.Path == "/api/connections":
			if boards.Add(1) == 1 { // it is lost at once
				stream(w, state+live)
				return
			}
			stream(w, state)
			select {
			case <-complete:
				stream(w, live)
				<-r.Context().Done()
			case <-r.Context().Done():
			}
		case r.URL.Path == "/api/room/gone":
			stream(w, "event: away\ndata: {\"detail\":\"a server that may have this room is away\"}\n\n")
		default:
			log.ServeHTTP(w, r)
		}
	}))
	defer func() {
		log.Stop()
		srv.CloseClientConnections()
		srv.Close()
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	}()

	p := c.newPage()
	p.before(hurry)
	p.open(srv.URL + "/dashboard")
	p.waitText("#status", "Connection lost.")
	p.wait(fmt.Sprintf("ticks > %s + 40", p.value("ticks")))
	if n := boards.Load(); n != 2 {
		t.Errorf("a state that takes long was asked for %d times", n-1)
	}
	close(complete)
	p.waitText("#status", "Live")
	p.open(srv.URL + "/dashboard#gone")
	p.waitText("#room-said", "A server that may have this room is away. Trying again…")
	p.waitText("#status", "Live")
	p.keepScreenshots("away")

	hidden := c.newPage()
	hidden.before(hurry + "; Object.defineProperty(document, 'hidden', {get: () => true})")
	hidden.open(srv.URL + "/dashboard")
	hidden.waitText("#status", "Paused")

	for i, value := range []string{"12345678901234567890", "1.0", `{"a":1.50,"value":[1e2]}`} {
		resp, err := http.Post(srv.URL+"/set/alice/n", "application/json", strings.NewReader(fmt.Sprintf(`{"key":"k%d","value":%s}`, i, value)))
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
	}
	p.open(srv.URL + "/")
	p.wait(`[...document.querySelectorAll('#events li')].map(li => li.lastChild.textContent).join(' ') === '{"a":1.50,"value":[1e2]} 1.0 12345678901234567890'`)
	p.keepScreenshots("front")
	p.checkQuiet(srv.URL)
	hidden.checkQuiet(srv.URL)
}

// TestLinksOfOtherSites: a link on another site leads to the page and not to the login, whose cookie
// a browser does not send there, and as often as it is followed. Who cannot log out is told.
func TestLinksOfOtherSites(t *testing.T) {
	longtest.Require(t)
	t.Parallel()
	c := startChromium(t)
	if c == nil {
		return
	}
	w := &walker{t: t, dir: t.TempDir()}
	ops := w.newTokens()("--sub ops --read * --board read")
	k := startKillable(w, "--keys keys.json")
	base := strings.Replace(k.base, "127.0.0.1", "localhost", 1) // another site than 127.0.0.1
	links := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/html")
		_, _ = io.WriteString(w, `<a id="board" href="`+base+`/dashboard#alice">board</a> <a id="plain" href="`+base+`/dashboard">board</a> <a id="front" href="`+base+`/#alice">front</a>`)
	}))
	defer links.Close()
	p := c.newPage()
	follow := func(link string) {
		t.Helper()
		p.open(links.URL)
		p.wait(`document.getElementById('front')`)
		p.click("#" + link)
	}
	follow("board")
	p.waitText("main", "Token")
	p.value(`document.getElementById('token').focus()`)
	p.write(ops)
	p.press("Enter")
	p.waitText("#status", "Live")
	for range 2 {
		follow("board")
		p.waitText("#room-said", "Live")
		p.wait(fmt.Sprintf("location.href === '%s/dashboard#alice'", base))
		follow("plain")
		p.waitText("#status", "Live")
		p.wait(fmt.Sprintf("location.href === '%s/dashboard'", base))
		follow("front")
		p.waitText("dd", "ops")
		p.waitText("#state", "live")
		p.wait(fmt.Sprintf("location.href === '%s/#alice'", base))
	}
	k.kill()
	p.click("#logout")
	p.waitText("#logout-said", "Not logged out: the server cannot be reached")
	p.keepScreenshots("front-logout")
	k.restart()
	p.open(base + "/dashboard")
	p.waitText("#status", "Live")
	k.kill()
	p.click("#logout")
	p.waitText("#logout-said", "Not logged out: the server cannot be reached")
	p.keepScreenshots("board-logout")
}
