//go:build unix

package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// A chromium is a browser that is driven by the Chrome DevTools Protocol over two pipes.
type chromium struct {
	t  *testing.T
	in *os.File

	mu      sync.Mutex
	last    int                       // id of the newest call
	waiting map[int]chan *devtoolsMsg // by id
	pages   map[string]*browserPage   // by session
	gone    bool
}

// A devtoolsMsg is an answer to a call, or an event.
type devtoolsMsg struct {
	ID        int             `json:"id"`
	SessionID string          `json:"sessionId"`
	Method    string          `json:"method"`
	Params    json.RawMessage `json:"params"`
	Result    json.RawMessage `json:"result"`
	Error     *struct {
		Message string `json:"message"`
	} `json:"error"`
}

// A browserPage is a page of a chromium, and what it has asked for and complained about.
type browserPage struct {
	c       *chromium
	session string

	mu         sync.Mutex
	requests   []string // URLs
	complaints []string // exceptions and errors, also of its policy
}

// startChromium starts a browser that ends with the test. It returns nil if there is none on this
// machine.
func startChromium(t *testing.T) *chromium {
	path, err := exec.LookPath("chromium")
	if err != nil {
		t.Log("without a browser: there is no chromium")
		return nil
	}
	fromTest, toBrowser, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	fromBrowser, toTest, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), path, "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
		"--disable-component-update", "--disable-sync", "--disable-extensions", "--disable-dev-shm-usage", "--hide-scrollbars", "--no-pings",
		"--disable-features=Translate,OptimizationHints,MediaRouter", "--no-startup-window", "--remote-debugging-pipe", "--user-data-dir="+filepath.Join(t.TempDir(), "profile"))
	cmd.ExtraFiles = []*os.File{fromTest, toTest} // 3 and 4
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Stderr = &lockedBuffer{} // Wait ends when all of its processes have closed it, and write no more
	cmd.WaitDelay = 10 * time.Second
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	_, _ = fromTest.Close(), toTest.Close()
	c := &chromium{t: t, in: toBrowser, waiting: map[int]chan *devtoolsMsg{}, pages: map[string]*browserPage{}}
	var reading sync.WaitGroup
	reading.Go(func() { c.read(fromBrowser) })
	t.Cleanup(func() {
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
		_ = cmd.Wait()
		reading.Wait()
		_, _ = toBrowser.Close(), fromBrowser.Close()
	})
	return c
}

