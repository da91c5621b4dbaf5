package cache

import (
	"bufio"
	"context"
	"database/sql"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/internal/longtest"
	"github.com/rstream-dev/rstream/internal/server"
	"github.com/rstream-dev/rstream/internal/wire"
	"github.com/rstream-dev/rstream/window"
)

// A follower reads a topic from a server until it reaches the end. After it has reached a
// position, no event may appear at or below it.
type follower struct {
	t     *testing.T
	url   string
	topic string
	end   *atomic.Uint64 // where all followers stop, once it is not 0

	steps chan struct{} // receives a value for each answer or heartbeat, unless it is full
	at    atomic.Uint64 // the last position that the server sent
	got   []event.ID
}

func (f *follower) over() bool {
	end := f.end.Load()
	return end > 0 && f.at.Load() >= end
}

// take records an event.
func (f *follower) take(id event.ID) {
	if at := event.ID(f.at.Load()); id <= at {
		f.t.Errorf("%s: event %s appears behind a reader that has passed %s", f.topic, id, at)
	}
	f.got = append(f.got, id)
}

// stand records a position.
func (f *follower) stand(at event.ID) {
	if before := event.ID(f.at.Swap(uint64(at))); at < before {
		f.t.Errorf("%s: the position goes back from %s to %s", f.topic, before, at)
	}
	select {
	case f.steps <- struct{}{}:
	default:
	}
}

