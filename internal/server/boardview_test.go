package server

import (
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rstream-dev/rstream/internal/auth"
	"github.com/rstream-dev/rstream/internal/board"
	"github.com/rstream-dev/rstream/internal/wire"
)

// A boardFrames reads a stream of the board and keeps what it says.
type boardFrames struct {
	*frames
	t      *testing.T
	conns  map[uint64]string // the topics
	lags   map[uint64]uint64
	counts map[string]string // connections/readers
	last   string            // id
}

func (s *served) board(header ...string) (*boardFrames, io.Closer) {
	s.t.Helper()
	fs, body := s.stream(wire.PathChanges, header...)
	return &boardFrames{frames: fs, t: s.t}, body
}

// take reads the next block and returns its event.
func (b *boardFrames) take() (name string) {
	b.t.Helper()
	f, err := b.next()
	if err != nil {
		b.t.Fatal(err)
	}
	if f.id != "" {
		b.last = f.id
	}
	var data struct {
		ID          uint64
		Topics      []json.RawMessage
		Lag         uint64
		All         bool
		Nodes       []board.Node
		Node        string
		Connections int
	}
	if f.data != "" {
		if err := json.Unmarshal([]byte(f.data), &data); err != nil {
			b.t.Fatalf("%s: %v", f.data, err)
		}
	}
	switch f.event {
	case wire.StateEvent:
		b.conns, b.lags, b.counts = map[uint64]string{}, map[uint64]uint64{}, nil
	case openedEvent:
		b.conns[data.ID], b.lags[data.ID] = fmt.Sprintf("%s", data.Topics), data.Lag
	case closedEvent:
		delete(b.conns, data.ID)
	case lagEvent:
		b.lags[data.ID] = data.Lag
	case topicsEvent:
		if data.All {
			b.counts = map[string]string{}
		}
		for _, raw := range data.Topics {
			var n board.TopicCount
			if err := json.Unmarshal(raw, &n); err != nil {
				b.t.Fatal(err)
			}
			if b.counts[n.Topic.String()] = fmt.Sprintf("%d/%d", n.Connections, n.Readers); n.Connections == 0 {
				delete(b.counts, n.Topic.String())
			}
		}
	}
	return f.event
}

// until reads blocks up to an event of that name.
func (b *boardFrames) until(name string) {
	b.t.Helper()
	for deadline := time.Now().Add(time.Minute); b.take() != name; {
		if time.Now().After(deadline) {
			b.t.Fatalf("the board goes on without %q", name)
		}
	}
}

func (b *boardFrames) check(conns map[uint64]string, counts map[string]string) {
	b.t.Helper()
	if fmt.Sprint(b.conns) != fmt.Sprint(conns) {
		b.t.Errorf("the connections are %v, want %v", b.conns, conns)
	}
	if fmt.Sprint(b.counts) != fmt.Sprint(counts) {
		b.t.Errorf("the counts are %v, want %v", b.counts, counts)
	}
}

// TestBoard: a viewer gets the readers that are there, and then sees others come, fall
// behind and go. Readers of wider topics count.
func TestBoard(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := newLog()
		log.put(t, "a", "p", 3)
		s, stop := serve(t, log, Config{Version: "1"})
		defer stop()
		first, firstBody := s.stream("/events?topic=a/p&topic=b&since=now")
		first.want(t, "live", 3)
		b, viewing := s.board()
		b.until("live")
		b.check(map[uint64]string{1: `["a/p" "b"]`}, map[string]string{"a/p": "1/1", "b": "1/1"})
		began := time.Now()
		all, allBody := s.stream("/events?topic=*")
		defer allBody.Close()
		for id := range 3 {
			all.want(t, "PUT", log.evs[id].ID)
		}
		b.until(topicsEvent)
		b.check(map[uint64]string{1: `["a/p" "b"]`, 2: `["*"]`}, map[string]string{"*": "1/1", "a/p": "1/2", "b": "1/2"})
		if took := time.Since(began); took > time.Second {
			t.Errorf("the viewer saw it after %s", took)
		}
		_ = firstBody.Close()
		b.until(closedEvent)
		b.until(topicsEvent)
		b.check(map[uint64]string{2: `["*"]`}, map[string]string{"*": "1/1"})

		// While it is away, a reader comes.
		_ = viewing.Close()
		_, moreBody := s.stream("/get?id=a/p")
		defer moreBody.Close()
		time.Sleep(5 * time.Second)
		again, viewing := s.board("Last-Event-ID", b.last)
		defer viewing.Close()
		again.conns, again.lags = b.conns, b.lags
		again.until("live")
		again.check(map[uint64]string{2: `["*"]`, 3: `["a/p$"]`}, map[string]string{"*": "1/1", "a/p$": "1/2"})
		if again.lags[2] != 0 {
			t.Errorf("the lags are %v", again.lags)
		}

		log.put(t, "a", "p", 1)
		again.until(nodeEvent) // within five seconds
		began = time.Now()
		if again.until(""); time.Since(began) < 10*time.Second || time.Since(began) > 15*time.Second {
			t.Errorf("a heartbeat after %s", time.Since(began))
		}
		var list struct {
			Nodes       []board.Node
			Topics      []board.TopicCount
			Connections []board.Connection
		}
		if err := json.Unmarshal([]byte(body(t, s.get(wire.PathConnections))), &list); err != nil {
			t.Fatal(err)
		}
		if len(list.Connections) != 2 || len(list.Topics) != 2 || len(list.Nodes) != 1 || list.Nodes[0].Version != "1" || list.Nodes[0].Head != log.HeadPoint().Cursor(log.Log()).String() {
			t.Errorf("the list is %+v", list)
		}
	})
}

