package server

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/internal/auth"
	"github.com/rstream-dev/rstream/internal/wire"
	"github.com/rstream-dev/rstream/reconcile"
	"github.com/rstream-dev/rstream/window"
)

// A standInMirror passes appends on to a log that tests see.
type standInMirror struct {
	to            Appender
	authorization []string
	awaited       []event.ID
	notReady, err error
	topics        []event.Topic // none: all
	marks         map[event.ID]event.Mark
	asked         []event.Point
}

func (m *standInMirror) Append(ctx context.Context, from wire.Caller, drafts []event.Draft) ([]event.Receipt, error) {
	m.authorization = append(m.authorization, from.Authorization)
	if m.err != nil {
		return nil, m.err
	}
	return m.to.Append(ctx, drafts)
}

func (m *standInMirror) Await(_ context.Context, at event.ID) error {
	m.awaited = append(m.awaited, at)
	return m.err
}

func (m *standInMirror) Follows(topic event.Topic) bool {
	return len(m.topics) == 0 || slices.ContainsFunc(m.topics, func(t event.Topic) bool { return t.Contains(topic) })
}

func (m *standInMirror) Has(_ context.Context, at event.Point) (bool, error) {
	m.asked = append(m.asked, at)
	return m.marks[at.ID] == at.Mark, m.err
}

func (m *standInMirror) Advanced()    {}
func (m *standInMirror) Ready() error { return m.notReady }
func (m *standInMirror) Report() wire.Mirror {
	return wire.Mirror{Upstream: "http://upstream", Events: 3, Topics: m.topics}
}

// The server of a mirror passes on the credentials of the caller, whether they came in a header
// or in a cookie, and those of nobody else.
func TestPassOn(t *testing.T) {
	log := newLog()
	k := newKeyring(t, auth.Config{})
	m := &standInMirror{to: log}
	s, stop := serve(t, log, Config{Guard: k.guard, Mirror: m})
	defer stop()
	token := k.grant([]string{"*"}, []string{"a"}, nil)
	const request = "POST /set/a/p HTTP/1.1\nHost: localhost\n%sContent-Length: 11\n\n{\"value\":1}"
	for header, want := range map[string]int{
		"":                                      http.StatusUnauthorized,
		"Authorization: Bearer " + token + "\n": http.StatusCreated,
		"Cookie: rstream=" + token + "\nOrigin: http://localhost\n": http.StatusCreated,
	} {
		m.authorization = nil
		resp, _ := s.raw(fmt.Sprintf(request, header))
		if resp.StatusCode != want {
			t.Errorf("with %.20q: %s", header, resp.Status)
		}
		if want == http.StatusCreated && (len(m.authorization) != 1 || m.authorization[0] != bearer(token)) || want != http.StatusCreated && len(m.authorization) > 0 {
			t.Errorf("with %.20q: %d credentials were passed on", header, len(m.authorization))
		}
	}
}

// A cursor above the head is awaited wherever it stands; others, and those of other logs, cost
// nothing. What the mirror refuses is the response.
func TestAwaitCursors(t *testing.T) {
	log := newLog()
	log.put(t, "a", "p", 9)
	m := &standInMirror{}
	s, stop := serve(t, log, Config{Mirror: m})
	defer stop()
	const ahead, here, other = "0000000000020", "0000000000005", "0000000000020.ZZZZZ"
	for name, c := range map[string]struct {
		target string
		header []string
		awaits bool
	}{
		"since":       {"/events?topic=a&since=" + ahead, nil, true},
		"until":       {"/events?topic=a&until=" + ahead, nil, true},
		"at":          {"/snapshot?topic=a&at=" + ahead, nil, true},
		"resumed":     {"/events?topic=a", []string{wire.HeaderLastEventID, ahead}, true},
		"held":        {"/healthz", []string{wire.HeaderHeld, ahead}, true},
		"here":        {"/events?topic=a&since=" + here, []string{wire.HeaderHeld, here}, false},
		"other log":   {"/events?topic=a", []string{wire.HeaderLastEventID, other}, false},
		"time":        {"/events?topic=a&since=2h", nil, false},
		"not a query": {"/events?topic=%zz", nil, false},
	} {
		m.awaited, m.err = nil, nil
		body(t, s.get(c.target, c.header...))
		if got := len(m.awaited) == 1 && m.awaited[0] == 64; got != c.awaits {
			t.Errorf("%s: awaited %v", name, m.awaited)
		}
		if m.err = wire.Errorf(http.StatusServiceUnavailable, "not yet"); c.awaits {
			if resp := s.get(c.target, c.header...); resp.StatusCode != http.StatusServiceUnavailable {
				t.Errorf("%s: refused with %s", name, resp.Status)
			}
		}
	}
}

