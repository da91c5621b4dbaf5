package mirror_test

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rstream-dev/rstream/cache"
	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/internal/longtest"
	"github.com/rstream-dev/rstream/internal/wire"
)

// samePart checks that two nodes say the same of topics that both have: the events, the states
// and the digests. Times and marks of positions between the events may be unknown to one.
func samePart(t *testing.T, a, b *node, topics ...string) {
	t.Helper()
	for _, topic := range topics {
		for _, q := range []string{"/events?limit=10000&topic=", "/events?last=7&topic=", "/snapshot?topic=", "/snapshot?at=0000000000010&topic=", "/storages?topic="} {
			ra, ba := a.ask(t, http.MethodGet, q+topic, "", "Accept", wire.NDJSON+", "+wire.JSON+";q=0.5")
			rb, bb := b.ask(t, http.MethodGet, q+topic, "", "Accept", wire.NDJSON+", "+wire.JSON+";q=0.5")
			if ra.StatusCode != http.StatusOK || rb.StatusCode != http.StatusOK || ba != bb {
				t.Errorf("GET %s: the mirror answers %s\n%.500s\nwant %s\n%.500s", q+topic, rb.Status, bb, ra.Status, ba)
			}
			if ha, hb := ra.Header.Get(wire.HeaderHead), rb.Header.Get(wire.HeaderHead); ha != hb {
				t.Errorf("GET %s: the mirror is at %s, want %s", q+topic, hb, ha)
			}
		}
		sums := make([]wire.Window, 2)
		for i, n := range []*node{a, b} {
			_, body := n.ask(t, http.MethodGet, "/windows?since=0&sum=1&topic="+topic, "")
			if err := json.Unmarshal([]byte(body), &sums[i]); err != nil {
				t.Fatal(err)
			}
		}
		if sums[0].Digest != sums[1].Digest || sums[0].Count != sums[1].Count || sums[0].To != sums[1].To {
			t.Errorf("the digest of %s is %+v, want %+v", topic, sums[1], sums[0])
		}
	}
}

// A mirror of some topics, and one of that one, answer as their server does what is asked of these
// topics, and 421 to all that needs others. Appends to any topic pass.
func TestPartMirror(t *testing.T) {
	origin := newNode(t).serve(t)
	origin.mustPut(t, "a", 50)
	near := newNode(t).follow(t, origin, "", "u1", "*/p/2")
	near.awaitReady(t)
	far := newNode(t).follow(t, near, "", "u1/p/")
	far.awaitReady(t)
	near.awaitHead(t, origin)
	far.awaitHead(t, origin)
	samePart(t, origin, near, "u1", "u1/p/1", "*/p/2", "u2/p/2")
	samePart(t, origin, far, "u1/p/", "u1/p/3")
	near.want(t, "/get?id=u1/p/10", http.StatusOK, `"key":"a-10"`)
	near.want(t, "/", http.StatusOK, `"topics":["*/p/2","u1"]`)
	for _, q := range []string{
		"/events?topic=*", "/events?topic=u2", "/events?topic=u1&topic=u2", "/get?id=u2/p/5", "/windows?topic=*&since=0", "/windows?topic=*/p&at=now",
		"/snapshot?topic=u0", "/storages?topic=*", "/bloom?topic=*", "/api/room/u2/p/5", "/origin?id=0000000000001", "/sources",
	} {
		near.want(t, q, http.StatusMisdirectedRequest, "a mirror does not have")
	}
	var here, there event.Event
	for _, ev := range readEvents(t, origin) {
		if ev.User == "u1" {
			here = ev
		} else if ev.Path != "p/2" {
			there = ev
		}
	}
	for hash, want := range map[event.Hash]int{here.Hash: http.StatusOK, there.Hash: http.StatusMisdirectedRequest} {
		resp, body := near.ask(t, http.MethodPost, "/get", fmt.Sprintf(`{"hashes":[%q]}`, hash), "Content-Type", wire.JSON)
		if resp.StatusCode != want {
			t.Errorf("an event by its hash: %s %s, want %d", resp.Status, body, want)
		}
	}
	for _, to := range []string{"u1/p/1", "u2/p/5"} {
		resp, body := far.ask(t, http.MethodPost, "/set/"+to, `{"key":"new","value":1}`)
		if resp.StatusCode != http.StatusCreated || resp.Header.Get(wire.HeaderBehind) != "" {
			t.Errorf("append to %s: %s %s", to, resp.Status, body)
		}
	}
	far.want(t, "/get?id=u1/p/1&last=1", http.StatusOK, `"key":"new"`)

	// Restarted, it has what it had, and asks for nothing twice.
	near.stop()
	origin.mustPut(t, "b", 20)
	sent := origin.sent.Load()
	near.follow(t, origin, "", "u1", "*/p/2")
	near.awaitReady(t)
	near.awaitHead(t, origin)
	samePart(t, origin, near, "u1", "*/p/2")
	if n := origin.sent.Load() - sent; n > 20_000 {
		t.Errorf("%d bytes were sent after the restart", n)
	}
}