// TestBoardUnwatched: when the last viewer has left, the board is not kept.
func TestBoardUnwatched(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, stop := serve(t, newLog(), Config{})
		defer stop()
		if s.Server.board.IsWatching() {
			t.Error("the board is kept, and nobody looked")
		}
		b, viewing := s.board()
		b.until("live")
		s.wantMetric(t, "rstream_board_viewers 1")
		resp := s.get("/api/events?until=now", "Last-Event-ID", b.last)
		if resp.Body.Close(); resp.StatusCode != http.StatusNoContent {
			t.Errorf("the end of a stream: %s", resp.Status)
		}
		if _ = viewing.Close(); !s.Server.board.IsWatching() {
			t.Error("the board is not kept for viewers that reconnect")
		}
		time.Sleep(11 * time.Second)
		if s.Server.board.IsWatching() {
			t.Error("the board is kept, and nobody looks")
		}
	})
}

// TestBoardHides: a viewer sees the connections whose topics it may read itself, and no
// others, in no form.
func TestBoardHides(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ring := newKeyring(t, auth.Config{})
		log, _ := guardedLog(t)
		s, stop := serve(t, log, Config{Guard: ring.guard})
		defer stop()
		for _, name := range []string{"alice/posts", "alice/notes", "bob", "*"} {
			sub := strings.NewReplacer("/", "-", "*", "all").Replace(name)
			_, reading := s.stream("/events?since=now&topic="+name, "Authorization", bearer(ring.grant([]string{name}, nil, func(c *auth.Claims) { c.Subject = "reader-of-" + sub })))
			defer reading.Close()
		}
		_, reading := s.stream("/events?since=now&topic=alice&topic=bob", "Authorization", bearer(ring.grant([]string{"*"}, nil, func(c *auth.Claims) { c.Subject = "reader-of-two" })))
		defer reading.Close()
		subjects := []string{"reader-of-alice-posts", "reader-of-alice-notes", "reader-of-bob", "reader-of-all", "reader-of-two"}
		for granted, want := range map[string][]string{
			"alice":       {"reader-of-alice-posts", "reader-of-alice-notes"},
			"alice/posts": {"reader-of-alice-posts"},
			"bob":         {"reader-of-bob"},
			"nobody":      nil,
			"*":           subjects,
		} {
			token := bearer(ring.grant([]string{granted}, nil, func(c *auth.Claims) { c.Rights.Board = auth.BoardRead }))
			for _, accept := range []string{wire.JSON, wire.SSE} {
				text := body(t, s.get(wire.PathConnections+"?until=now", "Accept", accept, "Authorization", token))
				for _, name := range subjects {
					if strings.Contains(text, name) != slices.Contains(want, name) {
						t.Errorf("%s of %s: %s", accept, granted, text)
					}
				}
				if granted == "nobody" && strings.Contains(text, `"readers":1`) {
					t.Errorf("%s of %s: %s", accept, granted, text)
				}
			}
		}
		for _, right := range []auth.BoardRight{auth.NoBoard, auth.BoardWrite} {
			resp := s.get(wire.PathConnections, "Authorization", bearer(ring.grant([]string{"*"}, []string{"*"}, func(c *auth.Claims) { c.Rights.Board = right })))
			if resp.Body.Close(); resp.StatusCode != http.StatusForbidden {
				t.Errorf("with the right %q: %s", right, resp.Status)
			}
		}
	})
}