// read takes what the browser says until it ends.
func (c *chromium) read(from io.Reader) {
	lines := bufio.NewReader(from)
	for {
		b, err := lines.ReadBytes(0)
		if err != nil {
			break
		}
		var m devtoolsMsg
		if err := json.Unmarshal(bytes.TrimSuffix(b, []byte{0}), &m); err != nil {
			continue
		}
		c.mu.Lock()
		answer, page := c.waiting[m.ID], c.pages[m.SessionID]
		delete(c.waiting, m.ID)
		c.mu.Unlock()
		if answer != nil {
			answer <- &m
		} else if page != nil {
			page.note(&m)
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.gone = true
	for _, answer := range c.waiting {
		close(answer)
	}
}

// call calls a method of the browser, or of the page of a session.
func (c *chromium) call(session, method string, params, result any) error {
	answer := make(chan *devtoolsMsg, 1)
	c.mu.Lock()
	c.last++
	id := c.last
	if c.gone {
		close(answer)
	} else {
		c.waiting[id] = answer
	}
	b, err := json.Marshal(struct {
		ID        int    `json:"id"`
		SessionID string `json:"sessionId,omitempty"`
		Method    string `json:"method"`
		Params    any    `json:"params,omitempty"`
	}{id, session, method, params})
	if err == nil {
		_, err = c.in.Write(append(b, 0))
	}
	c.mu.Unlock()
	if err != nil {
		return err
	}
	select {
	case m := <-answer:
		switch {
		case m == nil:
			return errors.New(method + ": the browser has ended")
		case m.Error != nil:
			return errors.New(method + ": " + m.Error.Message)
		case result == nil:
			return nil
		}
		return json.Unmarshal(m.Result, result)
	case <-time.After(time.Minute):
		return errors.New(method + ": the browser does not answer")
	}
}

type params map[string]any

// newPage opens a page with cookies of its own.
func (c *chromium) newPage() *browserPage {
	c.t.Helper()
	var context struct{ BrowserContextID string }
	var target struct{ TargetID string }
	var attached struct{ SessionID string }
	err := c.call("", "Target.createBrowserContext", nil, &context)
	if err == nil {
		err = c.call("", "Target.createTarget", params{"url": "about:blank", "browserContextId": context.BrowserContextID}, &target)
	}
	if err == nil {
		err = c.call("", "Target.attachToTarget", params{"targetId": target.TargetID, "flatten": true}, &attached)
	}
	if err != nil {
		c.t.Fatal(err)
	}
	p := &browserPage{c: c, session: attached.SessionID}
	c.mu.Lock()
	c.pages[p.session] = p
	c.mu.Unlock()
	for _, domain := range []string{"Page", "Runtime", "Log", "Network"} {
		p.do(domain+".enable", nil, nil)
	}
	p.resize(1280, 900, false)
	return p
}

// note notes an event of a page.
func (p *browserPage) note(m *devtoolsMsg) {
	var e struct {
		Request          struct{ URL string }
		Entry            struct{ Source, Level, Text, URL string }
		ExceptionDetails struct {
			Text      string
			Exception struct{ Description string }
		}
		Type string
		Args json.RawMessage
	}
	if json.Unmarshal(m.Params, &e) != nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case m.Method == "Network.requestWillBeSent":
		p.requests = append(p.requests, e.Request.URL)
	case m.Method == "Log.entryAdded" && e.Entry.Level == "error" && e.Entry.Source != "network":
		p.complaints = append(p.complaints, e.Entry.Source+": "+e.Entry.Text)
	case m.Method == "Runtime.exceptionThrown":
		p.complaints = append(p.complaints, e.ExceptionDetails.Text+" "+e.ExceptionDetails.Exception.Description)
	case m.Method == "Runtime.consoleAPICalled" && e.Type == "error":
		p.complaints = append(p.complaints, string(e.Args))
	}
}

// do calls a method of the page.
func (p *browserPage) do(method string, params, result any) {
	p.c.t.Helper()
	if err := p.c.call(p.session, method, params, result); err != nil {
		p.c.t.Fatal(err)
	}
}

// open loads a page, also if only the fragment of its URL is another one.
func (p *browserPage) open(url string) {
	p.c.t.Helper()
	p.do("Page.navigate", params{"url": "about:blank"}, nil)
	p.do("Page.navigate", params{"url": url}, nil)
}

func (p *browserPage) resize(width, height int, dark bool) {
	p.c.t.Helper()
	scheme := "light"
	if dark {
		scheme = "dark"
	}
	p.do("Emulation.setDeviceMetricsOverride", params{"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}, nil)
	p.do("Emulation.setEmulatedMedia", params{"features": []params{{"name": "prefers-color-scheme", "value": scheme}, {"name": "prefers-reduced-motion", "value": "reduce"}}}, nil)
}

// eval returns the value of an expression, or of its promise, as JSON.
func (p *browserPage) eval(expression string) (string, error) {
	var out struct {
		Result           struct{ Value json.RawMessage }
		ExceptionDetails *struct {
			Text      string
			Exception struct{ Description string }
		}
	}
	err := p.c.call(p.session, "Runtime.evaluate", params{"expression": expression, "awaitPromise": true, "returnByValue": true}, &out)
	if err == nil && out.ExceptionDetails != nil {
		err = fmt.Errorf("%s %s", out.ExceptionDetails.Text, out.ExceptionDetails.Exception.Description)
	}
	return string(out.Result.Value), err
}

// value returns the value of an expression, as JSON. undefined is "".
func (p *browserPage) value(expression string) string {
	p.c.t.Helper()
	v, err := p.eval(expression)
	if err != nil {
		p.c.t.Fatalf("%s: %v", expression, err)
	}
	return v
}

// wait waits until an expression is true, also in a page that is loaded meanwhile.
func (p *browserPage) wait(expression string) {
	p.c.t.Helper()
	late := time.Now().Add(time.Minute)
	for {
		// It looks at each change of the page, and seldom otherwise, since looking takes CPU time.
		v, err := p.eval(`new Promise(done => {
			const seen = new MutationObserver(() => look())
			const timer = setInterval(() => look(), 300), until = Date.now() + 2000
			const look = () => {
				let v = false
				try { v = !!(` + expression + `) } catch {}
				if (!v && Date.now() < until) return
				seen.disconnect()
				clearInterval(timer)
				done(v)
			}
			seen.observe(document, {subtree: true, childList: true, characterData: true, attributes: true})
			look()
		})`)
		if v == "true" {
			return
		}
		if time.Now().After(late) {
			text, _ := p.eval("document.body.innerText")
			p.c.t.Fatalf("%s is not true: %v\n%s\n%v", expression, err, strings.ReplaceAll(text, `\n`, "\n"), p.complaints)
		}
	}
}

// waitText waits until the text of the elements of a selector has a word.
func (p *browserPage) waitText(selector, word string) {
	p.c.t.Helper()
	p.wait(fmt.Sprintf("[...document.querySelectorAll(%q)].some(e => e.textContent.includes(%s))", selector, jsString(word)))
}

// waitNone waits until no text of the elements of a selector has a word.
func (p *browserPage) waitNone(selector, word string) {
	p.c.t.Helper()
	p.wait(fmt.Sprintf("![...document.querySelectorAll(%q)].some(e => e.textContent.includes(%s))", selector, jsString(word)))
}

func jsString(s string) string {
	b, err := json.Marshal(s)
	if err != nil {
		panic(err)
	}
	return string(b)
}

// press presses a key: Tab, Shift+Tab or Enter.
func (p *browserPage) press(key string) {
	p.c.t.Helper()
	code := map[string]int{"Tab": 9, "Shift+Tab": 9, "Enter": 13}[key]
	e := params{"type": "keyDown", "windowsVirtualKeyCode": code, "key": strings.TrimPrefix(key, "Shift+"), "code": strings.TrimPrefix(key, "Shift+")}
	if key == "Enter" {
		e["text"] = "\r"
	}
	if strings.HasPrefix(key, "Shift+") {
		e["modifiers"] = 8
	}
	p.do("Input.dispatchKeyEvent", e, nil)
	e["type"] = "keyUp"
	delete(e, "text")
	p.do("Input.dispatchKeyEvent", e, nil)
}

// write writes text into the element that has the focus.
func (p *browserPage) write(text string) {
	p.c.t.Helper()
	p.do("Input.insertText", params{"text": text}, nil)
}

// keepScreenshots keeps pictures of the page, wide and narrow, light and dark, in the folder that
// RSTREAM_TEST_SCREENSHOTS names.
func (p *browserPage) keepScreenshots(name string) {
	p.c.t.Helper()
	dir := os.Getenv("RSTREAM_TEST_SCREENSHOTS")
	if dir == "" {
		return
	}
	for _, width := range []int{1280, 360} {
		for _, dark := range []bool{false, true} {
			p.resize(width, 900, dark)
			var shot struct{ Data []byte }
			p.do("Page.captureScreenshot", params{"captureBeyondViewport": true}, &shot)
			if err := os.WriteFile(filepath.Join(dir, fmt.Sprintf("%s-%d-dark=%t.png", name, width, dark)), shot.Data, 0o600); err != nil {
				p.c.t.Fatal(err)
			}
		}
	}
	p.resize(1280, 900, false)
}

// click clicks into the middle of an element, as a mouse does.
func (p *browserPage) click(selector string) {
	p.c.t.Helper()
	var at [2]float64
	v := p.value(fmt.Sprintf(`(e => { e.scrollIntoView({block: 'center'}); const r = e.getBoundingClientRect(); return [r.x + r.width / 2, r.y + r.height / 2] })(document.querySelector(%q))`, selector))
	if err := json.Unmarshal([]byte(v), &at); err != nil {
		p.c.t.Fatal(err)
	}
	for _, kind := range []string{"mousePressed", "mouseReleased"} {
		p.do("Input.dispatchMouseEvent", params{"type": kind, "x": at[0], "y": at[1], "button": "left", "clickCount": 1}, nil)
	}
}

// checkQuiet fails if the page has asked another server for anything, or has complained.
func (p *browserPage) checkQuiet(own string) {
	p.c.t.Helper()
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, target := range p.requests {
		if u, err := url.Parse(target); err != nil || u.Scheme != "data" && u.Scheme != "about" && u.Scheme+"://"+u.Host != own {
			p.c.t.Errorf("the page asks for %s", target)
		}
	}
	for _, complaint := range slices.Compact(p.complaints) {
		p.c.t.Errorf("the page complains: %s", complaint)
	}
}
