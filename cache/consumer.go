package cache

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strings"

	"github.com/rstream-dev/rstream/cache/internal/dbfile"
	"github.com/rstream-dev/rstream/event"
)

var (
	// ErrUnfinished means that a consumer has not done all events up to its cursor: a reader
	// that resumes at the position would leave them out.
	ErrUnfinished = errors.New("has events that its consumer has not done")
	// ErrNoDeadLetter means that a consumer has no dead letter of that number.
	ErrNoDeadLetter = errors.New("no such dead letter")
)

// A Consumer is a cursor whose holder does something for each event, in the order of each
// storage. All events up to its position are done, except those of blocked storages and
// those that its state names. Like a Cursor, it is held by one open file at a time.
type Consumer struct{ *Cursor }

// A BlockedStorage is a storage whose events a consumer has not done from First on, an event
// or a position before it.
type BlockedStorage struct {
	Storage event.Storage
	First   event.ID
	Tries   int        // of that event
	Retry   event.Time // when to try it again
	Error   string     // of the last try; empty if there was none
}

// A DeadLetter is an event that a consumer has given up.
type DeadLetter struct {
	Number int64 // assigned when it is stored
	Event  event.Event
	Tries  int
	Time   event.Time // of the last try
	Error  string     // of the last try
	Retry  bool       // the consumer is to try it again
}

// A ConsumerStep is a change of a consumer, stored in one transaction.
type ConsumerStep struct {
	Position event.ID
	State    []byte           // opaque to the package, stored with the position
	Oldest   event.ID         // the first event that is not done, zero if there is none
	Block    []BlockedStorage // are added or replaced
	Unblock  []event.Storage  // are no longer blocked
	Bury     []DeadLetter     // are added
	Return   []DeadLetter     // were tried again, or are to be: get all but the event
	Remove   []int64          // dead letters that are done
}

// The tables of consumers are made when a file gets its first one. Their names have the
// version of their form.
const createConsumers = `
	CREATE TABLE IF NOT EXISTS consumer1 (
	  name   TEXT PRIMARY KEY,
	  oldest INTEGER NOT NULL,            -- the first event that is not done, 0 if there is none
	  sum    INTEGER NOT NULL             -- row_sum (name, oldest)
	) STRICT, WITHOUT ROWID;
	CREATE TABLE IF NOT EXISTS consumer1_blocked (
	  name  TEXT    NOT NULL,
	  user  TEXT    NOT NULL,
	  path  TEXT    NOT NULL,
	  first INTEGER NOT NULL,             -- events of the storage before it are done
	  tries INTEGER NOT NULL,
	  retry INTEGER NOT NULL,             -- µs
	  error TEXT    NOT NULL,
	  sum   INTEGER NOT NULL,             -- row_sum of the others
	  PRIMARY KEY (name, user, path)
	) STRICT, WITHOUT ROWID;
	CREATE TABLE IF NOT EXISTS consumer1_dead (
	  number INTEGER PRIMARY KEY AUTOINCREMENT,
	  name   TEXT    NOT NULL,
	  line   TEXT    NOT NULL,
	  tries  INTEGER NOT NULL,
	  time   INTEGER NOT NULL,            -- µs
	  error  TEXT    NOT NULL,
	  retry  INTEGER NOT NULL DEFAULT 0   -- 1: to be tried again
	) STRICT;
	CREATE INDEX IF NOT EXISTS consumer1_dead_name ON consumer1_dead (name, number)`

// HoldConsumer is HoldCursor for a consumer.
func (db *DB) HoldConsumer(ctx context.Context, name string, topics []event.Topic) (*Consumer, error) {
	c, err := db.holdCursor(ctx, name, topics, func(tx *sql.Tx) error {
		_, err := tx.Exec(createConsumers)
		return err
	})
	if err != nil {
		return nil, err
	}
	return &Consumer{c}, nil
}