// readEvents returns all events of a node.
func readEvents(t *testing.T, n *node) (evs []event.Event) {
	t.Helper()
	_, body := n.ask(t, http.MethodGet, "/events?topic=*", "", "Accept", wire.NDJSON)
	for line := range strings.Lines(body) {
		ev, err := event.ParseLine([]byte(strings.TrimSpace(line)))
		if err != nil {
			t.Fatal(err)
		}
		evs = append(evs, ev)
	}
	return evs
}

// A reader may come to a mirror of some topics with any cursor of the log, and a cursor of
// another history is refused, whether the mirror has the event of its position or not. If it does
// not, and nobody can be asked, it is neither.
func TestPartCursors(t *testing.T) {
	origin := newNode(t).serve(t)
	origin.mustPut(t, "a", 20)
	near := newNode(t).follow(t, origin, "", "u1")
	near.awaitReady(t)
	near.awaitHead(t, origin)
	log := origin.db.Log()
	evs := readEvents(t, origin)
	wrong := evs[0].Mark() ^ 1
	ask := func(at event.ID, mark event.Mark, want int, part string) {
		t.Helper()
		c := event.Point{ID: at, Mark: mark}.Cursor(log).String()
		for _, header := range []string{wire.HeaderHeld, wire.HeaderLastEventID} {
			near.want(t, "/events?topic=u1&limit=1", want, part, header, c)
		}
		near.want(t, "/events?topic=u1&limit=1&since="+c, want, part)
	}
	for i := range evs {
		ev := &evs[i]
		ask(ev.ID, wrong, http.StatusConflict, `"reason":"mark"`)
		if ev.ID != 5 {
			ask(ev.ID, ev.Mark(), http.StatusOK, "")
		}
	}
	// What a reader of one gets is the rest of what it would get of the other.
	for i := range evs {
		c := event.Point{ID: evs[i].ID, Mark: evs[i].Mark()}.Cursor(log).String()
		if evs[i].ID == 5 {
			continue
		}
		_, want := origin.ask(t, http.MethodGet, "/events?topic=u1&since="+c, "", "Accept", wire.NDJSON)
		if _, got := near.ask(t, http.MethodGet, "/events?topic=u1&since="+c, "", "Accept", wire.NDJSON); got != want {
			t.Errorf("after %s the mirror has\n%s\nwant\n%s", c, got, want)
		}
	}
	origin.leave()
	until(t, "away", func() bool { return near.mirror.Report().Trouble != "" })
	for i := range evs {
		switch ev := &evs[i]; {
		case ev.ID == 5 && ev.User != "u1":
			ask(ev.ID, ev.Mark(), http.StatusServiceUnavailable, "cannot ask whether the log does")
		case ev.User == "u1", ev.ID != 5:
			ask(ev.ID, ev.Mark(), http.StatusOK, "")
		}
	}
	near.want(t, "/events?topic=u1&since=0000000000005", http.StatusOK, "")
	near.want(t, "/readyz", http.StatusOK, "")
}

// A reader that comes from a server that is ahead does not wait until that says that nothing
// has come: it gets what it gets there.
func TestPartReaderAhead(t *testing.T) {
	origin := newNode(t).serve(t)
	origin.mustPut(t, "a", 5)
	near := newNode(t).follow(t, origin, "", "u1/p/1")
	near.awaitReady(t)
	for i := range 3 {
		if _, body := origin.ask(t, http.MethodPost, "/set/u2/x", fmt.Sprintf(`{"value":%d}`, i)); !strings.Contains(body, `"id"`) {
			t.Fatal(body)
		}
		at := origin.db.HeadPoint()
		near.want(t, "/events?topic=u1", http.StatusMisdirectedRequest, "", wire.HeaderLastEventID, at.Cursor(origin.db.Log()).String())
		resp := near.want(t, "/events?topic=u1/p/1", http.StatusOK, `"live":true`, wire.HeaderLastEventID, at.Cursor(origin.db.Log()).String())
		if head := near.db.HeadPoint(); head != at || resp.Header.Get(wire.HeaderHead) != at.Cursor(origin.db.Log()).String() {
			t.Errorf("the mirror is at %v, want %v", head, at)
		}
	}
	ahead := event.CursorOf(origin.db.Head()+5, origin.db.Log()).String()
	near.want(t, "/events?topic=u1/p/1", http.StatusConflict, `"reason":"ahead"`, wire.HeaderLastEventID, ahead)
}

