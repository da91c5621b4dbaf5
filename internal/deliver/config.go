package deliver

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"time"

	"github.com/rstream-dev/rstream/cache"
	"github.com/rstream-dev/rstream/event"
)

// A Config configures a consumer. Store, Batches and NewWorker are required.
type Config struct {
	Store Store
	// Batches returns the events after a position, in the order of their ids, until ctx ends
	// or there are no more.
	Batches func(ctx context.Context, after event.ID) iter.Seq2[Batch, error]
	// NewWorker returns a worker. It is called once for each.
	NewWorker func() Worker

	Workers    int           // how many tries may be under way. If zero, 1
	Batch      int           // how many events one try may have. If zero, 1
	Tries      int           // after how many an event is dead. If zero, never
	TryTimeout time.Duration // how long a try may take. If zero, without limit
	Grace      time.Duration // how long tries may go on after ctx has ended. If zero, 10 seconds

	// Want reports whether an event is to be tried; others count as done. An error ends the
	// consumer, and the event does not count as done. If nil, all are.
	Want func(ev *event.Event) (bool, error)
	// Line appends to b the line that workers get of an event, without a line feed. An error
	// fails the try, unless ctx has ended: it is that of the try. If nil, it is the event's own.
	// Workers call it concurrently.
	Line func(ctx context.Context, b []byte, ev *event.Event) ([]byte, error)
	// OnFail is called after each try that has failed, and for an event that is given up since
	// processes have ended while it was under way. It may be nil.
	OnFail func(Failure)
	// PassDropped is called if the next unfinished events of a storage cannot be read. If it
	// returns true, the copy no longer has those up to oldest, and the storage goes on after it.
	// Otherwise, and if it is nil, the error ends the consumer.
	PassDropped func(d Dropped) (oldest event.ID, ok bool)
	// OnEnding is called if the consumer waits for tries for more than a second before it ends.
	// It may be nil.
	OnEnding func(underWay int)
	// OnStatus is called after each step with what it stored. It may be nil.
	OnStatus func(Status)
}

// A Dropped is a storage whose next unfinished events cannot be read.
type Dropped struct {
	Storage    event.Storage
	Unfinished bool // the first of them is known; otherwise perhaps there was none
	Err        error
}

// A Batch has the next events of the topics, up to a position. The slice may be used again for
// the next batch, the events not.
type Batch struct {
	Events   []*event.Event
	Position event.ID
}

// A Store keeps what a consumer has done, and has the events up to its position.
// NewStore returns one.
type Store interface {
	Position() event.ID
	State() []byte
	Blocked(ctx context.Context) ([]cache.BlockedStorage, error)
	// Step stores a step. Its context outlives the consumer's.
	Step(ctx context.Context, s *cache.ConsumerStep) error
	EventsByID(ctx context.Context, ids []event.ID) ([]event.Event, error)
	// ReadStorage returns events of a storage after a position and up to until, at most limit,
	// and the position up to which it has looked.
	ReadStorage(ctx context.Context, s event.Storage, after, until event.ID, limit int) ([]event.Event, event.ID, error)
	// AskedAgain returns some dead letters that are to be tried again.
	AskedAgain(ctx context.Context) ([]cache.DeadLetter, error)
}

// A Worker tries events, one Try at a time, always in the same goroutine.
type Worker interface {
	// Do returns nil if all events of t are done. It ends soon after ctx.
	Do(ctx context.Context, t *Try) error
	Close()
}

// A Try has the events that a worker is to do, in order.
type Try struct {
	Events []*event.Event
	Number int  // of the try of the only event, from 1 on; 1 if there are several
	Dead   bool // the event is a dead letter: later events of its storage may be done
	Line   func(ctx context.Context, b []byte, ev *event.Event) ([]byte, error)
}

// A Failure is a try that has failed.
type Failure struct {
	Event  *event.Event // the first of the try
	Events int
	Try    int
	Err    error
	Pause  time.Duration // until the next try
	Dead   bool          // there is none
}

// An AgainError means that the destination is busy or cannot be reached. The try does not
// count. Nothing is tried for After, or longer if that has happened several times in a row.
type AgainError struct {
	After time.Duration
	Err   error
}

func (e *AgainError) Error() string { return e.Err.Error() }
func (e *AgainError) Unwrap() error { return e.Err }

// An EndError ends the consumer. The try does not count.
type EndError struct{ Err error }

func (e *EndError) Error() string { return e.Err.Error() }
func (e *EndError) Unwrap() error { return e.Err }

// A RefusedError means that the destination has refused the events for what they are, so that
// a smaller batch may be tried at once.
type RefusedError struct{ Err error }

func (e *RefusedError) Error() string { return e.Err.Error() }
func (e *RefusedError) Unwrap() error { return e.Err }

// A TimeoutError means that a try took longer than it may.
type TimeoutError struct{ After time.Duration }

func (e *TimeoutError) Error() string { return fmt.Sprintf("no answer within %s", e.After) }

// ErrNameHeld means that processes of an earlier run of a consumer are still there.
var ErrNameHeld = errors.New("is held by processes of an earlier run")

// errEnding is the cause of the context of tries that are cut off at the end.
var errEnding = errors.New("the consumer ends")

// Bounds of memory, and of what a step stores. They are variables for the tests.
var (
	maxQueued  = 4096    // events that were read and are not done
	maxRead    = 1024    // events of storages that are behind, above maxQueued
	maxBlocked = 1 << 16 // storages
	maxBegun   = 1024    // events that may be started without another step
	laneBegun  = 64      // of one storage
	loadEvents = 64      // that are read of one storage
	minReady   = 64      // storages that may wait for a worker, however few are begun at a time
)

const (
	maxBytes    = 16 << 20 // of the lines of queued events
	maxLoading  = 8        // storages that are read at a time
	slowTime    = time.Second
	groupTime   = 50 * time.Millisecond
	positionLag = time.Second      // of the stored position while nothing is done
	renewTime   = 15 * time.Second // of the lease
	askTime     = time.Second      // between looks for dead letters to be tried again
	stepTime    = 10 * time.Second // that the last step may take
)

// pauseAfter returns how long to wait after the nth failed try.
func pauseAfter(n int) time.Duration {
	const first, most = 200 * time.Millisecond, time.Minute
	return min(first<<min(max(n-1, 0), 20), most)
}