// TestBoardTellsNothingOfOthers: a viewer that does not see all connections gets the same answers
// at the same times, whether others come and go or not.
func TestBoardTellsNothingOfOthers(t *testing.T) {
	ring := newKeyring(t, auth.Config{})
	token := bearer(ring.grant([]string{"alice"}, nil, func(c *auth.Claims) { c.Rights.Board = auth.BoardRead }))
	all := bearer(ring.grant([]string{"*"}, nil, nil))
	ids := regexp.MustCompile(`"id":(\d+)`)
	observe := func(t *testing.T, hidden bool) (seen []string) {
		log, _ := guardedLog(t)
		s, stop := serve(t, log, Config{Guard: ring.guard})
		defer stop()
		var reading sync.WaitGroup
		defer reading.Wait()
		began := time.Now()
		// follow calls fn with each block of a stream until the stream is closed.
		follow := func(target, token string, fn func(frame)) io.Closer {
			fs, stream := s.stream(target, "Accept", wire.SSE, "Authorization", token)
			reading.Go(func() {
				for f, err := fs.next(); err == nil; f, err = fs.next() {
					fn(f)
				}
			})
			return stream
		}
		come := func(topic, token string) io.Closer {
			return follow("/events?since=now&topic="+topic, token, func(frame) {})
		}
		note := func(text string) string {
			for _, id := range ids.FindAllStringSubmatch(text, -1) {
				if len(id[1]) < 8 {
					t.Errorf("the id of a connection is %s, a count", id[1])
				}
			}
			return time.Since(began).String() + " " + ids.ReplaceAllString(text, `"id":0`)
		}
		first := come("alice/posts", token)
		var board, room []string
		var last string
		viewing := []io.Closer{
			follow(wire.PathChanges, token, func(f frame) {
				board = append(board, note(fmt.Sprint(f)))
				last = cmp.Or(f.id, last)
			}),
			follow(wire.RoomPath(topicsOf(t, "alice/posts")[0]), token, func(f frame) { room = append(room, note(fmt.Sprint(f))) }),
		}
		var others []io.Closer
		for _, delay := range []time.Duration{time.Second, 12 * time.Second, time.Second} {
			if time.Sleep(delay); hidden {
				gone := come("bob", all)
				others = append(others, come("*", all))
				time.Sleep(time.Second / 2)
				_ = gone.Close()
				time.Sleep(time.Second / 2)
			} else {
				time.Sleep(time.Second)
			}
		}
		second := come("alice/notes", token)
		time.Sleep(time.Second)
		_ = second.Close()
		time.Sleep(time.Minute)
		synctest.Wait()
		seen = slices.Concat(board, room)
		for _, header := range [][]string{{"Accept", wire.JSON}, {"Accept", wire.SSE, "Last-Event-ID", last}} {
			resp := s.get(wire.PathConnections+"?until=now", append(header, "Authorization", token)...)
			seen = append(seen, resp.Status+" "+note(body(t, resp)))
		}
		for _, c := range slices.Concat(viewing, others, []io.Closer{first}) {
			_ = c.Close()
		}
		return seen
	}
	var alone, among []string
	synctest.Test(t, func(t *testing.T) { alone = observe(t, false) })
	synctest.Test(t, func(t *testing.T) { among = observe(t, true) })
	if !slices.Equal(alone, among) {
		t.Errorf("alone, the viewer gets\n%s\namong others\n%s", strings.Join(alone, "\n"), strings.Join(among, "\n"))
	}
}

// BenchmarkSample reads the lags of 1,000 connections, as the board does every five seconds
// while somebody looks.
func BenchmarkSample(b *testing.B) {
	log := newLog()
	s := New(log, Config{})
	defer s.Stop()
	for range 1000 {
		c := &connection{s: s, r: httptest.NewRequest(http.MethodGet, "/events?topic=a", nil), to: &recorder{s: s}, st: resolvedQuery{topics: topicsOf(b, "a")}}
		sub := s.hub.Subscribe(c.st.topics, 0)
		defer sub.Close()
		if _, err := sub.Next(b.Context()); err != nil {
			b.Fatal(err)
		}
		c.sub.Store(sub)
		s.readers.Add(&c.entry, c)
		defer s.readers.Remove(&c.entry)
	}
	viewer := s.board.Look(board.Cursor{}, board.View{}, func() {})
	defer viewer.Close()
	for b.Loop() {
		s.board.Sample()
	}
}