// A stream that begins with a state continues with one if the mirror cannot have the cursor of its
// reader: an EventSource would not come back after an error. What its parameters name is needed.
func TestStateStreamAheadOfAMirror(t *testing.T) {
	log := newLog()
	log.put(t, "a", "p", 9)
	m := &standInMirror{err: wire.Errorf(http.StatusServiceUnavailable, "not yet")}
	s, stop := serve(t, log, Config{Mirror: m})
	defer stop()
	const ahead = "0000000000020"
	for target, want := range map[string]int{
		"/snapshot?topic=a":                     http.StatusOK,
		"/api/room/a":                           http.StatusOK,
		"/snapshot?topic=a&at=" + ahead:         http.StatusServiceUnavailable,
		"/events?topic=a":                       http.StatusServiceUnavailable,
		"/snapshot?topic=a&until=000000000000H": http.StatusServiceUnavailable,
	} {
		ctx, cancel := context.WithCancel(t.Context())
		resp, err := s.tryGet(ctx, target, "Accept", wire.SSE, wire.HeaderLastEventID, ahead)
		if err != nil {
			t.Fatal(err)
		}
		if resp.StatusCode != want {
			t.Errorf("%s: %s, want %d", target, resp.Status, want)
		}
		cancel()
		resp.Body.Close()
	}
	for _, accept := range []string{wire.JSON, wire.SSE} {
		if resp := s.get("/snapshot?topic=a", "Accept", accept, wire.HeaderHeld, ahead); resp.StatusCode != http.StatusServiceUnavailable {
			t.Errorf("a reader that holds more, as %s: %s", accept, resp.Status)
		}
	}
	if resp := s.get("/snapshot?topic=a", wire.HeaderHeld, ahead); resp.StatusCode != http.StatusServiceUnavailable {
		t.Errorf("without a stream: %s", resp.Status)
	}
}

// The same holds for cursors and positions in the body of a request.
func TestAwaitCursorsOfBodies(t *testing.T) {
	log := newLog()
	log.put(t, "a", "p", 9)
	m := &standInMirror{}
	s, stop := serve(t, log, Config{Mirror: m})
	defer stop()
	const ahead = 64
	frames := func(to event.ID) string {
		req := reconcile.Request{Shared: true, Span: window.Span{To: to}}
		return string(req.AppendTo(nil))
	}
	for name, c := range map[string]struct {
		target, kind, body string
		awaits             bool
	}{
		"since":    {"/events", wire.FormData, "topic=a&since=0000000000020", true},
		"until":    {"/events", wire.FormData, "topic=a&until=0000000000020", true},
		"here":     {"/events", wire.FormData, "topic=a&since=0000000000005", false},
		"set":      {"/bloom?topic=a", wire.Frames, frames(ahead), true},
		"set here": {"/bloom?topic=a", wire.Frames, frames(9), false},
		"head":     {"/bloom?topic=a", wire.Frames, frames(event.MaxID), false},
	} {
		m.awaited, m.err = nil, wire.Errorf(http.StatusServiceUnavailable, "not yet")
		resp, text := s.raw(fmt.Sprintf("POST %s HTTP/1.1\nHost: localhost\nContent-Type: %s\nContent-Length: %d\n\n%s", c.target, c.kind, len(c.body), c.body))
		if got := len(m.awaited) == 1 && m.awaited[0] == ahead; got != c.awaits || got != (resp.StatusCode == http.StatusServiceUnavailable) {
			t.Errorf("%s: awaited %v, %s %s", name, m.awaited, resp.Status, text)
		}
	}
}

// A mirror says why it should be given no readers, and what it does not have.
func TestMirrorRoutes(t *testing.T) {
	m := &standInMirror{notReady: errors.New("at 5 of 9")}
	s, stop := serve(t, newLog(), Config{Mirror: m})
	defer stop()
	for target, want := range map[string]int{"/readyz": http.StatusServiceUnavailable, "/healthz": http.StatusOK, "/sources": http.StatusMisdirectedRequest, "/origin?id=0000000000001": http.StatusMisdirectedRequest} {
		if resp := s.get(target); resp.StatusCode != want {
			t.Errorf("GET %s: %s, want %d", target, resp.Status, want)
		}
	}
	m.notReady = nil
	if resp := s.get("/readyz"); resp.StatusCode != http.StatusOK {
		t.Errorf("GET /readyz: %s", resp.Status)
	}
}

