package server

import (
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/internal/wire"
	"pgregory.net/rapid"
)

var cursorText = regexp.MustCompile(`[0-9A-Z]{13}\.` + logName[:event.LogSuffixLen] + `(\.[0-9A-Z]+)?`)

// given returns all cursors in responses of all kinds, and fails the test if one of them is not
// the expected cursor.
func given(t tester, log *memLog) map[string]event.Cursor {
	h, all := New(log, Config{}), map[string]event.Cursor{}
	head := log.Head().String()
	for accept, targets := range map[string][]string{
		wire.JSON:   {"/", "/events?topic=*&limit=3", "/get?id=a/p&limit=1", "/windows?topic=a&since=beginning", "/windows?topic=a&since=beginning&sum=1", "/windows?topic=*&at=now", "/snapshot?topic=*", "/bloom?topic=*"},
		wire.NDJSON: {"/events?topic=a&limit=2", "/events?topic=*", "/events?topic=*&last=2", "/snapshot?topic=*&at=2026-11-20T10:00:02Z"},
		wire.SSE:    {"/events?topic=*&until=" + head, "/events?topic=b&until=" + head},
	} {
		for _, target := range targets {
			header, text := ask(t, h, target, accept)
			for _, name := range []string{wire.HeaderHead, wire.HeaderFrom, wire.HeaderTo, wire.HeaderNext} {
				text += " " + header.Get(name)
			}
			for _, s := range cursorText.FindAllString(text, -1) {
				c, err := event.ParseCursor(s)
				if err != nil || c != log.cursor(c.ID) || (c.Mark == 0) != (c.ID == event.Beginning) {
					t.Fatalf("GET %s gives %s, want %s (%v)", target, s, log.cursor(c.ID), err)
				}
				all[s] = c
			}
		}
	}
	return all
}

// uses are the ways to send a cursor to a server.
func uses(c string) (requests []*http.Request) {
	q := url.QueryEscape(c)
	for _, target := range []string{
		"/events?topic=*&since=" + q, "/events?topic=*&until=" + q, "/events?topic=*&limit=0&since=" + q, "/get?id=a/p&since=" + q,
		"/windows?topic=*&at=" + q, "/windows?topic=*&since=" + q, "/windows?topic=*&since=beginning&until=" + q, "/snapshot?topic=*&at=" + q,
		"/bloom?topic=*&since=" + q, "/bloom?topic=*&until=" + q,
	} {
		requests = append(requests, httptest.NewRequest(http.MethodGet, target, nil))
	}
	r := httptest.NewRequest(http.MethodGet, "/events?topic=*&since=beginning&until=now", nil)
	r.Header.Set("Accept", wire.SSE)
	r.Header.Set(wire.HeaderLastEventID, c)
	requests = append(requests, r)
	for _, target := range []string{"/", "/healthz", "/metrics", "/events?topic=*", "/get?id=a/p", "/windows?topic=a&at=now", "/snapshot?topic=a", "/bloom?topic=*"} {
		r := httptest.NewRequest(http.MethodGet, target, nil)
		r.Header.Set(wire.HeaderHeld, c)
		requests = append(requests, r)
	}
	for target, body := range map[string]string{"/set/a/p": `{"value":1,"key":"never"}`, "/set": `{"user":"a","path":"p","value":1,"key":"never"}`, "/get": `{"hashes":[]}`, "/bloom": `{"items":[{"topic":"a"}]}`} {
		r := httptest.NewRequest(http.MethodPost, target, strings.NewReader(body))
		r.Header.Set(wire.HeaderHeld, c)
		requests = append(requests, r)
	}
	return requests
}

// A cursor is refused everywhere, before any event, if and only if the log has another event at
// its position than when it sent the cursor, whatever happened to the log since.
func TestMarksTellHistories(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		log := drawLog(t)
		old, cursors := slices.Clone(log.evs), given(t, log)
		back(t, log, rapid.IntRange(0, len(old)).Draw(t, "kept"))
		h := New(log, Config{})
		head := log.Head()
		for _, s := range slices.Sorted(maps.Keys(cursors)) {
			c := cursors[s]
			same := c.ID == event.Beginning || c.ID <= head && log.evs[c.ID-1].Mark() == old[c.ID-1].Mark()
			for _, r := range uses(s) {
				w := httptest.NewRecorder()
				h.ServeHTTP(w, r)
				if refused := w.Code == http.StatusConflict; refused == same || refused && strings.Contains(w.Body.String(), `"hash"`) {
					t.Fatalf("%s %s with %s of a log whose event is the same: %t: %d %s", r.Method, r.URL, s, same, w.Code, w.Body)
				}
				if !same && log.Head() != head {
					t.Fatalf("%s %s with %s appends", r.Method, r.URL, s)
				}
				if same && r.Method == http.MethodPost {
					log.set(func() { log.evs = log.evs[:head] })
				}
			}
			for _, bare := range []string{c.ID.String(), event.CursorOf(c.ID, logName).String()} {
				w := call(h, http.MethodGet, "/events?topic=*&limit=1&since="+bare)
				if want := map[bool]int{true: http.StatusOK, false: http.StatusConflict}[c.ID <= head]; w.Code != want {
					t.Fatalf("the unmarked cursor %s is answered with %d, want %d", bare, w.Code, want)
				}
			}
		}
		given(t, log)
	})
}