// Step stores a step and renews the lease. It returns ErrLost if another process has taken
// the cursor. Call it with a context that outlives a signal.
func (c *Consumer) Step(ctx context.Context, s *ConsumerStep) error {
	err := c.db.file.Update(ctx, func(tx *sql.Tx) error {
		if err := c.move(tx, s.Position, s.State); err != nil {
			return err
		}
		w := consumerWriter{tx: tx, file: c.db.file, name: c.name}
		return w.write(s)
	})
	if err != nil {
		return fmt.Errorf("move cursor %s: %w", c.name, err)
	}
	c.position, c.state = s.Position, s.State
	return nil
}

// A consumerWriter writes the rows of one consumer in a transaction.
type consumerWriter struct {
	tx   *sql.Tx
	file *dbfile.File
	name string
}

func (w *consumerWriter) exec(query string, args ...any) error {
	_, err := w.file.Exec(w.tx, query, args...)
	return err
}

func (w *consumerWriter) write(s *ConsumerStep) error {
	oldest := int64(s.Oldest)
	err := w.exec(`INSERT OR REPLACE INTO consumer1 (name, oldest, sum) VALUES (?, ?, ?)`, w.name, oldest, dbfile.RowSum(w.name, oldest))
	if err != nil {
		return err
	}
	for _, st := range s.Unblock {
		if err := w.exec(`DELETE FROM consumer1_blocked WHERE name = ? AND user = ? AND path = ?`, w.name, st.User, st.Path); err != nil {
			return err
		}
	}
	for i := range s.Block {
		if err := w.block(&s.Block[i]); err != nil {
			return err
		}
	}
	for i := range s.Bury {
		d := &s.Bury[i]
		err := w.exec(`INSERT INTO consumer1_dead (name, line, tries, time, error, retry) VALUES (?, ?, ?, ?, ?, ?)`,
			w.name, string(d.Event.Line()), d.Tries, int64(d.Time), d.Error, d.Retry)
		if err != nil {
			return err
		}
	}
	for _, d := range s.Return {
		err := w.exec(`UPDATE consumer1_dead SET tries = ?, time = ?, error = ?, retry = ? WHERE name = ? AND number = ?`,
			d.Tries, int64(d.Time), d.Error, d.Retry, w.name, d.Number)
		if err != nil {
			return err
		}
	}
	for _, n := range s.Remove {
		if err := w.exec(`DELETE FROM consumer1_dead WHERE name = ? AND number = ?`, w.name, n); err != nil {
			return err
		}
	}
	return nil
}

func (w *consumerWriter) block(b *BlockedStorage) error {
	return w.exec(`INSERT OR REPLACE INTO consumer1_blocked (name, user, path, first, tries, retry, error, sum) VALUES (?, ?, ?, ?, ?, ?, ?, ?)`,
		w.name, b.Storage.User, b.Storage.Path, int64(b.First), int64(b.Tries), int64(b.Retry), b.Error, b.sum(w.name))
}

// sum returns the checksum of the row of b.
func (b *BlockedStorage) sum(name string) int64 {
	return dbfile.RowSum(name, b.Storage.User, b.Storage.Path, int64(b.First), int64(b.Tries), int64(b.Retry), b.Error)
}

// Blocked returns the blocked storages of a consumer, sorted by name. A damaged row is
// an error.
func (db *DB) Blocked(ctx context.Context, name string) (list []BlockedStorage, err error) {
	err = db.viewConsumers(ctx, func(tx *sql.Tx) error {
		found, err := tx.Query(`SELECT user, path, first, tries, retry, error, sum FROM consumer1_blocked WHERE name = ? ORDER BY user, path`, name)
		if err != nil {
			return err
		}
		defer found.Close()
		for found.Next() {
			var b BlockedStorage
			var sum int64
			if err := found.Scan(&b.Storage.User, &b.Storage.Path, &b.First, &b.Tries, &b.Retry, &b.Error, &sum); err != nil {
				return err
			}
			if sum != b.sum(name) {
				return fmt.Errorf("the row of %s %w", b.Storage, ErrCorrupt)
			}
			list = append(list, b)
		}
		return found.Err()
	})
	return list, cursorError(name, err)
}

// A ConsumerInfo describes a consumer.
type ConsumerInfo struct {
	State   []byte   // that was stored with the position
	Oldest  event.ID // the first event that is not done, or a position before it; zero if there is none
	Waiting int      // blocked storages
	Dead    int      // dead letters
}

