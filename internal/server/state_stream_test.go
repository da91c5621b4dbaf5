package server

import (
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/internal/auth"
	"github.com/rstream-dev/rstream/internal/longtest"
	"github.com/rstream-dev/rstream/internal/wire"
)

// A stateReader follows a state as an EventSource does: all that it keeps over connections is
// the last id, and the state that its page has.
type stateReader struct {
	t      *testing.T
	target string
	id     string
	state  map[string]string // lines by storage
	states int               // number of states that began
	events int               // number of changes
}

// connect reads a stream up to live, or only a number of blocks if that is positive.
func (r *stateReader) connect(s *served, blocks int) {
	r.t.Helper()
	var header []string
	if r.id != "" {
		header = []string{"Last-Event-ID", r.id}
	}
	fs, closer := s.stream(r.target, header...)
	defer closer.Close()
	deadline := time.Now().Add(time.Minute)
	for blocks--; blocks != 0; blocks-- {
		f, err := fs.nextBefore(deadline)
		if err != nil {
			r.t.Fatal(err)
		}
		if r.take(f); f.event == wire.LiveEvent {
			return
		}
	}
}

func (r *stateReader) take(f frame) {
	r.t.Helper()
	if f.event == wire.StateEvent {
		r.id, r.state = "", map[string]string{}
		r.states++
	}
	if f.event == string(event.Put) || f.event == string(event.Del) {
		ev, err := event.ParseLine([]byte(f.data))
		if err != nil {
			r.t.Fatal(err)
		}
		if f.id != "" {
			r.events++
			if r.id != "" && f.position(r.t) <= (frame{id: r.id}).position(r.t) {
				r.t.Fatalf("%s comes after %s", f.id, r.id)
			}
		}
		if delete(r.state, ev.Storage().String()); ev.Type == event.Put {
			r.state[ev.Storage().String()] = f.data
		}
	}
	if f.id != "" {
		r.id = f.id
	}
}

