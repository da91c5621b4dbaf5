package cache

import (
	"context"
	"database/sql"
	"fmt"

	"github.com/rstream-dev/rstream/cache/internal/dbfile"
	"github.com/rstream-dev/rstream/cache/internal/rows"
	"github.com/rstream-dev/rstream/event"
)

// A Newest is how far a copy of a log has come.
type Newest struct {
	Log    string      // the log's name
	Held   event.ID    // nothing beyond it is held of any topic
	Marked event.Point // the newest position whose mark is known; zero if there is none
}

// Newest returns how far a copy has come. No removal reverts that: events once read
// distinguish the log's history from another for ever.
func (db *DB) Newest(ctx context.Context) (n Newest, err error) {
	n.Log = db.file.Log
	err = db.file.View(ctx, func(tx *sql.Tx) error {
		var mark string
		// The LIMIT has SQLite sort before it computes checksums, most often a single one.
		err := dbfile.ScanLog(ctx, tx, `seen, seen_mark, coalesce((SELECT reached FROM
			(SELECT * FROM window WHERE state <> 'pending' ORDER BY reached DESC LIMIT -1) AS window
			WHERE `+dbfile.WindowTable.Sound()+` LIMIT 1), 0)`, &n.Marked.ID, &mark, &n.Held)
		if err != nil {
			return err
		}
		if n.Marked.Mark, err = rows.ParseMark(mark); err != nil {
			return err
		}
		n.Held = max(n.Held, n.Marked.ID)
		return n.addLast(ctx, tx)
	})
	if err != nil {
		return Newest{}, fmt.Errorf("read the newest position of the copy: %w", err)
	}
	return n, nil
}

// addLast takes the mark of the last stored event if that is newer: every event carries
// its own mark, however it came.
func (n *Newest) addLast(ctx context.Context, tx *sql.Tx) error {
	last, err := rows.LastStored(ctx, tx, n.Marked.ID, event.MaxID)
	if last.Mark != 0 {
		n.Marked, n.Held = last, max(n.Held, last.ID)
	}
	return err
}

// LastStored returns the last event stored at or before a position, as a point of its
// log; the zero Point if there is none.
func (db *DB) LastStored(ctx context.Context, at event.ID) (p event.Point, err error) {
	err = db.file.View(ctx, func(tx *sql.Tx) error {
		p, err = rows.LastStored(ctx, tx, event.Beginning, at)
		return err
	})
	return p, dbfile.Wrap(err, "read the last event up to %s", at)
}