// A mirror of some topics refuses others, after rights, and has the upstream judge marks of
// positions that it cannot judge.
func TestMirrorTopics(t *testing.T) {
	log := newLog()
	log.put(t, "a", "p", 3)
	k := newKeyring(t, auth.Config{})
	topic, err := event.ParseTopic("a")
	if err != nil {
		t.Fatal(err)
	}
	m := &standInMirror{topics: []event.Topic{topic}}
	s, stop := serve(t, log, Config{Guard: k.guard, Mirror: m})
	defer stop()
	own, all := bearer(k.grant([]string{"a", "b"}, nil, nil)), bearer(k.grant([]string{"*"}, nil, nil))
	for target, want := range map[string][2]int{
		"/events?topic=a&limit=1":        {http.StatusOK, http.StatusOK},
		"/events?topic=b":                {http.StatusMisdirectedRequest, http.StatusMisdirectedRequest},
		"/events?topic=c":                {http.StatusForbidden, http.StatusMisdirectedRequest},
		"/events?topic=*":                {http.StatusForbidden, http.StatusMisdirectedRequest},
		"/windows?topic=b&since=0&sum=1": {http.StatusMisdirectedRequest, http.StatusMisdirectedRequest},
		"/snapshot?topic=c":              {http.StatusForbidden, http.StatusMisdirectedRequest},
		"/storages?topic=b":              {http.StatusMisdirectedRequest, http.StatusMisdirectedRequest},
		"/bloom?topic=b":                 {http.StatusMisdirectedRequest, http.StatusMisdirectedRequest},
	} {
		for i, token := range []string{own, all} {
			if resp := s.get(target, "Authorization", token); resp.StatusCode != want[i] {
				t.Errorf("GET %s with token %d: %s, want %d", target, i, resp.Status, want[i])
			}
		}
	}
}

// A stuckMirror waits for the server that assigns the ids until its caller does not.
type stuckMirror struct{ standInMirror }

func (m *stuckMirror) Append(ctx context.Context, _ wire.Caller, _ []event.Draft) ([]event.Receipt, error) {
	<-ctx.Done()
	return nil, wire.Errorf(http.StatusServiceUnavailable, "it is unknown: %v", context.Cause(ctx))
}

// An append that is passed on and gets no answer is answered before a server that stops ends its
// connections.
func TestStopWhilePassingOn(t *testing.T) {
	bubble(t, Config{Mirror: &stuckMirror{}}, func(t *testing.T, s *served, _ *memLog) {
		began := time.Now()
		time.AfterFunc(time.Minute, s.Stop)
		resp, body := s.raw("POST /set/a/p HTTP/1.1\nHost: localhost\nContent-Length: 11\n\n{\"value\":1}")
		if resp.StatusCode != http.StatusServiceUnavailable || !strings.Contains(body, ErrStopped.Error()) {
			t.Errorf("the append got %s %s", resp.Status, body)
		}
		if took := time.Since(began) - time.Minute; took <= 0 || took >= 10*time.Second {
			t.Errorf("the answer came %s after the stop", took)
		}
	})
}

// A token cannot find out by guesses what a mirror of some topics has of others: whether a hash is of
// an event is nowhere to be seen.
func TestGuessesAtPartMirror(t *testing.T) {
	log := newLog()
	secret := event.Draft{User: "bob", Path: "salary", Type: event.Put, Value: []byte("73000")}
	if _, err := log.Append(t.Context(), []event.Draft{secret}); err != nil {
		t.Fatal(err)
	}
	k := newKeyring(t, auth.Config{})
	s, stop := serve(t, log, Config{Guard: k.guard, Mirror: &standInMirror{topics: topicsOf(t, "bob")}})
	defer stop()
	ask := func(token, value string) (status int) {
		guess := secret
		guess.Value = []byte(value)
		body := fmt.Sprintf(`{"hashes":[%q]}`, guess.Hash())
		resp, _ := s.raw(fmt.Sprintf("POST /get HTTP/1.1\nHost: localhost\nAuthorization: Bearer %s\nContent-Type: %s\nContent-Length: %d\n\n%s", token, wire.JSON, len(body), body))
		return resp.StatusCode
	}
	alice, bob := k.grant([]string{"alice"}, nil, nil), k.grant([]string{"bob"}, nil, nil)
	for _, c := range []struct {
		token, value string
		want         int
	}{{alice, "72000", 421}, {alice, "73000", 421}, {bob, "72000", 421}, {bob, "73000", 200}} {
		if got := ask(c.token, c.value); got != c.want {
			t.Errorf("a guess of %s with the rights of alice: %t: %d, want %d", c.value, c.token == alice, got, c.want)
		}
	}
}