// ConsumerInfo returns the state of the consumer name; ok is false if the cursor was never
// one, and if it was set since and has no dead letters.
func (db *DB) ConsumerInfo(ctx context.Context, name string) (info ConsumerInfo, ok bool, err error) {
	err = db.viewConsumers(ctx, func(tx *sql.Tx) error {
		err := tx.QueryRow(`SELECT state, coalesce(oldest, 0), oldest IS NOT NULL,
			(SELECT count(*) FROM consumer1_blocked WHERE name = ?1),
			(SELECT count(*) FROM consumer1_dead WHERE name = ?1)
			FROM cursor LEFT JOIN consumer1 USING (name) WHERE name = ?1`, name).Scan(&info.State, &info.Oldest, &ok, &info.Waiting, &info.Dead)
		if errors.Is(err, sql.ErrNoRows) {
			return nil
		}
		ok = ok || info.Dead > 0
		return err
	})
	return info, ok, cursorError(name, err)
}

// DeadLetters returns up to limit dead letters of a consumer with numbers after after; with
// retry only those that it is to try again.
func (db *DB) DeadLetters(ctx context.Context, name string, retry bool, after int64, limit int) (list []DeadLetter, err error) {
	err = db.viewConsumers(ctx, func(tx *sql.Tx) error {
		found, err := tx.Query(`SELECT number, line, tries, time, error, retry FROM consumer1_dead
			WHERE name = ? AND number > ? AND retry >= ? ORDER BY number LIMIT ?`, name, after, retry, limit)
		if err != nil {
			return err
		}
		defer found.Close()
		for found.Next() {
			var d DeadLetter
			var line []byte
			if err := found.Scan(&d.Number, &line, &d.Tries, &d.Time, &d.Error, &d.Retry); err != nil {
				return err
			}
			if d.Event, err = event.ParseLine(line); err != nil {
				return fmt.Errorf("dead letter %d: %w: %w", d.Number, ErrCorrupt, err)
			}
			list = append(list, d)
		}
		return found.Err()
	})
	return list, cursorError(name, err)
}

// RetryDead asks the consumer name to try dead letters again, all or none of numbers.
func (db *DB) RetryDead(ctx context.Context, name string, numbers []int64) error {
	return db.changeDead(ctx, name, numbers, `UPDATE consumer1_dead SET retry = 1 WHERE name = ? AND number = ?`)
}

// DropDead removes dead letters, all or none of numbers.
func (db *DB) DropDead(ctx context.Context, name string, numbers []int64) error {
	return db.changeDead(ctx, name, numbers, `DELETE FROM consumer1_dead WHERE name = ? AND number = ?`)
}

func (db *DB) changeDead(ctx context.Context, name string, numbers []int64, change string) error {
	if len(numbers) == 0 {
		return nil
	}
	err := db.file.Update(ctx, func(tx *sql.Tx) error {
		if _, err := tx.Exec(createConsumers); err != nil {
			return err
		}
		for _, number := range numbers {
			res, err := tx.Exec(change, name, number)
			if err != nil {
				return err
			}
			if n, err := res.RowsAffected(); err != nil || n != 1 {
				return errors.Join(err, fmt.Errorf("%d: %w", number, ErrNoDeadLetter))
			}
		}
		return nil
	})
	return cursorError(name, err)
}

// EventsByID returns the stored events that have the given ids, in ascending order. It skips
// ids that the file does not have.
func (db *DB) EventsByID(ctx context.Context, ids []event.ID) (evs []event.Event, err error) {
	for len(ids) > 0 {
		some, n, err := db.byIDs(ctx, ids)
		if err != nil {
			return nil, err
		}
		evs, ids = append(evs, some...), ids[n:]
	}
	return evs, nil
}

// hasConsumers reports whether the file has the tables of consumers.
func hasConsumers(tx *sql.Tx) (bool, error) {
	var n int
	err := tx.QueryRow(`SELECT count(*) FROM sqlite_master WHERE name IN ('consumer1', 'consumer1_blocked', 'consumer1_dead')`).Scan(&n)
	return n == 3, err
}