// back rolls a log back to its first events and appends others, and some of the old ones in
// another order.
func back(t *rapid.T, log *memLog, kept int) {
	lost := slices.Clone(log.evs[kept:])
	log.evs = log.evs[:kept:kept]
	at := time.Date(2026, 11, 20, 11, 0, 0, 0, time.UTC)
	if rapid.Bool().Draw(t, "at the same times") && len(lost) > 0 {
		at = lost[0].Time.Time()
	}
	log.now = func() time.Time { return at }
	var drafts []event.Draft
	for _, i := range rapid.Permutation(indexes(len(lost))).Draw(t, "again") {
		drafts = append(drafts, lost[i].Draft)
	}
	drafts = drafts[:rapid.IntRange(0, len(drafts)).Draw(t, "so many")]
	for i := range rapid.IntRange(0, 20).Draw(t, "others") {
		drafts = append(drafts, event.Draft{User: "a", Path: "p", Type: event.Put, Key: fmt.Sprint("other ", i), Value: []byte("1")})
	}
	if _, _, err := log.add(drafts); err != nil {
		t.Fatal(err)
	}
}

func indexes(n int) (all []int) {
	for i := range n {
		all = append(all, i)
	}
	return all
}

// The ids of a stream have the marks of their positions: in history, live events and
// heartbeats, even if the hub has not seen the event of a position.
func TestStreamMarks(t *testing.T) {
	bubble(t, Config{Queue: 2}, func(t *testing.T, s *served, log *memLog) {
		log.put(t, "a", "p", 3)
		log.put(t, "b", "p", 2)
		fs, body := s.stream("/events?topic=a")
		defer body.Close()
		check := func(kind string, id event.ID) {
			t.Helper()
			f, err := fs.next()
			if err != nil || f.event != kind || f.id != log.cursor(id).String() {
				t.Fatalf("%q, %v, want a %q at %s", f, err, kind, log.cursor(id))
			}
			if kind == wire.LiveEvent && !strings.Contains(f.data, `"head":"`+log.cursor(log.Head()).String()+`"`) {
				t.Fatalf("%q, want the head %s", f, log.cursor(log.Head()))
			}
		}
		for id := range event.ID(3) {
			check("PUT", id+1)
		}
		check(wire.LiveEvent, 5)
		check("", 5)
		log.put(t, "a", "p", 1)
		check("PUT", 6)
		log.put(t, "b", "p", 3)
		check("", 9)
		log.put(t, "a", "p", 200) // more than its queue takes
		for id := event.ID(10); id < 210; id++ {
			check("PUT", id)
		}
		log.set(func() {
			d := event.Draft{User: "b", Path: "p", Type: event.Put, Key: "unseen", Value: []byte("1")}
			log.evs = append(log.evs, event.New(210, event.TimeOf(log.now()), d, d.Hash()))
		})
		log.commit(nil, 210)
		check("", 210)
	})
}

// A held position below the horizon cannot be checked, which is not an error. At the horizon it
// can, even if the event was dropped.
func TestHeldBelowHorizon(t *testing.T) {
	log := longLog(20)
	log.horizon = 10
	h := New(log, Config{})
	wrong := func(id event.ID) string {
		c := log.cursor(id)
		c.Mark ^= 1
		return c.String()
	}
	for held, want := range map[string]int{
		wrong(9): 200, wrong(10): 409, wrong(11): 409, log.cursor(10).String(): 200, log.cursor(20).String(): 200,
		event.ID(21).String(): 409, event.ID(20).String(): 200, event.CursorOf(3, "ZZZZZ").String(): 409, "x": 400, "": 200,
	} {
		if w := call(h, http.MethodGet, "/", wire.HeaderHeld, held); w.Code != want {
			t.Errorf("GET / with %s held: %d %s, want %d", held, w.Code, w.Body, want)
		}
	}
	if w := call(h, http.MethodGet, "/events?topic=a&since="+wrong(9)); w.Code != http.StatusGone {
		t.Errorf("reading from below the horizon: %d", w.Code)
	}
	if w := call(h, http.MethodGet, "/", wire.HeaderHeld, log.cursor(1).String(), wire.HeaderHeld, log.cursor(2).String()); w.Code != http.StatusBadRequest {
		t.Errorf("two positions held: %d", w.Code)
	}
}
