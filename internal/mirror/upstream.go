package mirror

import (
	"context"
	"fmt"
	"iter"

	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/internal/wire"
)

// An Upstream is the server of a log that is mirrored, or of some topics of it. Its methods may
// be called at the same time.
type Upstream interface {
	// Describe returns what the upstream says of its log. held is the newest position of the
	// log that is known here, the zero Position if there is none; if the upstream's log does not
	// have it, the error is a *ConflictError.
	Describe(ctx context.Context, held Position) (Description, error)
	// State yields the state at a position, which is the horizon of the log. t is the time of
	// the last event at or before it. An error is the last value.
	State(ctx context.Context, at Position) (t event.Time, state iter.Seq2[event.Event, error], err error)
	// Follow yields the events after a position, each once, in order, as they come. An error
	// is the last value: a *ConflictError if the log does not have the position, and a
	// *GoneError if it has dropped history after it.
	Follow(ctx context.Context, after Position) iter.Seq2[Batch, error]
	// Append appends drafts, all or none, with the credentials of a caller. held is as for
	// Describe. A refusal is a *wire.Error.
	Append(ctx context.Context, held Position, from wire.Caller, drafts []event.Draft) ([]event.Receipt, error)
}

// A Position is a position of a log, with its mark if that is known.
type Position struct {
	Log string // the whole id of the log; if empty, any
	event.Point
}

// Cursor returns the position as a reader of the log sends it.
func (p Position) Cursor() event.Cursor { return p.Point.Cursor(p.Log) }

// A Description is what an upstream says of its log.
type Description struct {
	Log     string
	Head    event.Point
	Horizon event.Point
	// Parent is the log from which this one was made, "" if there is none, and ParentHead
	// where the two parted, or event.MaxID if that is not known.
	Parent     string
	ParentHead event.ID
	Via        string // the mirrors between it and the server that assigns ids, as in wire.HeaderVia
}

// A Batch is some events that arrived together.
type Batch struct {
	Events []event.Event
	Bytes  int         // of their lines
	To     event.Point // everything up to there has been yielded; of a mirror of some topics, it may be after the last event
	Head   event.ID    // of the upstream, as far as it has said
	Live   bool        // everything up to the head at the time of the request has been yielded
}

// A ConflictError means that the log of the upstream is not the one that is mirrored, does
// not have the history that is here, or comes from this mirror.
type ConflictError struct {
	Reason string // one of the Reason constants of package wire
	Detail string
}

func (e *ConflictError) Error() string { return e.Detail }

// A GoneError means that the upstream has dropped history that is not here yet.
type GoneError struct{ After, Oldest event.ID }

func (e *GoneError) Error() string {
	return fmt.Sprintf("the upstream has dropped the history between %s and %s", e.After, e.Oldest)
}

// A WrongAnswerError means that an upstream has sent what no server of a log may send. Nothing
// of it was stored.
type WrongAnswerError struct {
	URL  string // without secrets
	Text string
}

func (e *WrongAnswerError) Error() string { return e.URL + " " + e.Text }