func (f *follower) get(accept, query string) (*http.Response, error) {
	req, err := http.NewRequestWithContext(f.t.Context(), http.MethodGet, f.url+"/events?topic="+url.QueryEscape(f.topic)+query, nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Accept", accept)
	resp, err := http.DefaultClient.Do(req)
	if err == nil && resp.StatusCode != http.StatusOK {
		resp.Body.Close()
		err = fmt.Errorf("the server answers %s", resp.Status)
	}
	return resp, err
}

// stream follows one stream.
func (f *follower) stream() error {
	resp, err := f.get(wire.SSE, "")
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	var at event.ID
	told, carries := false, false
	for lines := bufio.NewReader(resp.Body); !f.over(); {
		line, err := lines.ReadString('\n')
		if err != nil {
			return err
		}
		name, value, _ := strings.Cut(strings.TrimSuffix(line, "\n"), ": ")
		switch {
		case name == "id":
			c, err := event.ParseCursor(value)
			if err != nil {
				return err
			}
			at, told = c.ID, true
		case name == "event":
			carries = value == string(event.Put) // not the mark of live
		case line == "\n":
			if carries {
				f.take(at)
			}
			if told {
				f.stand(at)
			}
			told, carries = false, false
		}
	}
	return nil
}

// pages requests page after page, each from the position at the end of the last one.
func (f *follower) pages() error {
	for !f.over() {
		resp, err := f.get(wire.NDJSON, "&limit=3&since="+event.ID(f.at.Load()).String())
		if err != nil {
			return err
		}
		text, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil {
			return err
		}
		next, ok := wire.PositionIn(resp.Header, wire.HeaderNext)
		if !ok {
			return fmt.Errorf("a page does not say where the next one begins")
		}
		for line := range strings.Lines(string(text)) {
			ev, err := event.ParseLine([]byte(strings.TrimSuffix(line, "\n")))
			if err != nil {
				return err
			}
			if f.take(ev.ID); ev.ID > next {
				f.t.Errorf("%s: a page up to %s has event %s", f.topic, next, ev.ID)
			}
		}
		f.stand(next)
	}
	return nil
}

// holdFile stops the committer before it begins, as another process that writes to the file
// does.
func holdFile(t *testing.T, db *DB) (reached chan struct{}, release func()) {
	pool, err := sql.Open("sqlite", "file:"+db.file.Path+"?_txlock=immediate")
	if err != nil {
		t.Fatal(err)
	}
	tx, err := pool.Begin()
	if err != nil {
		t.Fatal(err)
	}
	reached = make(chan struct{})
	close(reached)
	return reached, func() {
		if err := tx.Rollback(); err != nil {
			t.Error(err)
		}
		pool.Close()
	}
}

// An append that stalls before its COMMIT never gets an id that a reader has already passed,
// whatever other appends arrive and readers read in the meantime.
func TestLateWriter(t *testing.T) {
	rounds := 1
	if longtest.Enabled() {
		rounds = 20
	}
	for _, stall := range []string{"in COMMIT", "by another process"} {
		t.Run(stall, func(t *testing.T) {
			db := openServer(t)
			srv := server.New(db, server.Config{Heartbeat: time.Millisecond})
			hs := httptest.NewServer(srv)
			defer hs.Close()
			defer srv.Stop()
			given := map[string][]event.ID{}
			note := func(a appended) {
				if a.err != nil {
					t.Error(a.err)
				}
				for _, r := range a.receipts {
					for _, topic := range []string{"*", r.Event.User} {
						given[topic] = append(given[topic], r.Event.ID)
					}
				}
			}
			var end atomic.Uint64
			var all []*follower
			var reading sync.WaitGroup
			defer reading.Wait()
			defer end.Store(1) // when the test fails
			for _, topic := range []string{"*", "late", "early", "nobody"} {
				for _, follow := range []func(*follower) error{(*follower).stream, (*follower).pages} {
					f := &follower{t: t, url: hs.URL, topic: topic, end: &end, steps: make(chan struct{}, 1)}
					all = append(all, f)
					reading.Go(func() {
						if err := follow(f); err != nil {
							t.Errorf("%s: %v", topic, err)
						}
					})
				}
			}
			for round := range rounds {
				key := fmt.Sprint(round)
				note(<-appendSoon(t.Context(), db, drafts("early", "before", key, 4)))
				var held chan struct{}
				var release func()
				if stall == "in COMMIT" {
					held, release = hold(db)
				} else {
					held, release = holdFile(t, db)
				}
				release = sync.OnceFunc(release)
				t.Cleanup(release) // Close waits for the committer
				late := appendSoon(t.Context(), db, drafts("late", "x", key, 5))
				<-held
				early := appendSoon(t.Context(), db, drafts("early", "after", key, 2))
				readOn(t, all, 10)
				release()
				note(<-late)
				note(<-early)
			}
			note(<-appendSoon(t.Context(), db, drafts("late", "end", "end", 1)))
			end.Store(uint64(db.Head()))
			reading.Wait()
			for _, f := range all {
				slices.Sort(given[f.topic])
				if !slices.Equal(f.got, given[f.topic]) {
					t.Errorf("%s: events %v, want %v", f.topic, f.got, given[f.topic])
				}
			}
		})
	}
}

// readOn waits for at least n more steps of each follower.
func readOn(t *testing.T, all []*follower, n int) {
	t.Helper()
	deadline := time.After(30 * time.Second)
	for _, f := range all {
		for range n + 1 { // the first one may be old
			select {
			case <-f.steps:
			case <-deadline:
				t.Fatalf("%s: the reader does not go on", f.topic)
			}
		}
	}
}

// Only the server of a file assigns ids, also while it stalls: the lock excludes a second
// server, and a process that opens the file otherwise cannot append.
func TestOneGiverOfIDs(t *testing.T) {
	ctx := context.Background()
	db := openServer(t)
	reached, release := hold(db)
	late := appendSoon(ctx, db, drafts("late", "x", "k", 2))
	<-reached
	_, err := Open(ctx, db.Path(), Config{Role: Server})
	wantError(t, "a second server", err, ErrLocked)
	reader := mustOpen(t, db.Path(), Config{})
	defer reader.Close()
	_, err = reader.Append(ctx, drafts("early", "x", "k", 1))
	wantError(t, "an append to a file that was opened to be read", err, ErrRole)
	release()
	if a := <-late; a.err != nil {
		t.Error(a.err)
	}
	checkIDs(t, "the log", readAll(t, reader, []event.Topic{event.All}, window.Span{To: 9}, 9), allIDs(2))
}
