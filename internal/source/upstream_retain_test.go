package source

import (
	"fmt"
	"math/rand/v2"
	"net/http"
	"path/filepath"
	"testing"
	"time"

	"github.com/rstream-dev/rstream/cache"
	"github.com/rstream-dev/rstream/event"
)

// A retainingServer is an rstream server with retention. If moves is not 0, it drops its history
// when it is asked for a state, so many times.
type retainingServer struct {
	t     *testing.T
	db    *cache.DB
	now   time.Time
	round int
	moves int
}

// drop drops all history.
func (s *retainingServer) drop() {
	s.round++
	fill(s.t, s.db, fmt.Sprint(s.round, "-"))
	dropHistory(s.t, s.db)
}

// expire lets an hour pass, after which values that were not set again are deleted.
func (s *retainingServer) expire() {
	s.now = s.now.Add(time.Hour)
	if err := s.db.RetainOnce(s.t.Context(), cache.Retention{TTL: []cache.TTL{{Topic: event.All, Age: 30 * time.Minute}}}); err != nil {
		s.t.Fatal(err)
	}
}

// dropWhileAsked drops history before a state is sent.
func (s *retainingServer) dropWhileAsked(u *upstream) {
	inner := *u.handler.Load()
	var h http.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/snapshot" && s.moves > 0 {
			s.moves--
			s.drop()
		}
		inner.ServeHTTP(w, r)
	})
	u.handler.Store(&h)
}

// A relay of a server whose values expire and whose horizon moves, also while the relay reads the
// state there, has the server's state whenever it was connected, and a gap for what it missed.
func TestUpstreamRetention(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	s := &retainingServer{t: t, now: time.Now()}
	var err error
	s.db, err = cache.Open(t.Context(), filepath.Join(t.TempDir(), "lab.db"), cache.Config{Role: cache.Server, Now: func() time.Time { return s.now }})
	if err != nil {
		t.Fatal(err)
	}
	defer s.db.Close()
	relay := newLog(t)
	u := newUpstream(t, s.db)
	s.dropWhileAsked(u)
	n, missed := 0, 0
	change := func() {
		for range 1 + rng.IntN(20) {
			n++
			text := fmt.Sprintf("u%d/%d %d", rng.IntN(3), rng.IntN(4), n)
			if rng.IntN(4) == 0 {
				text = "-" + text
			}
			put(t, s.db, text)
		}
	}
	follow := func() {
		t.Helper()
		if err := pull(t, u.url, relay); err != nil {
			t.Fatal(err)
		}
		checkState(t, fmt.Sprint("after ", n, " events"), relay, s.db)
	}
	for _, step := range rng.Perm(8) {
		change()
		if step%2 == 0 {
			follow()
		}
		switch step {
		case 0, 1, 2: // a value expires that the relay has, or has not
			s.expire()
		case 3, 4: // the relay is away for too long, or is not
			s.drop()
		case 5: // and while it asks for the state
			follow()
			change()
			s.drop()
			change()
			s.moves, missed = 2, missed+1
		}
		follow()
	}
	if gaps := gapsOf(t, relay, "lab"); len(gaps) < missed {
		t.Errorf("gaps %q, want at least %d", gaps, missed)
	}
	if s.moves != 0 {
		t.Errorf("the history was to be dropped %d more times", s.moves)
	}
}
