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
	ev, err := parseStored(id, line)
	if err != nil {
		err = fmt.Errorf("%w: %w", dbfile.ErrCorrupt, err)
	}
	return ev, err
}

// ParsePosted is ParseStored for a line that is there, in a page. It returns a *pages.DamageError
// if the line is not that of its event, so that those who go past damage can go past it: upgrades
// have kept lines that were wrong before, in pages that are sound.
func ParsePosted(p pages.Posted, line []byte) (event.Event, error) {
	ev, err := parseStored(p.ID, line)
	if err != nil {
		return event.Event{}, p.Damage(err)
	}
	return ev, nil
}

func parseStored(id event.ID, line []byte) (event.Event, error) {
	ev, err := event.Stored(line)
	if err == nil && ev.ID != id {
		err = fmt.Errorf("event %s is stored as %s", ev.ID, id)
	}
	if err != nil {
		return event.Event{}, err
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
		ev, err := ParsePosted(l.Posted(), l.Text)
		if err == nil {
			visit(OpenEvent{ID: l.ID, Storage: l.Storage, Hash: ev.Hash})
		}
		return skip.Pass(err)
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
