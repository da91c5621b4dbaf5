package server

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/internal/wire"
)

// An unreadableLog fails in Read; its other methods work.
type unreadableLog struct{ *memLog }

var errUnreadable = errors.New("disk I/O error")

func (l *unreadableLog) Read(_ context.Context, _ []event.Topic, after, _ event.ID, _ int) ([]event.Event, event.ID, error) {
	return nil, after, errUnreadable
}

func (l *unreadableLog) AppendLines(_ context.Context, b []byte, _ []event.Topic, after, _ event.ID, _ int) ([]byte, event.ID, error) {
	return b, after, errUnreadable
}

// A stream that cannot begin gets an error status. A browser does not reconnect after a 500, but
// programs and proxies can detect it.
func TestStreamOfUnreadableLog(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := newLog()
		log.put(t, "a", "p", 3)
		s, stop := serve(t, &unreadableLog{log}, Config{})
		defer stop()
		for _, target := range []string{"/events?topic=a", "/events?topic=a&values=0", "/events?topic=a&until=0000000000002"} {
			for _, accept := range []string{wire.SSE, wire.NDJSON} {
				resp := s.get(target, "Accept", accept)
				if b := body(t, resp); resp.StatusCode != http.StatusInternalServerError {
					t.Errorf("%s as %s = %s: %.100s", target, accept, resp.Status, b)
				}
			}
		}
	})
}

// The live event comes after all events that existed when the stream began, no matter how many,
// and its position is not before them.
func TestLiveAfterAllHistory(t *testing.T) {
	for _, n := range []int{1, chunk - 1, chunk, chunk + 1, 3*chunk + 7} {
		for _, target := range []string{"/events?topic=a", "/events?topic=a&except=a/x"} {
			t.Run(fmt.Sprint(n, target), func(t *testing.T) {
				bubble(t, Config{}, func(t *testing.T, s *served, log *memLog) {
					log.put(t, "a", "p", n)
					fs, end := s.stream(target)
					defer end.Close()
					for i := range n {
						fs.want(t, "PUT", event.ID(i+1))
					}
					fs.want(t, "live", event.ID(n))
					log.put(t, "a", "p", 1)
					fs.want(t, "PUT", event.ID(n+1))
				})
			})
		}
	}
}

// Events that are appended while history is sent, and that the hub reads in pieces, also come
// before the live event: only then is the reader current.
func TestLiveAfterWhatCameMeanwhile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const n, more = chunk + 5, 50
		log := newLog()
		log.put(t, "a", "p", n)
		log.look = 7
		l := &burstLog{memLog: log}
		l.burst = func() { log.put(t, "a", "p", more) }
		s, stop := serve(t, l, Config{})
		defer stop()
		fs, end := s.stream("/events?topic=a")
		defer end.Close()
		for i := range n + more {
			fs.want(t, "PUT", event.ID(i+1))
		}
		fs.want(t, "live", n+more)
	})
}

// A burstLog gets more events while its first are read.
type burstLog struct {
	*memLog
	burst func()
	once  sync.Once
}

func (l *burstLog) AppendLines(ctx context.Context, b []byte, topics []event.Topic, after, until event.ID, limit int) ([]byte, event.ID, error) {
	lines, next, err := l.memLog.AppendLines(ctx, b, topics, after, until, limit)
	l.once.Do(l.burst)
	return lines, next, err
}
