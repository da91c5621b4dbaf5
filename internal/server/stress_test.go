package server

import (
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/internal/wire"
)

// Readers that join anywhere at any time, whose queues overflow and who are cut
// now and then get every event of their topics once and in order, while appends go
// on.
func TestStress(t *testing.T) {
	const commits, readers = 150, 20
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	for _, queue := range []int{1, 2, 8} {
		log := newLog()
		log.put(t, "a", "p", 100)
		log.look = 64
		s, stop := serve(t, log, Config{Queue: queue, Heartbeat: 2 * time.Millisecond})
		var reading, beginning sync.WaitGroup
		for i := range readers {
			rnd := rand.New(rand.NewPCG(seed, uint64(queue*readers+i)))
			topic := []string{"a", "b", "*/p", "a/p/q", "*"}[rnd.IntN(5)]
			beginning.Add(1)
			reading.Go(func() {
				start := event.ID(rnd.Uint64N(uint64(log.Head() + 1)))
				beginning.Done()
				follow(t, s, log, rnd, topic, start)
			})
		}
		appendRandomly(t, log, rand.New(rand.NewPCG(seed, 0)), commits)
		beginning.Wait() // a reader that began at the last events would wait for them forever
		appendLast(t, log)
		reading.Wait()
		stop()
	}
}

// lastPath is the path of the event that ends all readers.
const lastPath = "p/q/last"

func appendRandomly(t *testing.T, log *memLog, rnd *rand.Rand, commits int) {
	for i := range commits {
		var drafts []event.Draft
		for j := range 1 + rnd.IntN(20) {
			drafts = append(drafts, event.Draft{
				User: []string{"a", "b"}[rnd.IntN(2)], Path: []string{"p", "p/q", "x"}[rnd.IntN(3)],
				Type: event.Put, Key: fmt.Sprintf("%d.%d", i, j), Value: []byte("1"),
			})
		}
		if _, err := log.Append(t.Context(), drafts); err != nil {
			t.Error(err)
		}
	}
}

func appendLast(t *testing.T, log *memLog) {
	var last []event.Draft
	for _, user := range []string{"a", "b"} {
		last = append(last, event.Draft{User: user, Path: lastPath, Type: event.Put, Key: "last", Value: []byte("1")})
	}
	if _, err := log.Append(t.Context(), last); err != nil {
		t.Error(err)
	}
}

// follow reads a topic from start to the end, over several streams.
func follow(t *testing.T, s *served, log *memLog, rnd *rand.Rand, name string, start event.ID) {
	topics := topicsOf(t, name)
	at, got := start, []event.ID(nil)
	for done := false; !done; {
		resp, err := s.tryGet(t.Context(), "/events?topic="+name, "Accept", wire.SSE, wire.HeaderLastEventID, event.CursorOf(at, logName).String())
		if err != nil {
			t.Error(err)
			return
		}
		fs := newFrames(resp.Body)
		for n := rnd.IntN(400); n > 0 && !done; n-- {
			f, err := fs.next()
			if err != nil {
				t.Error(err)
				return
			}
			if f.id == "" {
				continue // the preamble
			}
			if at = f.position(t); f.event != string(event.Put) {
				continue
			}
			ev, err := event.ParseLine([]byte(f.data))
			if err != nil || ev.ID != at {
				t.Errorf("frame %q: %v", f, err)
				return
			}
			got = append(got, ev.ID)
			done = ev.Path == lastPath && (ev.User == "b" || name[0] == 'a')
		}
		resp.Body.Close()
	}
	want := idsOf(log.filter(topics, start, log.Head()))
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("%s after %s: %d events, want %d:\n%v\n%v", name, start, len(got), len(want), got, want)
	}
}
