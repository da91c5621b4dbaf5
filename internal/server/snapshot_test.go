package server

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/internal/wire"
	"github.com/rstream-dev/rstream/window"
	"pgregory.net/rapid"
)

type ctx = context.Context

// snapshotForms reads a snapshot in each of its forms, as lines.
var snapshotForms = map[string]func(t tester, text string, at event.ID) []string{
	wire.NDJSON: func(_ tester, text string, _ event.ID) (lines []string) {
		for line := range strings.Lines(text) {
			lines = append(lines, strings.TrimSuffix(line, "\n"))
		}
		return lines
	},
	wire.JSON: func(t tester, text string, at event.ID) (lines []string) {
		var body struct {
			At     event.Cursor      `json:"at"`
			Events []json.RawMessage `json:"events"`
		}
		if err := json.Unmarshal([]byte(text), &body); err != nil || body.At.ID != at || body.Events == nil || !strings.HasSuffix(text, "]}\n") {
			t.Fatalf("a snapshot at %s is %.300s: %v", at, text, err)
		}
		for _, ev := range body.Events {
			lines = append(lines, string(ev))
		}
		return lines
	},
}

// fold returns the state after the lines of GET /events.
func fold(t tester, text string) (lines []string) {
	state := map[string]string{}
	for line := range strings.Lines(text) {
		line = strings.TrimSuffix(line, "\n")
		ev, err := event.ParseLine([]byte(line))
		if err != nil {
			t.Fatal(err)
		}
		if delete(state, ev.User+"\x00"+ev.Path); ev.Type == event.Put {
			state[ev.User+"\x00"+ev.Path] = line
		}
	}
	var names []string
	for name := range state {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		lines = append(lines, state[name])
	}
	return lines
}

func TestSnapshotIsFold(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		log := drawLog(t)
		h := New(log, Config{})
		topic := topicsOf(t, someTopics.Draw(t, "topic"))[0]
		moment, at := drawMoment(t, log, "at")
		_, text := ask(t, h, "/events?"+(&wire.Query{Topics: []event.Topic{topic}, Until: &moment}).Values().Encode(), wire.NDJSON)
		want := fold(t, text)
		q := wire.SnapshotQuery{Topic: topic, At: moment}
		for accept, read := range snapshotForms {
			header, text := ask(t, h, "/snapshot?"+q.Values().Encode(), accept)
			if got := read(t, text, at); !slices.Equal(got, want) {
				t.Fatalf("the state of %s at %s as %s is\n%s\nwant\n%s", topic, moment, accept, got, want)
			}
			if n := len(want); n > 0 { // gone on with behind the middle one
				ev, err := event.ParseLine([]byte(want[n/2]))
				if err != nil {
					t.Fatalf("%v", err)
				}
				rest := wire.SnapshotQuery{Topic: topic, At: moment, After: ev.Storage()}
				_, text := ask(t, h, "/snapshot?"+rest.Values().Encode(), accept)
				if got := read(t, text, at); !slices.Equal(got, want[n/2+1:]) {
					t.Fatalf("the state of %s at %s after %s as %s is\n%s", topic, moment, ev.Storage(), accept, got)
				}
			}
			to, _ := wire.PositionIn(header, wire.HeaderTo)
			if to != at || header.Get("Content-Type") != accept || header.Get("Cache-Control") != "no-store" || !slices.Contains(header.Values("Vary"), "Accept") {
				t.Fatalf("the state at %s as %s has the headers %v", moment, accept, header)
			}
		}
	})
}

// A state that is larger than one write is sent completely.
func TestSnapshotOfMuch(t *testing.T) {
	log := newLog()
	value := []byte(`"` + strings.Repeat("x", 1000) + `"`)
	for i := range 300 {
		d := event.Draft{User: "a", Path: fmt.Sprintf("p/%03d", i), Type: event.Put, Key: fmt.Sprint(i), Value: value}
		if _, err := log.Append(t.Context(), []event.Draft{d}); err != nil {
			t.Fatal(err)
		}
	}
	s, stop := serve(t, log, Config{})
	defer stop()
	for accept, read := range snapshotForms {
		lines := read(t, body(t, s.get("/snapshot?topic=a", "Accept", accept)), log.Head())
		if len(lines) != 300 || lines[299] != string(log.evs[299].Line()) {
			t.Errorf("as %s there are %d events", accept, len(lines))
		}
	}
}

