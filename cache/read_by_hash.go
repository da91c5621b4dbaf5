package cache

import (
	"context"
	"database/sql"
	"fmt"
	"maps"
	"slices"

	"github.com/rstream-dev/rstream/cache/internal/pages"
	"github.com/rstream-dev/rstream/cache/internal/seen"
	"github.com/rstream-dev/rstream/event"
)

// hashChunk is how many hashes ByHash looks up in one transaction: many, since each
// transaction reads the hashes of the last events from their lines.
const hashChunk = 10_000

// ByHash calls fn with the events that have the given hashes, sorted by id, each once. It
// skips hashes that the log does not know or whose events were dropped. No transaction is
// open while fn runs.
func (db *DB) ByHash(ctx context.Context, hashes []event.Hash, fn func(*event.Event) error) error {
	var ids []event.ID
	for some := range slices.Chunk(hashes, hashChunk) {
		err := db.file.View(ctx, func(tx *sql.Tx) error {
			found, err := seen.LookUp(tx, some)
			ids = slices.AppendSeq(ids, maps.Values(found))
			return err
		})
		if err != nil {
			return fmt.Errorf("look up %d hashes: %w", len(hashes), err)
		}
	}
	slices.Sort(ids)
	for ids = slices.Compact(ids); len(ids) > 0; {
		evs, n, err := db.byIDs(ctx, ids)
		if err != nil {
			return fmt.Errorf("look up %d hashes: %w", len(hashes), err)
		}
		for i := range evs {
			if err := fn(&evs[i]); err != nil {
				return err
			}
		}
		ids = ids[n:]
	}
	return nil
}

// Taken returns those of hashes that the log ever took, with the ids of their events, also if
// these were dropped.
func (db *DB) Taken(ctx context.Context, hashes []event.Hash) (taken map[event.Hash]event.ID, err error) {
	taken = map[event.Hash]event.ID{}
	for some := range slices.Chunk(hashes, hashChunk) {
		err := db.file.View(ctx, func(tx *sql.Tx) error {
			found, err := seen.LookUp(tx, some)
			maps.Copy(taken, found)
			return err
		})
		if err != nil {
			return nil, fmt.Errorf("look up %d hashes: %w", len(hashes), err)
		}
	}
	return taken, nil
}

// byIDs reads the first of the events with the given ids, up to the limits of one read,
// and returns how many of the ids it has read.
func (db *DB) byIDs(ctx context.Context, ids []event.ID) (evs []event.Event, n int, err error) {
	err = db.file.View(ctx, func(tx *sql.Tx) error {
		r := reader{ctx: ctx, tx: tx, limit: eachChunk, sparse: true}
		n = 0
		err := pages.FindEach(ctx, tx, ids, func(i int, line []byte, _ int64) error {
			if r.reachedLimit() {
				return errEnough
			}
			n = i + 1
			if line == nil {
				return nil
			}
			return r.collectLine(ids[i], line)
		})
		if err != nil && err != errEnough {
			return err
		}
		evs = r.events
		return nil
	})
	return evs, n, err
}
