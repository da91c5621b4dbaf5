package client

import (
	"context"
	"database/sql"
	"io"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/rstream-dev/rstream/cache"
	"github.com/rstream-dev/rstream/event"
)

// An event that cannot be stored is never returned: the reader would have seen an event
// that is missing from the copy.
func TestLiveStoresBeforeItShows(t *testing.T) {
	f := newFixture(t)
	f.put("alice/x", 3)
	path := filepath.Join(t.TempDir(), "copy.db")
	db := f.openCache(path, nil)
	refuse, err := sql.Open("sqlite", path)
	if err != nil {
		t.Fatal(err)
	}
	defer refuse.Close()
	if _, err := refuse.ExecContext(t.Context(), `CREATE TRIGGER refuse BEFORE UPDATE ON page WHEN instr(NEW.lines, '"path":"poison"') BEGIN SELECT RAISE(ABORT, 'refused'); END`); err != nil {
		t.Fatal(err)
	}
	c := newTestClient(t, db, hasty(f.http.URL))
	var last error
	n := 0
	for ev, err := range c.Tail(t.Context(), mustTopic(t, "alice"), TailOptions{}) {
		if last = err; err != nil {
			break
		}
		if n++; ev.Path == "poison" {
			t.Fatal("the event is shown and cannot be stored")
		}
		if n == 3 {
			f.put("alice/x", 1) // with this one it is live
		}
		if n == 4 {
			f.put("alice/poison", 1)
		}
	}
	if n != 4 || last == nil || !strings.Contains(last.Error(), "refused") {
		t.Errorf("after %d events the tail ends with %v", n, last)
	}
}

// Events that came together with a wrong answer are not stored: they have the same sender.
func TestLiveLeavesWhatCameWithALie(t *testing.T) {
	f := newFixture(t)
	db := f.newCache()
	c := newTestClient(t, db, hasty(f.http.URL))
	l := &liar{f: f}
	good, err := event.ParseLine([]byte(l.event(1, "alice/x")))
	if err != nil {
		t.Fatal(err)
	}
	session, err := c.live.openLive(t.Context(), event.Beginning, []event.Topic{mustTopic(t, "alice")})
	if err != nil {
		t.Fatal(err)
	}
	defer session.Close()
	for _, tc := range []struct {
		name string
		err  error
		want int64
	}{{"a lie", &ProtocolError{f.http.URL, "sent a foreign event"}, 0}, {"a cut", io.ErrUnexpectedEOF, 1}} {
		lease, err := db.Leases().Follow(t.Context(), []event.Topic{mustTopic(t, "alice")}, event.Beginning)
		if err != nil {
			t.Fatal(err)
		}
		in := newInbox()
		in.putStep(received{ev: good, at: event.Point{ID: good.ID}})
		in.endSteps(tc.err)
		if err := c.live.storeArrivals(t.Context(), lease, in, session.Session, c.newBackoff()); err != tc.err {
			t.Errorf("%s: %v", tc.name, err)
		}
		if n := events(t, db); n != tc.want || int64(lease.Reached()) != tc.want {
			t.Errorf("with %s %d events are stored up to %s, want %d", tc.name, n, lease.Reached(), tc.want)
		}
		if err := lease.Commit(context.Background()); err != nil {
			t.Fatal(err)
		}
	}
}

// If another process takes over a window in the middle of a pull, neither sync fails.
func TestSyncWhoseWindowIsTakenOver(t *testing.T) {
	f := newFixture(t)
	f.put("alice/x", 300)
	path, clock := filepath.Join(t.TempDir(), "copy.db"), &testClock{}
	slow, quick := f.openCache(path, clock.now), f.openCache(path, clock.now)
	reached, stored, release := make(chan struct{}), make(chan struct{}, 1), make(chan struct{})
	pages := 0
	f.through(func(h http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if requestKind(r) == asksPage && r.Header.Get("User-Agent") == "slow" {
				if pages++; pages == 2 {
					close(reached)
					<-release
				}
			}
			h.ServeHTTP(w, r)
		})
	})
	cfg := hasty(f.http.URL)
	cfg.HTTP = &http.Client{Transport: stub(func(r *http.Request) (*http.Response, error) {
		r.Header.Set("User-Agent", "slow")
		return http.DefaultTransport.RoundTrip(r)
	})}
	defer http.DefaultClient.CloseIdleConnections()
	alice := mustTopic(t, "alice")
	done := make(chan error, 1)
	go func() {
		s, err := newTestClient(t, slow, cfg).Sync(context.Background(), alice, SyncOptions{OnNew: func([]event.Event) error {
			select {
			case stored <- struct{}{}:
			default:
			}
			return nil
		}})
		if err == nil && s.Held != 300 {
			t.Errorf("the slow one holds %d events", s.Held)
		}
		done <- err
	}()
	<-reached
	<-stored                                  // which renews the lease
	clock.ahead.Store(int64(5 * time.Minute)) // longer than a lease
	s, err := newTestClient(t, quick, hasty(f.http.URL)).Sync(t.Context(), alice, SyncOptions{})
	if err != nil || s.Held != 300 || s.Windows == 0 {
		t.Errorf("the quick one: %+v, %v", s, err)
	}
	close(release)
	if err := <-done; err != nil {
		t.Errorf("the slow one: %v", err)
	}
	for name, db := range map[string]*cache.DB{"slow": slow, "quick": quick} {
		sameEvents(t, name, held(t, db, alice, s), f.truth("*", "", ""))
	}
}