// viewConsumers is a View for a file that may never have had a consumer.
func (db *DB) viewConsumers(ctx context.Context, fn func(tx *sql.Tx) error) error {
	return db.file.View(ctx, func(tx *sql.Tx) error {
		if ok, err := hasConsumers(tx); err != nil || !ok {
			return err
		}
		return fn(tx)
	})
}

// oldestUnfinished returns the first event that a consumer has not done, zero if there is
// none or the cursor is no consumer's.
func oldestUnfinished(tx *sql.Tx, name string) (oldest event.ID, err error) {
	if ok, err := hasConsumers(tx); err != nil || !ok {
		return 0, err
	}
	var sum int64
	err = tx.QueryRow(`SELECT oldest, sum FROM consumer1 WHERE name = ?`, name).Scan(&oldest, &sum)
	switch {
	case errors.Is(err, sql.ErrNoRows):
		return 0, nil
	case err == nil && sum != dbfile.RowSum(name, int64(oldest)):
		err = ErrDamagedCursor
	}
	return oldest, err
}

// checkFinished returns ErrUnfinished if a reader that resumes at the position of the cursor
// would leave events out.
func checkFinished(tx *sql.Tx, name string) error {
	oldest, err := oldestUnfinished(tx, name)
	if err == nil && oldest != 0 {
		err = ErrUnfinished
	}
	return err
}

// dropUnfinished forgets which events a consumer has not done, since its cursor was set, or
// removed with its dead letters.
func dropUnfinished(tx *sql.Tx, name string, dead bool) error {
	ok, err := hasConsumers(tx)
	if err != nil || !ok {
		return err
	}
	_, err = tx.Exec(`DELETE FROM consumer1_blocked WHERE name = ?`, name)
	if err == nil {
		_, err = tx.Exec(`DELETE FROM consumer1 WHERE name = ?`, name)
	}
	if err == nil && dead {
		_, err = tx.Exec(`DELETE FROM consumer1_dead WHERE name = ?`, name)
	}
	return err
}

// An oldConsumer is a cursor of another copy that MigrateCursors copies, and its dead letters.
type oldConsumer struct {
	CursorInfo // at the position where its reader is to go on
	dead       []DeadLetter
}

// readOldConsumer reads a cursor whose reader is to go on at parted, or before the first event
// that it has not done. It returns ErrCorrupt if a row is damaged.
func (db *DB) readOldConsumer(ctx context.Context, c *CursorInfo, parted event.ID) (o oldConsumer, err error) {
	if c.Damaged {
		return o, ErrDamagedCursor
	}
	o.CursorInfo = *c
	o.Position = min(o.Position, parted)
	err = db.viewConsumers(ctx, func(tx *sql.Tx) error {
		oldest, err := oldestUnfinished(tx, c.Name)
		if err == nil && oldest != 0 {
			o.Position = min(o.Position, oldest-1)
		}
		return cursorError(c.Name, err)
	})
	for err == nil {
		var some []DeadLetter
		after := int64(0)
		if len(o.dead) > 0 {
			after = o.dead[len(o.dead)-1].Number
		}
		if some, err = db.DeadLetters(ctx, c.Name, false, after, 1000); len(some) == 0 {
			break
		}
		o.dead = append(o.dead, some...)
	}
	return o, err
}

// insertOldConsumer adds a cursor and its dead letters. Existing rows stay.
func (db *DB) insertOldConsumer(tx *sql.Tx, o *oldConsumer) error {
	_, err := tx.Exec(insertCursor+` ON CONFLICT DO NOTHING`, o.Name, strings.Join(o.Topics, "\n"), o.Position, nil, nil, nil)
	if err != nil || len(o.dead) == 0 {
		return err
	}
	if _, err := tx.Exec(createConsumers); err != nil {
		return err
	}
	var n int
	if err := tx.QueryRow(`SELECT count(*) FROM consumer1_dead WHERE name = ?`, o.Name).Scan(&n); err != nil || n > 0 {
		return err // they were copied before
	}
	w := consumerWriter{tx: tx, file: db.file, name: o.Name}
	return w.write(&ConsumerStep{Bury: o.dead})
}
