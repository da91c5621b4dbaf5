package rows

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"github.com/rstream-dev/rstream/cache/internal/dbfile"
	"github.com/rstream-dev/rstream/cache/internal/pages"
	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/window"
)

// MaxReadBytes and MaxReadTime are roughly how much one transaction reads, and for how long.
const (
	MaxReadBytes = 1 << 20
	MaxReadTime  = 250 * time.Millisecond
)

// ParseStored reads the stored line of an event.
func ParseStored(id event.ID, line []byte) (event.Event, error) {
	ev, err := event.Stored(line)
	if err == nil && ev.ID != id {
		err = fmt.Errorf("event %s is stored as %s", ev.ID, id)
	}
	if err != nil {
		return event.Event{}, fmt.Errorf("%w: %w", dbfile.ErrCorrupt, err)
	}
	return ev, nil
}

// An OpenEvent is an event whose block has no postings, or no run of hashes, yet.
type OpenEvent struct {
	ID      event.ID
	Storage int64
	Hash    event.Hash
}

// EachOpenEvent calls visit with the events after a position, in their order on a server.
// skip is called with damage, which EachOpenEvent then goes past; if nil, damage ends it.
// notIndexed says that the index of pages cannot be read.
func EachOpenEvent(ctx context.Context, tx *sql.Tx, after event.ID, notIndexed bool, skip pages.Skip, visit func(OpenEvent)) error {
	q := pages.Query{Span: window.Span{From: after, To: event.MaxID}, NotIndexed: notIndexed, Skip: skip}
	return pages.Scan(ctx, tx, q, func(l pages.Line) error {
		ev, err := ParseStored(l.ID, l.Text)
		if err == nil {
			visit(OpenEvent{ID: l.ID, Storage: l.Storage, Hash: ev.Hash})
		}
		return err
	})
}

// LastStored returns the last stored event between two positions. A damaged event yields
// no mark.
func LastStored(ctx context.Context, tx *sql.Tx, after, until event.ID) (p event.Point, err error) {
	line, ok, err := pages.Last(ctx, tx, window.Span{From: after, To: until}, false)
	var damage *pages.DamageError
	if errors.As(err, &damage) {
		return event.Point{ID: min(damage.Last, until)}, nil
	}
	if err != nil || !ok {
		return p, err
	}
	p.ID = line.ID
	if ev, err := event.ParseLine(line.Text); err == nil && ev.ID == p.ID {
		p.Mark = ev.Mark()
	}
	return p, nil
}