// A reader that moves between a server and its mirrors gets each event once, in order, also if
// most events are of other topics.
func TestPartMoves(t *testing.T) {
	origin := newNode(t).serve(t)
	origin.mustPut(t, "a", 9)
	all := newNode(t).follow(t, origin, "")
	part := newNode(t).follow(t, origin, "", "u1")
	all.awaitReady(t)
	part.awaitReady(t)
	last, n := "", 0
	var got []event.ID
	for i, at := range []*node{part, origin, part, all, part, origin} {
		s := stream(t, at, "/events?topic=u1", last)
		for range 3 {
			ev := s.next(t)
			got = append(got, ev.ID)
			if last = s.last; t.Failed() {
				return
			}
		}
		s.close()
		n += 3
		origin.mustPut(t, fmt.Sprint("more", i), 9)
	}
	var want []event.ID
	for _, ev := range readEvents(t, origin) {
		if ev.User == "u1" && len(want) < n {
			want = append(want, ev.ID)
		}
	}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("the reader got %v, want %v", got, want)
	}
}

// A mirror of some topics begins at the horizon of its server with their state, and notices that
// the history of that was replaced, also by positions of other topics.
func TestPartHorizon(t *testing.T) {
	origin := newNode(t).serve(t)
	for i := range 3 {
		origin.mustPut(t, fmt.Sprint("a", i), 3000)
	}
	if err := origin.db.RetainOnce(t.Context(), cache.Retention{MaxBytes: 1}); err != nil {
		t.Fatal(err)
	}
	origin.mustPut(t, "b", 10)
	near := newNode(t).follow(t, origin, "", "u1", "*/p/2")
	near.awaitReady(t)
	near.awaitHead(t, origin)
	far := newNode(t).follow(t, near, "", "u1/p/")
	far.awaitReady(t)
	far.awaitHead(t, origin)
	for _, topic := range []string{"u1/p/", "u1/p/4"} {
		for _, at := range []string{"", "&at=" + event.ID(2*event.BlockSize).String()} {
			_, want := origin.ask(t, http.MethodGet, "/snapshot?topic="+topic+at, "", "Accept", wire.NDJSON)
			near.want(t, "/snapshot?topic="+topic+at, http.StatusOK, want, "Accept", wire.NDJSON)
			far.want(t, "/snapshot?topic="+topic+at, http.StatusOK, want, "Accept", wire.NDJSON)
		}
	}
	near.want(t, "/events?topic=u1&since=0", http.StatusGone, event.ID(2*event.BlockSize).String())
	far.want(t, "/events?topic=u1/p/&since="+event.ID(2*event.BlockSize).String(), http.StatusOK, `"key":"b-`)
}

// Pages that are torn are read again, shorter ones.
func TestPartTorn(t *testing.T) {
	origin := newNode(t).serve(t)
	origin.mustPut(t, "a", 1500)
	origin.cut.Store(30_000)
	near := newNode(t).follow(t, origin, "", "u1")
	until(t, "all but the end", func() bool { return near.db.Head() > 1000 })
	origin.cut.Store(0)
	near.awaitReady(t)
	near.awaitHead(t, origin)
	samePart(t, origin, near, "u1")
}

