package cache

import (
	"context"
	"database/sql"
	"fmt"

	"github.com/rstream-dev/rstream/event"
)

// ApplyPlaced is Apply of events that were here already, outside of all windows, but
// for fetched of them: only these are counted as fetched.
func (l *Lease) ApplyPlaced(ctx context.Context, evs, fetched []event.Event, reached event.ID) (added []event.Event, err error) {
	copying := l.copying
	l.copying = true
	added, err = l.Apply(ctx, evs, reached)
	if l.copying = copying; err != nil || len(fetched) == 0 {
		return added, err
	}
	err = l.db.update(ctx, func(tx *sql.Tx) error { return tally(tx, fetched) })
	if err != nil {
		return added, fmt.Errorf("count what was fetched: %w", err)
	}
	return added, nil
}
