package client

import (
	"errors"
	"net/http"
	"strings"
	"testing"

	"github.com/rstream-dev/rstream/cache"
	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/internal/longtest"
	"github.com/rstream-dev/rstream/internal/wire"
	"github.com/rstream-dev/rstream/window"
)

// lacking fills a copy of alice with all events of the log except those for which lack
// returns true, as if these had been removed from a response.
func lacking(t *testing.T, f *fixture, db *cache.DB, lack func(i int) bool) {
	t.Helper()
	topic := mustTopic(t, "alice")
	l, _, err := db.Leases().Claim(t.Context(), []event.Topic{topic}, window.Span{To: f.db.Head()})
	if err != nil {
		t.Fatal(err)
	}
	var evs []event.Event
	for i, ev := range logged(t, f, "alice") {
		if !lack(i) {
			evs = append(evs, ev)
		}
	}
	if _, err := l.Apply(t.Context(), evs, f.db.Head()); err != nil {
		t.Fatal(err)
	}
	if err := l.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
}

func inDoubt(t *testing.T, db *cache.DB) window.Spans {
	t.Helper()
	doubted, err := db.Doubted(t.Context(), mustTopic(t, "alice"))
	if err != nil {
		t.Fatal(err)
	}
	return doubted
}

// If a copy lacks events of a held range, the sync that notices it completes the copy. It
// fetches only the blocks that differ.
func TestHeldAndDifferent(t *testing.T) {
	noLeaks(t)
	f := newFixture(t)
	f.put("alice/x", 2*event.BlockSize)
	for name, tc := range map[string]struct {
		lack    func(i int) bool
		fetched int64
	}{
		"all":              {func(int) bool { return true }, 2 * event.BlockSize},
		"the first":        {func(i int) bool { return i == 0 }, event.BlockSize},
		"one in block 1":   {func(i int) bool { return i == event.BlockSize+7 }, event.BlockSize},
		"an end and a one": {func(i int) bool { return i == 1 || i > event.BlockSize+100 }, 2 * event.BlockSize},
	} {
		if underRace && name != "one in block 1" {
			continue // nothing else happens at once in the others
		}
		if !longtest.Enabled() && tc.fetched > event.BlockSize {
			continue // two blocks are fetched as one is
		}
		t.Run(name, func(t *testing.T) {
			db := f.newCache()
			lacking(t, f, db, tc.lack)
			c := newTestClient(t, db, hasty(f.http.URL))
			var shown int
			s, err := syncNew(t.Context(), c, mustTopic(t, "alice"), Range{}, func(evs []event.Event) error {
				for i := range evs {
					if !tc.lack(int(evs[i].ID) - 1) {
						t.Errorf("event %s was held and is shown", evs[i].ID)
					}
				}
				shown += len(evs)
				return nil
			})
			synced(t, f, db, s, err)
			if got := c.Stats().Events; got != tc.fetched || shown != s.Added || inDoubt(t, db) != nil {
				t.Errorf("%d events came, want %d; %d are shown, %d added; in doubt %v", got, tc.fetched, shown, s.Added, inDoubt(t, db))
			}
		})
	}
}

// If a server's events do not match its own digest, the sync tries once and fails. The
// range stays in doubt until a consistent server is asked.
func TestDifferentForEver(t *testing.T) {
	noLeaks(t)
	f := newFixture(t)
	f.put("alice/x", 40)
	pages := 0
	f.through(func(h http.Handler) http.Handler {
		box := middlebox{f: f, path: "/events", times: -1, change: func(h http.Header, b []byte) []byte {
			pages++
			wire.SetEvents(h, 39)
			return firstLines(b, 39)
		}}
		return box.wrap(h)
	})
	db := f.newCache()
	c := newTestClient(t, db, hasty(f.http.URL))
	topic := mustTopic(t, "alice")
	var mismatch *MismatchError
	for _, want := range []int{2, 1} { // it is fetched, and once more; then only once more
		pages = 0
		if _, err := c.Sync(t.Context(), topic, SyncOptions{}); !errors.As(err, &mismatch) || mismatch.Held != 39 || mismatch.Server != 40 {
			t.Fatalf("sync = %v, want a mismatch", err)
		}
		if pages != want {
			t.Errorf("%d pages are asked for, want %d", pages, want)
		}
		if doubted := inDoubt(t, db); !doubted.Contains(window.Span{To: 40}) {
			t.Errorf("in doubt is %v", doubted)
		}
	}
	f.through(nil)
	s, err := c.Sync(t.Context(), topic, SyncOptions{})
	synced(t, f, db, s, err)
	if doubted := inDoubt(t, db); doubted != nil {
		t.Errorf("in doubt is %v", doubted)
	}
}

