package server

import (
	"fmt"
	"net/http"
	"regexp"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/rstream-dev/rstream/event"
)

var made = regexp.MustCompile(`^[A-Z2-7]{26}$`)

// set appends one event and returns it.
func (s *served) set(target, body string, status int) event.Event {
	s.t.Helper()
	resp, text := s.raw(post(target, body))
	if resp.StatusCode != status {
		s.t.Fatalf("%s %s: %d %s, want %d", target, body, resp.StatusCode, text, status)
	}
	ev, err := event.ParseLine([]byte(strings.TrimSuffix(text, "\n"))) // the hash covers the key
	if err != nil {
		s.t.Fatal(err)
	}
	return ev
}

// A lamp that is switched on, off and on is on, even without keys.
func TestAppendWithoutKey(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := newLog()
		s, stop := serve(t, log, Config{})
		defer stop()
		keys := map[string]bool{}
		for i, value := range []string{`"on"`, `"off"`, `"on"`} {
			ev := s.set("/set/a/lamp", `{"value":`+value+`}`, http.StatusCreated)
			if ev.ID != event.ID(i+1) || string(ev.Value) != value || !made.MatchString(ev.Key) || keys[ev.Key] {
				t.Errorf("append %d is %s", i, ev.Line())
			}
			keys[ev.Key] = true
		}
		s.set("/set/a/lamp", `{"type":"DEL"}`, http.StatusCreated)
		s.set("/set/a/lamp", `{"type":"DEL"}`, http.StatusCreated)
		// Sent again with the key of the answer, an append is the same event.
		last := s.set("/set/a/lamp", `{"value":1}`, http.StatusCreated)
		if again := s.set("/set/a/lamp", fmt.Sprintf(`{"value":1,"key":%q}`, last.Key), http.StatusOK); again.ID != last.ID {
			t.Errorf("%s, again %s", last.Line(), again.Line())
		}
	})
}

// An empty key is a key, and an event's line determines its key, if only by its hash.
func TestAppendWithEmptyKey(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := newLog()
		s, stop := serve(t, log, Config{})
		defer stop()
		first := s.set("/set/a/p", `{"value":1,"key":""}`, http.StatusCreated)
		if again := s.set("/set/a/p", `{"value":1,"k\u0065y":""}`, http.StatusOK); first.Key != "" || again.ID != first.ID {
			t.Errorf("%s, again %s", first.Line(), again.Line())
		}
		hash := first.Hash.String()
		for body, want := range map[string][]int{
			`{"user":"a","path":"p","value":1,"key":""}`:              {200},
			`{"user":"a","path":"p","value":1,"hash":"` + hash + `"}`: {200},
			string(first.Line()): {200},
			`{"user":"a","path":"p","value":1}` + "\n" + `{"user":"a","path":"p","value":1}`: {201, 201},
			`{"user":"a","path":"p","type":"DEL"}` + "\n\n" + string(first.Line()):           {201, 200},
		} {
			resp, text := s.raw(post("/set", body))
			if resp.StatusCode != http.StatusOK || strings.Count(text, "\n") != len(want) {
				t.Fatalf("%s: %d %s", body, resp.StatusCode, text)
			}
			for i, line := range strings.Split(strings.TrimSpace(text), "\n") {
				if !strings.HasPrefix(line, fmt.Sprintf(`{"status":%d,`, want[i])) {
					t.Errorf("%s: line %d is answered %s, want %d", body, i, line, want[i])
				}
			}
		}
	})
}
