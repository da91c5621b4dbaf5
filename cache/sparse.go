package cache

import (
	"context"
	"database/sql"
	"errors"

	"github.com/rstream-dev/rstream/cache/internal/dbfile"
	"github.com/rstream-dev/rstream/cache/internal/pages"
	"github.com/rstream-dev/rstream/cache/internal/rows"
	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/window"
)

// skipEmpty returns the position up to which topics have no stored events after another one, end
// at most. A server may give its events any ids: code that goes through a range block by block skips
// the blocks without events, so that the work is that of the events.
func (db *DB) skipEmpty(ctx context.Context, tx *sql.Tx, topics []event.Topic, at, end event.ID) (event.ID, error) {
	if at >= end || db.file.IsDense() {
		return at, nil // each block has events
	}
	numbers, few, err := rows.FindNumbers(ctx, tx, topics, maxSeeks)
	if err != nil {
		return at, err
	}
	if !few {
		return pages.NextStored(ctx, tx, window.Span{From: at, To: end})
	}
	var indexed event.ID
	if err := dbfile.ScanLog(ctx, tx, `indexed`, &indexed); err != nil {
		return at, err
	}
	return pages.NextPosted(ctx, tx, numbers, window.Span{From: at, To: min(end, max(at, indexed))})
}

// skipUnimported is skipEmpty that stops at candidates, too.
func (db *DB) skipUnimported(ctx context.Context, tx *sql.Tx, topic event.Topic, at, end event.ID) (event.ID, error) {
	next, err := db.skipEmpty(ctx, tx, []event.Topic{topic}, at, end)
	if err != nil || next == at {
		return next, err
	}
	var first event.ID
	err = tx.QueryRowContext(ctx, `SELECT id FROM candidate WHERE id > ? AND id <= ? ORDER BY id LIMIT 1`, at, next).Scan(&first)
	if errors.Is(err, sql.ErrNoRows) {
		return next, nil
	}
	return max(at, window.BlockSpan(first.Block()).From), err
}