// An event that is held with other bytes is never replaced by a sync: it is a mismatch, until
// a repair takes the server's.
func TestDifferentBytes(t *testing.T) {
	noLeaks(t)
	f := newFixture(t)
	f.put("alice/x", 41)
	db := f.newCache()
	topic := mustTopic(t, "alice")
	c := newTestClient(t, db, hasty(f.http.URL))
	// The newest event is right: the log was not rolled back.
	if _, err := c.Sync(t.Context(), topic, SyncOptions{Range: Range{Since: c.momentAt(40)}}); err != nil {
		t.Fatal(err)
	}
	l, _, err := db.Leases().Claim(t.Context(), []event.Topic{topic}, window.Span{To: 40})
	if err != nil {
		t.Fatal(err)
	}
	d := event.Draft{User: "alice", Path: "x", Type: event.Put, Key: "other", Value: []byte("1")}
	other := event.New(7, 1, d, d.Hash())
	if _, err := l.Apply(t.Context(), []event.Event{other}, 40); err != nil {
		t.Fatal(err)
	}
	if err := l.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	var mismatch *MismatchError
	if _, err := c.Sync(t.Context(), topic, SyncOptions{}); !errors.As(err, &mismatch) {
		t.Fatalf("sync = %v, want a mismatch", err)
	}
	evs, _, err := db.Read(t.Context(), []event.Topic{topic}, 6, 7, 1)
	if err != nil || len(evs) != 1 || string(evs[0].Line()) != string(other.Line()) {
		t.Errorf("event 7 has become %v, %v", evs, err)
	}
	if doubted := inDoubt(t, db); !doubted.Contains(window.Span{To: 40}) {
		t.Errorf("in doubt is %v", doubted)
	}
	v, err := c.Verify(t.Context(), topic, true)
	if err != nil || len(v.Found) != 1 || !v.Found[0].Repaired || inDoubt(t, db) != nil {
		t.Errorf("repaired %+v, %v; in doubt %v", v.Found, err, inDoubt(t, db))
	}
	s, err := c.Sync(t.Context(), topic, SyncOptions{})
	synced(t, f, db, s, err)
}

// A verify that finds no difference proves the range, and so ends a doubt.
func TestVerifyProves(t *testing.T) {
	noLeaks(t)
	f := newFixture(t)
	f.put("alice/x", 40)
	db := f.newCache()
	lacking(t, f, db, func(int) bool { return false })
	topic := mustTopic(t, "alice")
	if _, err := db.Doubt(t.Context(), topic, window.Span{From: 3, To: 9}, window.Digest{}); err != nil {
		t.Fatal(err)
	}
	v, err := newTestClient(t, db, hasty(f.http.URL)).Verify(t.Context(), topic, false)
	if err != nil || len(v.Found) > 0 || inDoubt(t, db) != nil {
		t.Errorf("found %v, %v; in doubt %v", v.Found, err, inDoubt(t, db))
	}
	windows, err := db.Windows(t.Context())
	if err != nil || len(windows) != 1 || !windows[0].Proven {
		t.Errorf("windows are %v, %v", windows, err)
	}
}

// An error that names a server never names its password.
func TestShortenedErrorIsPublic(t *testing.T) {
	var short *ShortenedError
	_, err := readObject("http://me:secret@x.example", "/windows", strings.NewReader(""), &struct{}{})
	if !errors.As(err, &short) || strings.Contains(short.URL+err.Error(), "secret") {
		t.Errorf("%v of %v", err, short)
	}
}