func TestSnapshotHead(t *testing.T) {
	log := longLog(5)
	h := New(brokenLog{memLog: log, snapshot: errors.New("is not to be read")}, Config{})
	w := call(h, http.MethodHead, "/snapshot?topic=a&at=0000000000003", "Accept", wire.NDJSON)
	if w.Code != http.StatusOK || w.Header().Get(wire.HeaderTo) != log.cursor(3).String() || w.Header().Get("Content-Type") != wire.NDJSON {
		t.Errorf("HEAD: %d %v", w.Code, w.Header())
	}
	if w := call(h, http.MethodHead, "/snapshot?topic=a&at=0000000000009"); w.Code != http.StatusConflict {
		t.Errorf("HEAD ahead of the log: %d", w.Code)
	}
}

// A failure is logged even if the client has left meanwhile; that it has left is none.
func TestFailureOfLeft(t *testing.T) {
	for _, c := range []struct {
		err    error
		logged bool
	}{{errors.New("on fire"), true}, {fmt.Errorf("read: %w", context.Canceled), false}} {
		var said strings.Builder
		h := New(brokenLog{memLog: longLog(5), snapshot: c.err}, Config{Logger: slog.New(slog.NewTextHandler(&said, nil))})
		ctx, leave := context.WithCancel(t.Context())
		leave()
		h.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest(http.MethodGet, "/snapshot?topic=*", nil).WithContext(ctx))
		if logged := strings.Contains(said.String(), "request failed"); logged != c.logged {
			t.Errorf("%v: logged %t: %s", c.err, logged, &said)
		}
	}
}

// An error before the first event gets a status. After it, the connection is aborted, so that no
// client takes a part for the whole.
func TestSnapshotFails(t *testing.T) {
	log := longLog(50)
	for _, c := range []struct {
		err    error
		status int
	}{
		{errors.New("on fire"), http.StatusInternalServerError},
		{&window.NotHeldError{After: 1, Oldest: 2, Some: true}, http.StatusGone},
	} {
		w := call(New(brokenLog{memLog: log, snapshot: c.err}, Config{}), http.MethodGet, "/snapshot?topic=*")
		if w.Code != c.status || w.Header().Get("Content-Type") != wire.Problem || !slices.Contains(w.Header().Values("Vary"), "Accept") || w.Header().Get(wire.HeaderTo) != "" {
			t.Errorf("%v: %d %v %s", c.err, w.Code, w.Header(), w.Body)
		}
	}
	big := newLog()
	for i := range 200 {
		d := event.Draft{User: "a", Path: fmt.Sprint(i), Type: event.Put, Value: []byte(`"` + strings.Repeat("x", 1000) + `"`)}
		if _, err := big.Append(t.Context(), []event.Draft{d}); err != nil {
			t.Fatal(err)
		}
	}
	for _, accept := range []string{wire.JSON, wire.NDJSON} {
		s, stop := serve(t, brokenLog{memLog: big, snapshot: errors.New("on fire"), after: 150}, Config{})
		resp := s.get("/snapshot?topic=*", "Accept", accept)
		text, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err == nil {
			t.Errorf("a snapshot that failed as %s is whole: %d bytes", accept, len(text))
		}
		stop()
	}
}

// GET / returns the log from which a log was restored.
func TestInfoParent(t *testing.T) {
	seven := event.ID(7)
	for _, c := range []struct {
		parent string
		parted event.ID
		want   *wire.Parent
	}{
		{"", 7, nil},
		{"0123456789ABCDEF", 7, &wire.Parent{Log: "0123456789ABCDEF", Head: &seven}},
		{"0123456789ABCDEF", event.MaxID, &wire.Parent{Log: "0123456789ABCDEF"}},
	} {
		log := longLog(9)
		log.parent, log.parted = c.parent, c.parted
		_, text := ask(t, New(log, Config{}), "/", wire.JSON)
		var info wire.Info
		if err := json.Unmarshal([]byte(text), &info); err != nil {
			t.Fatal(err)
		}
		if (info.Parent == nil) != (c.want == nil) || c.want != nil && !reflect.DeepEqual(info.Parent, c.want) || strings.Contains(text, "parent") != (c.want != nil) {
			t.Errorf("GET / = %s, want the parent %v", text, c.want)
		}
	}
}