// A mirror whose file is bounded drops history while it receives more: its horizon rises, its
// state stays, and what it has is what its server has.
func TestMirrorRetains(t *testing.T) {
	origin := newNode(t).serve(t)
	near := newNode(t).follow(t, origin, "")
	part := newNode(t).follow(t, origin, "", "u1", "u2")
	nodes := []*node{near, part}
	const most = 1 << 20
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	for _, n := range nodes {
		running.Go(func() {
			if err := n.db.Retain(ctx, cache.Retention{MaxBytes: most, Horizon: n.mirror.Horizon, History: time.Hour}); err != nil && ctx.Err() == nil {
				t.Error(err)
			}
		})
	}
	for i := range 4 {
		origin.mustPut(t, fmt.Sprint("a", i), event.BlockSize)
	}
	origin.mustPut(t, "z", 20) // the last one is of u1: nobody waits for a heartbeat
	for _, n := range nodes {
		n.awaitReady(t)
		n.awaitHead(t, origin)
	}
	cancel()
	running.Wait()
	for i, n := range nodes {
		if err := n.db.RetainOnce(t.Context(), cache.Retention{MaxBytes: most, Horizon: n.mirror.Horizon}); err != nil {
			t.Fatal(err)
		}
		horizon, err := n.db.Horizon(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		info, err := os.Stat(n.path)
		if err != nil || info.Size() > most+64<<10 || horizon == 0 {
			t.Errorf("mirror %d has %d bytes and begins at %s, %v", i, info.Size(), horizon, err)
		}
		n.want(t, "/events?topic=u1&since=0", http.StatusGone, horizon.String())
		for _, q := range []string{"/events?topic=u1&since=" + horizon.String(), "/snapshot?topic=u2"} {
			_, want := origin.ask(t, http.MethodGet, q, "", "Accept", wire.NDJSON)
			if _, got := n.ask(t, http.MethodGet, q, "", "Accept", wire.NDJSON); got != want || want == "" {
				t.Errorf("GET %s: mirror %d has %d bytes, want %d", q, i, len(got), len(want))
			}
		}
		if _, err := n.db.CheckContents(t.Context(), func(f cache.Fault) error { return fmt.Errorf("fault %+v", f) }); err != nil {
			t.Error(err)
		}
	}
}

// A reader goes from any server to any other, also while the first is away, with any cursor that it
// was given, and with ones of another history: it gets each event once, or an error that ends
// once all servers are there.
func TestPartModel(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	origin := newNode(t).serve(t)
	origin.mustPut(t, "first", 10)
	all := newNode(t).follow(t, origin, "")
	part := newNode(t).follow(t, origin, "", "u1", "*/p/2")
	far := newNode(t).follow(t, part, "", "u1")
	nodes := []*node{origin, all, part, far}
	for _, n := range nodes[1:] {
		n.awaitReady(t)
	}
	log := origin.db.Log()
	var got []event.ID
	at, away := event.CursorOf(event.Beginning, log), false
	for i := range longtest.Size(120, 3000) {
		switch n := nodes[rng.IntN(len(nodes))]; rng.IntN(12) {
		case 0, 1, 2:
			if !away {
				origin.mustPut(t, fmt.Sprint("k", i), 1+rng.IntN(4))
			}
		case 3:
			if away = !away; away {
				origin.leave()
				http.DefaultClient.CloseIdleConnections() // an append is not sent twice
			} else {
				origin.back()
			}
		case 4: // a cursor of another history
			if at.Mark != 0 {
				wrong := at
				wrong.Mark ^= 1
				resp, body := n.askLines(t, "/events?topic=u1&since="+wrong.String())
				if resp != nil && resp.StatusCode != http.StatusConflict && resp.StatusCode != http.StatusServiceUnavailable {
					t.Fatalf("step %d: %s was taken: %s %s", i, wrong, resp.Status, body)
				}
			}
		default:
			resp, body := n.askLines(t, fmt.Sprintf("/events?topic=u1&limit=%d&since=%s", 1+rng.IntN(4), at))
			if resp == nil || away && resp.StatusCode == http.StatusServiceUnavailable {
				continue
			}
			if resp.StatusCode != http.StatusOK {
				t.Fatalf("step %d: after %s: %s %s", i, at, resp.Status, body)
			}
			for line := range strings.Lines(body) {
				ev, err := event.ParseLine([]byte(strings.TrimSpace(line)))
				if err != nil {
					t.Fatal(err)
				}
				got = append(got, ev.ID)
			}
			next, err := event.ParseCursor(resp.Header.Get(wire.HeaderNext))
			if err != nil || next.ID < at.ID {
				t.Fatalf("step %d: after %s comes %s, %v", i, at, resp.Header.Get(wire.HeaderNext), err)
			}
			at = next
		}
	}
	origin.back()
	var want []event.ID
	for _, ev := range readEvents(t, origin) {
		if ev.User == "u1" && ev.ID <= at.ID {
			want = append(want, ev.ID)
		}
	}
	if fmt.Sprint(got) != fmt.Sprint(want) || len(want) == 0 {
		t.Errorf("the reader got %v, want %v", got, want)
	}
}

// askLines is ask for lines, without a response if the node is away.
func (n *node) askLines(t *testing.T, path string) (*http.Response, string) {
	t.Helper()
	if n.handler.Load() == nil {
		return nil, ""
	}
	return n.ask(t, http.MethodGet, path, "", "Accept", wire.NDJSON)
}
