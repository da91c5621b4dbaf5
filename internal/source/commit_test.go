package source

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rstream-dev/rstream/cache"
	"github.com/rstream-dev/rstream/event"
)

// A failingLog fails to append, from some call on.
type failingLog struct {
	*cache.DB
	err       error
	works     int  // calls that succeed first
	forgetful bool // the first that fails has appended
	calls     int
}

func (l *failingLog) AppendFrom(ctx context.Context, m *cache.SourceMove, drafts []event.Draft) ([]event.Receipt, error) {
	l.calls++
	if l.calls <= l.works {
		return l.DB.AppendFrom(ctx, m, drafts)
	}
	if l.calls == l.works+1 && l.forgetful {
		if _, err := l.DB.AppendFrom(ctx, m, drafts); err != nil {
			return nil, err
		}
	}
	return nil, l.err
}

var errUnknownIO = fmt.Errorf("append: %w: %w (disk I/O error (778))", cache.ErrUnknown, cache.ErrIO)

// An outcome that stays unknown ends a follower with the error, after some time.
func TestFollowOutcomeStaysUnknown(t *testing.T) {
	for _, failure := range []error{errUnknownIO, cache.ErrBusy} {
		synctest.Test(t, func(t *testing.T) {
			m, err := NewMapper("src", Mapping{})
			if err != nil {
				t.Fatal(err)
			}
			log := &failingLog{err: failure}
			f := &follower{cfg: FollowConfig{Name: "src", Log: storedLog{log}, Mapper: m, Now: time.Now, commitTime: maxCommitTime}, repeats: newRepeats(1, nil)}
			begun := time.Now()
			err = f.commit(t.Context(), &batch{})
			took := time.Since(begun)
			if !errors.Is(err, failure) || !isFinal(err) || took < maxCommitTime || took > maxCommitTime+commitPause || log.calls < 10 {
				t.Errorf("commit ends after %s and %d calls with %v", took, log.calls, err)
			}
			if strings.Contains(err.Error(), "retry") {
				t.Errorf("the error gives an advice that nobody can follow: %v", err)
			}
		})
	}
}

// After an outcome that stayed unknown, the next follower takes what was not stored, and nothing
// twice.
func TestFollowAfterUnknownOutcome(t *testing.T) {
	for _, forgetful := range []bool{false, true} {
		db := newLog(t)
		n := 5
		address := serveFunc(t, func(w http.ResponseWriter, r *http.Request) { counting{n: n, hold: true}.ServeHTTP(w, r) })
		cfg := followConfig(t, address, "sse", db)
		if _, err := Follow(t.Context(), cfg); err != nil {
			t.Fatal(err)
		}
		n = 20
		cfg.Log = &failingLog{DB: db, err: errUnknownIO, forgetful: forgetful}
		cfg.commitTime = time.Nanosecond
		if _, err := Follow(t.Context(), cfg); !errors.Is(err, cache.ErrIO) {
			t.Fatal(err)
		}
		cfg.Log = db
		if _, err := Follow(t.Context(), cfg); err != nil {
			t.Fatal(err)
		}
		checkEvents(t, db, numbers(20))
	}
}

// A relay shows an error of its log, and tries again.
func TestRelayShowsErrorsOfLog(t *testing.T) {
	db := newLog(t)
	address := serveFunc(t, counting{n: 20, hold: true}.ServeHTTP)
	for name, log := range map[string]Log{"append": &failingLog{DB: db, err: errUnknownIO, works: 1}, "read": unreadableLog{db}} {
		ctx, cancel := context.WithCancel(t.Context())
		cfg := followConfig(t, address, "sse", log)
		cfg.commitTime, cfg.Meter = time.Nanosecond, &Meter{}
		var said error
		cfg.OnRetry = func(err error, _ time.Duration) { said = err; cancel() }
		Relay(ctx, cfg)
		if r := cfg.Meter.Report(); !errors.Is(said, cache.ErrIO) || r.Connected || !strings.Contains(r.Trouble, cache.ErrIO.Error()) {
			t.Errorf("%s: the relay says %v and reports %+v", name, said, r)
		}
	}
}

type unreadableLog struct{ *cache.DB }

func (unreadableLog) Source(context.Context, string) ([]byte, [][]byte, error) {
	return nil, nil, errUnknownIO
}
