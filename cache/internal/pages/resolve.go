package pages

import (
	"context"
	"database/sql"

	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/window"
)

// scanGap is how far apart ids may be that Resolve finds by one scan.
const scanGap = 128

// Resolve returns where the events with some ids are, which must ascend. The page of an
// event that is not held is 0. Resolve returns a *DamageError if a damaged page may have
// one of them.
func Resolve(ctx context.Context, tx *sql.Tx, ids []event.ID) ([]Posted, error) {
	places := make([]Posted, len(ids))
	for from, to := 0, 0; from < len(ids); from = to {
		for to = from + 1; to < len(ids) && ids[to]-ids[to-1] <= scanGap; to++ {
		}
		err := resolveNear(ctx, tx, ids[from:to], places[from:to])
		if err != nil {
			return nil, err
		}
	}
	return places, nil
}

// resolveNear is Resolve for events near each other.
func resolveNear(ctx context.Context, tx *sql.Tx, ids []event.ID, places []Posted) error {
	if len(ids) == 1 {
		p, e, err := find(ctx, tx, ids[0])
		if err == nil && e != nil {
			places[0] = Posted{e.id, p.locator(e)}
		}
		return err
	}
	next := 0
	var damaged []*DamageError // which matters only if an event is not found elsewhere
	q := Query{Span: window.Span{From: ids[0] - 1, To: ids[len(ids)-1]}, MaxText: maxRecord}
	q.Skip = func(e *DamageError) error { damaged = append(damaged, e); return nil }
	err := Scan(ctx, tx, q, func(l Line) error {
		for next < len(ids) && ids[next] < l.ID {
			next++
		}
		if next < len(ids) && ids[next] == l.ID {
			places[next] = l.Posted()
		}
		return nil
	})
	for _, e := range damaged {
		for i := range ids {
			if places[i].Page == 0 && e.ID <= ids[i] && ids[i] <= e.Last {
				return e
			}
		}
	}
	return err
}
