package pages

import (
	"context"
	"database/sql"
	"errors"

	"github.com/rstream-dev/rstream/event"
)

// FindHeld returns the indexes of those of evs that are held. storages are the numbers of
// their storages, 0 for one that has none. FindHeld returns a *HeldError as Store does.
func FindHeld(ctx context.Context, tx *sql.Tx, evs []event.Event, storages []int64) (held []int, err error) {
	stmt, err := tx.PrepareContext(ctx, postingQuery)
	if err != nil {
		return nil, err
	}
	defer stmt.Close()
	postings := map[octetKey]*posting{}
	var there []Posted
	for i := range evs {
		key := octetKey{octetOf(storages[i]), evs[i].ID.Block()}
		p := postings[key]
		if p == nil {
			p, err = scanPosting(stmt.QueryRowContext(ctx, key.octet, int64(key.block)))
			if errors.Is(err, sql.ErrNoRows) {
				p, err = newPosting(key), nil
			}
			if err != nil {
				return nil, err
			}
			postings[key] = p
		}
		if e := p.find(storages[i], evs[i].ID); e != nil {
			held, there = append(held, i), append(there, *e)
		}
	}
	err = ReadLines(ctx, tx, there, func(i int, line []byte) error { return checkSame(line, &evs[held[i]]) })
	return held, err
}

// FindEach calls fn with the lines of events, in their order, and the numbers of their
// storages. The line of an event that is not held is nil. It is Find for ids that ascend,
// of which several are often in one page.
func FindEach(ctx context.Context, tx *sql.Tx, ids []event.ID, fn func(i int, line []byte, storage int64) error) error {
	stmt, err := tx.PrepareContext(ctx, nearestQuery)
	if err != nil {
		return err
	}
	defer stmt.Close()
	var near *page
	for i, id := range ids {
		if near == nil || near.find(id) == nil {
			near, err = scanPage(stmt.QueryRowContext(ctx, id, id, id))
			if err != nil {
				near = nil // Find knows what to do
			}
		}
		if near != nil {
			if e := near.find(id); e != nil {
				if err := fn(i, near.line(e), e.storage); err != nil {
					return err
				}
				continue
			}
		}
		line, storage, err := Find(ctx, tx, id)
		if err != nil {
			return err
		}
		if err := fn(i, line, storage); err != nil {
			return err
		}
	}
	return nil
}