// check compares the state with that of a snapshot as lines.
func (r *stateReader) check(s *served, topic string) {
	r.t.Helper()
	want := strings.Split(strings.TrimSuffix(body(r.t, s.get("/snapshot?topic="+url.QueryEscape(topic), "Accept", wire.NDJSON)), "\n"), "\n")
	got := slices.Sorted(maps.Values(r.state))
	if slices.Sort(want); len(got) > 0 && !slices.Equal(got, want) || len(got) == 0 && want[0] != "" {
		r.t.Fatalf("%s: the reader has\n%s\nwant\n%s", r.target, strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

// TestStateStream: a reader that is cut off anywhere, and servers that are restarted, change
// nothing: it has the state. The horizon may pass it meanwhile.
func TestStateStream(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	for round := range longtest.Size(30, 1000) {
		synctest.Test(t, func(t *testing.T) { runStateStream(t, rand.New(rand.NewPCG(seed, uint64(round)))) })
	}
}

func runStateStream(t *testing.T, r *rand.Rand) {
	log := newLog()
	s, stop := serve(t, log, Config{})
	defer func() { stop() }()
	targets := map[string]string{"a": "/snapshot?topic=a", "a/p/1$": wire.PathRoom + "a/p/1$", "*": "/snapshot?topic=*"}
	topic := slices.Sorted(maps.Keys(targets))[r.IntN(3)]
	reader := &stateReader{t: t, target: targets[topic]}
	n := 0
	for range 30 {
		switch k := r.IntN(10); {
		case k < 6:
			d := event.Draft{User: []string{"a", "b"}[r.IntN(2)], Path: fmt.Sprint("p/", r.IntN(6)), Type: event.Put, Key: fmt.Sprint(n), Value: fmt.Append(nil, n)}
			if r.IntN(3) == 0 {
				d.Type, d.Value = event.Del, nil
			}
			n++
			if _, err := log.Append(t.Context(), []event.Draft{d}); err != nil {
				t.Fatal(err)
			}
		case k < 9:
			reader.connect(s, r.IntN(8))
		default:
			stop()
			if r.IntN(2) == 0 {
				log.set(func() { log.horizon = log.head() })
			}
			s, stop = serve(t, log, Config{})
		}
	}
	reader.connect(s, 0)
	reader.check(s, topic)
}

// TestStateStreamFollows: the state, then each change once, over a lost connection.
func TestStateStreamFollows(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := newLog()
		log.put(t, "a", "p", 3)
		s, stop := serve(t, log, Config{})
		defer stop()
		reader := &stateReader{t: t, target: "/snapshot?topic=a"}
		reader.connect(s, 0)
		log.put(t, "a", "q", 2)
		log.put(t, "b", "p", 1)
		reader.connect(s, 0)
		if reader.check(s, "a"); reader.states != 1 || reader.events != 2 {
			t.Errorf("%d states and %d changes, want 1 and 2", reader.states, reader.events)
		}
		// A cursor that is not of this log: the state takes the place of all that the reader had.
		for _, id := range []string{"0000000000009", log.cursor(3).String()[:14] + "ZZZZZ", log.cursor(5).String()[:20] + "ZZZZZZ", "ABCDEFGH.7"} {
			reader.id = id
			reader.state["x"] = "of another log"
			before := reader.states
			reader.connect(s, 0)
			if reader.check(s, "a"); reader.states != before+1 {
				t.Errorf("after %s there were %d states", id, reader.states-before)
			}
		}
		// From a moment on.
		reader = &stateReader{t: t, target: "/snapshot?topic=a&at=0000000000002"}
		reader.connect(s, 0)
		if reader.check(s, "a"); reader.events != 3 {
			t.Errorf("%d changes since then, want 3", reader.events)
		}
		// With an end.
		fs, closer := s.stream("/snapshot?topic=a&at=0000000000001&until=0000000000003")
		defer closer.Close()
		deadline := time.Now().Add(time.Minute)
		for {
			f, err := fs.nextBefore(deadline)
			if err == io.EOF {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
			reader.take(f)
		}
		if reader.id != log.cursor(3).String() {
			t.Errorf("the stream ended at %s", reader.id)
		}
		if resp := s.get("/snapshot?topic=a&until=0000000000003", "Accept", wire.SSE, "Last-Event-ID", reader.id); resp.StatusCode != http.StatusNoContent {
			t.Errorf("the end: %s", resp.Status)
		}
	})
}

// TestRoom: a room has the state and its readers, and then sends the changes of both.
func TestRoom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := newLog()
		log.put(t, "a", "p", 2)
		s, stop := serve(t, log, Config{})
		defer stop()
		for _, topic := range []string{"*", "a/q", "a/p/1$"} {
			_, reading := s.stream("/events?since=now&topic=" + topic)
			defer reading.Close()
		}
		want := `{"topic":"a/p$","connections":[{"node":"` + logName + `","id":1,"topics":["*"],`
		if text := body(t, s.get(wire.PathRoom+"a/p$")); !strings.HasPrefix(text, want) || strings.Contains(text, `"id":2`) || !strings.Contains(text, `"at":"`+log.cursor(2).String()+`","events":[{"id":"0000000000002"`) {
			t.Errorf("the room is %s", text)
		}
		fs, room := s.stream(wire.PathRoom + "a/p$")
		defer room.Close()
		next := func(name string, data string) {
			t.Helper()
			deadline := time.Now().Add(time.Minute)
			for {
				f, err := fs.nextBefore(deadline)
				if err != nil {
					t.Fatal(err)
				}
				if f.event == "" {
					continue
				}
				if f.event != name || !strings.Contains(f.data, data) {
					t.Fatalf("%v, want %s with %s", f, name, data)
				}
				return
			}
		}
		next("state", log.cursor(2).String())
		next("PUT", "")
		next("readers", `"id":1,"topics":["*"]`)
		next("live", "")
		_, reading := s.stream("/get?since=now&id=a/p")
		next("opened", `"topics":["a/p$"]`)
		log.put(t, "a", "p", 1)
		next("PUT", "")
		_, other := s.stream("/get?since=now&id=a/x")
		defer other.Close()
		_ = reading.Close()
		next("closed", `"id":4`)
		log.put(t, "a", "x", 1)
		began := time.Now()
		f, err := fs.next()
		for err == nil && f.event == lagEvent { // of the others, who do not read
			f, err = fs.next()
		}
		if err != nil || f.event != "" || f.position(t) != 4 || time.Since(began) > 20*time.Second {
			t.Errorf("%v, %v after %s, want a heartbeat", f, err, time.Since(began))
		}
		if n := s.readers.Open(); n != 4 {
			t.Errorf("%d connections on the board, want 4: a viewer is none", n)
		}
	})
}

// TestRoomRights: a room needs both rights, and shows what either of them shows.
func TestRoomRights(t *testing.T) {
	ring := newKeyring(t, auth.Config{})
	log, evs := guardedLog(t)
	s, stop := serve(t, log, Config{Guard: ring.guard})
	defer stop()
	for _, granted := range slices.Sorted(maps.Keys(allowed)) {
		for _, right := range []auth.BoardRight{auth.NoBoard, auth.BoardRead, auth.BoardWrite} {
			token := bearer(ring.grant([]string{granted}, nil, func(c *auth.Claims) { c.Rights.Board = right }))
			for _, ask := range asks {
				for _, accept := range []string{wire.JSON, wire.SSE} {
					target := wire.RoomPath(topicsOf(t, ask)[0])
					if accept == wire.SSE {
						target += "?until=now"
					}
					resp := s.get(target, "Accept", accept, "Authorization", token)
					text := body(t, resp)
					name := fmt.Sprintf("%s as %s with %s and the board %q", ask, accept, granted, right)
					checkSecrets(t, name, resp, text, secretsOf(evs, granted))
					want := http.StatusForbidden
					if right == auth.BoardRead && slices.Contains(allowed[granted], ask) {
						want = http.StatusOK
					}
					if resp.StatusCode != want {
						t.Errorf("%s: %s %s", name, resp.Status, text)
					}
				}
			}
		}
	}
}
