package mirror_test

import (
	"context"
	"errors"
	"iter"
	"net/http"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/internal/mirror"
	"github.com/rstream-dev/rstream/internal/wire"
)

const awaitLog = "0123456789ABCDEF"

// An unusedLog is a Log of which most methods are not called.
type unusedLog interface{ mirror.Log }

// A shortLog is the file of a mirror of which only the head matters.
type shortLog struct {
	unusedLog
	mu   sync.Mutex
	head event.ID
}

func (l *shortLog) Log() string                   { return awaitLog }
func (l *shortLog) MirroredTopics() []event.Topic { return nil }

func (l *shortLog) HeadPoint() event.Point {
	l.mu.Lock()
	defer l.mu.Unlock()
	return event.Point{ID: l.head}
}

func (l *shortLog) setHead(to event.ID) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.head = to
}

// A shortUpstream is an upstream of which only the head matters. It does not answer to a position that
// its log has not reached, as if it hoped for it.
type shortUpstream struct {
	mirror.Upstream
	mu    sync.Mutex
	head  event.ID
	asked int
}

func (u *shortUpstream) Describe(ctx context.Context, held mirror.Position) (mirror.Description, error) {
	u.mu.Lock()
	u.asked++
	head := u.head
	u.mu.Unlock()
	time.Sleep(time.Millisecond) // the network
	if held.ID > head {
		<-ctx.Done()
		return mirror.Description{}, ctx.Err()
	}
	return mirror.Description{Log: awaitLog, Head: event.Point{ID: head}}, nil
}

func (u *shortUpstream) Follow(ctx context.Context, _ mirror.Position) iter.Seq2[mirror.Batch, error] {
	return func(yield func(mirror.Batch, error) bool) {
		<-ctx.Done()
		yield(mirror.Batch{}, ctx.Err())
	}
}

// Readers that the log may never reach do not keep the others from being answered, whether the mirror
// waits with their refusal or the upstream does.
func TestReadersFarAhead(t *testing.T) {
	for name, patience := range map[string]time.Duration{"a node": 12 * time.Second, "a mirror": 0} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				log, up := &shortLog{head: 10}, &shortUpstream{head: 11}
				m := mirror.New(log, mirror.Config{Upstream: up, Name: "upstream", Patience: patience})
				var far sync.WaitGroup
				defer far.Wait()
				for i := range 10 {
					far.Go(func() {
						if err := m.Await(t.Context(), event.ID(20+i)); !isUnavailable(err) {
							t.Errorf("a reader far ahead gets %v", err)
						}
					})
				}
				time.Sleep(10 * time.Millisecond) // they wait
				began := time.Now()
				answered := make(chan error, 1)
				go func() { answered <- m.Await(t.Context(), 11) }()
				time.Sleep(10 * time.Millisecond) // it waits for the event
				log.setHead(11)
				m.Advanced()
				if err := <-answered; err != nil || time.Since(began) > 100*time.Millisecond {
					t.Errorf("a reader that is one event ahead gets %v after %s", err, time.Since(began))
				}
			})
		})
	}
}

func isUnavailable(err error) bool {
	var problem *wire.Error
	return errors.As(err, &problem) && problem.Status == http.StatusServiceUnavailable
}

// An upstream may show an old state of its log for a while. A reader is refused only once it was ahead for
// longer, whichever of its requests that is, and readers that wait share the questions.
func TestReaderAheadForLong(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log, up := &shortLog{head: 10}, &shortUpstream{head: 10}
		m := mirror.New(log, mirror.Config{Upstream: up, Name: "upstream", Patience: 12 * time.Second})
		began := time.Now()
		var readers sync.WaitGroup
		for range 20 {
			readers.Go(func() {
				refused := 0
				for refused < 10 && m.Await(t.Context(), 20) != nil {
					refused++
					time.Sleep(time.Second)
				}
				// After 5 seconds, and after 11.
				if after := time.Since(began); refused != 2 || after < 12*time.Second || after > 13*time.Second {
					t.Errorf("a reader ahead is known to be so after %d requests and %s", refused, after)
				}
			})
		}
		readers.Wait()
		if up.asked > 200 { // not 20 times twice a second
			t.Errorf("the upstream was asked %d times", up.asked)
		}
		again := time.Now()
		if err := m.Await(t.Context(), 20); err != nil || time.Since(again) > 100*time.Millisecond {
			t.Errorf("once it is known, the next reader gets %v after %s", err, time.Since(again))
		}
		if err := m.Await(t.Context(), 21); !isUnavailable(err) {
			t.Errorf("a reader at another position gets %v", err)
		}
		up.head = 20 // it was an old state, after all
		log.setHead(20)
		if err := m.Await(t.Context(), 20); err != nil {
			t.Errorf("a reader that is not ahead any more gets %v", err)
		}
	})
}
