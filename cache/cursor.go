package cache

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strings"

	"github.com/rstream-dev/rstream/cache/internal/rows"
	"github.com/rstream-dev/rstream/event"
)

var (
	// ErrHeld means that another process holds a cursor.
	ErrHeld = errors.New("is held by another process")
	// ErrNoCursor means that no cursor has that name.
	ErrNoCursor = errors.New("no such cursor")
)

// A Cursor is a named reader's durable position. One open file holds it at a time, until
// Release or Close. It may be used by one goroutine. If the holder is killed, the next one
// begins at the last Move, so events handled since then are repeated.
type Cursor struct {
	db       *DB
	name     string
	position event.ID
	state    []byte
}

// HoldCursor takes the cursor name for this process. If there is none, it creates one at
// Beginning. A cursor belongs to the topics it was created with; other topics are an
// error. If another process has the cursor, HoldCursor returns ErrHeld.
func (db *DB) HoldCursor(ctx context.Context, name string, topics []event.Topic) (*Cursor, error) {
	if err := checkCursor(name); err != nil {
		return nil, err
	}
	c := &Cursor{db: db, name: name}
	err := db.file.Update(ctx, func(tx *sql.Tx) error {
		have, err := db.readCursor(tx, name)
		if errors.Is(err, ErrNoCursor) {
			_, err := tx.Exec(`INSERT INTO cursor (name, topics, position, owner, lease) VALUES (?, ?, 0, ?, ?)`,
				name, topicLines(topics), db.file.OwnerName(), db.file.LeaseEnd())
			return err
		}
		if err != nil {
			return err
		}
		if have.Held {
			return ErrHeld
		}
		if err := have.belongsTo(topics); err != nil {
			return err
		}
		c.position, c.state = have.Position, have.state
		_, err = tx.Exec(`UPDATE cursor SET owner = ?, lease = ? WHERE name = ?`, db.file.OwnerName(), db.file.LeaseEnd(), name)
		return err
	})
	if err != nil {
		return nil, cursorError(name, err)
	}
	return c, nil
}

// cursorError adds the cursor's name to err.
func cursorError(name string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("cursor %s: %w", name, err)
}

func checkCursor(name string) error {
	if name == "" || event.CheckKey(name) != nil {
		return fmt.Errorf("cursor %.40q: want 1 to %d bytes without control characters", name, event.MaxKey)
	}
	return nil
}

const cursorQuery = `SELECT name, topics, position, state, coalesce(owner, ''), coalesce(lease, 0) FROM cursor`

// readCursor reads a cursor, or returns ErrNoCursor.
func (db *DB) readCursor(tx *sql.Tx, name string) (cursorRow, error) {
	c, err := db.scanCursor(tx.QueryRow(cursorQuery+` WHERE name = ?`, name).Scan)
	if errors.Is(err, sql.ErrNoRows) {
		err = ErrNoCursor
	}
	return c, err
}

// scanCursor reads a row of cursorQuery.
func (db *DB) scanCursor(scan func(...any) error) (c cursorRow, err error) {
	var topics string
	var w rows.Window
	if err := scan(&c.Name, &topics, &c.Position, &c.state, &w.Owner, &w.Lease); err != nil {
		return c, err
	}
	c.Topics, c.Held = strings.Split(topics, "\n"), db.file.Holds(w.Owner, w.Lease)
	return c, nil
}

func (c *CursorInfo) belongsTo(topics []event.Topic) error {
	if topicLines(topics) != strings.Join(c.Topics, "\n") {
		return fmt.Errorf("belongs to the topics %s", strings.Join(c.Topics, " "))
	}
	return nil
}

// readFreeCursor reads a cursor that no process holds.
func (db *DB) readFreeCursor(tx *sql.Tx, name string) (CursorInfo, error) {
	c, err := db.readCursor(tx, name)
	if err == nil && c.Held {
		err = ErrHeld
	}
	return c.CursorInfo, err
}

// SetCursor sets the cursor name, which no process may hold, to position at. If there is
// none, it creates one for topics; without topics it returns ErrNoCursor.
func (db *DB) SetCursor(ctx context.Context, name string, topics []event.Topic, at event.ID) (c CursorInfo, err error) {
	if err := checkCursor(name); err != nil {
		return c, err
	}
	err = db.file.Update(ctx, func(tx *sql.Tx) error {
		c, err = db.readFreeCursor(tx, name)
		if errors.Is(err, ErrNoCursor) && len(topics) > 0 {
			c = CursorInfo{Name: name, Topics: strings.Split(topicLines(topics), "\n"), Position: at}
			_, err := tx.Exec(`INSERT INTO cursor (name, topics, position) VALUES (?, ?, ?)`, name, topicLines(topics), at)
			return err
		}
		if err != nil {
			return err
		}
		if len(topics) > 0 {
			if err := c.belongsTo(topics); err != nil {
				return err
			}
		}
		c.Position = at
		_, err := tx.Exec(`UPDATE cursor SET position = ?, state = NULL WHERE name = ?`, at, name)
		return err
	})
	return c, cursorError(name, err)
}

// DropCursors removes cursors, all or none, and returns them. It returns ErrHeld if a
// process holds one, and ErrNoCursor if one does not exist.
func (db *DB) DropCursors(ctx context.Context, names []string) (dropped []CursorInfo, err error) {
	err = db.file.Update(ctx, func(tx *sql.Tx) error {
		dropped = dropped[:0]
		for _, name := range names {
			c, err := db.readFreeCursor(tx, name)
			if err != nil {
				return cursorError(name, err)
			}
			if _, err := tx.Exec(`DELETE FROM cursor WHERE name = ?`, name); err != nil {
				return err
			}
			dropped = append(dropped, c)
		}
		return nil
	})
	return dropped, err
}

func topicLines(topics []event.Topic) string {
	var lines []string
	for _, t := range topics {
		lines = append(lines, t.String())
	}
	return strings.Join(lines, "\n")
}

// Position returns the cursor's position.
func (c *Cursor) Position() event.ID { return c.position }

// State returns the state that Move stored with the position, nil if the position was set
// by other means since.
func (c *Cursor) State() []byte { return c.state }

// Move sets the cursor to position at, stores state with it in the same transaction, and
// renews the lease. state is opaque to the package. Move returns ErrLost if another
// process has taken the cursor. Call it with a context that outlives a signal, so that
// events handled before a shutdown are not repeated.
func (c *Cursor) Move(ctx context.Context, at event.ID, state []byte) error {
	err := c.db.file.Update(ctx, func(tx *sql.Tx) error {
		res, err := tx.Exec(`UPDATE cursor SET position = ?, state = ?, lease = ? WHERE name = ? AND owner = ?`,
			at, state, c.db.file.LeaseEnd(), c.name, c.db.file.OwnerName())
		if err != nil {
			return err
		}
		if n, err := res.RowsAffected(); err != nil || n != 1 {
			return errors.Join(err, ErrLost)
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("move cursor %s: %w", c.name, err)
	}
	c.position, c.state = at, state
	return nil
}

// Release releases the cursor.
func (c *Cursor) Release(ctx context.Context) error {
	return c.db.file.Update(ctx, func(tx *sql.Tx) error {
		_, err := tx.Exec(`UPDATE cursor SET owner = NULL, lease = NULL WHERE name = ? AND owner = ?`, c.name, c.db.file.OwnerName())
		return err
	})
}

// A CursorInfo describes a named cursor.
type CursorInfo struct {
	Name     string
	Topics   []string
	Position event.ID
	Held     bool // by a process
}

// A cursorRow is a cursor as stored in the file.
type cursorRow struct {
	CursorInfo
	state []byte
}

// Cursors returns the named cursors, sorted by name.
func (db *DB) Cursors(ctx context.Context) (cs []CursorInfo, err error) {
	err = db.file.View(ctx, func(tx *sql.Tx) error {
		rows, err := tx.Query(cursorQuery + ` ORDER BY name`)
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			c, err := db.scanCursor(rows.Scan)
			if err != nil {
				return err
			}
			cs = append(cs, c.CursorInfo)
		}
		return rows.Err()
	})
	return cs, err
}

// Followed returns the topics of a sync without topics.
func (db *DB) Followed(ctx context.Context) (topics []event.Topic, err error) {
	err = db.file.View(ctx, func(tx *sql.Tx) error {
		rows, err := tx.Query(`SELECT topic FROM followed ORDER BY topic`)
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			var text string
			if err := rows.Scan(&text); err != nil {
				return err
			}
			t, err := event.ParseTopic(text)
			if err != nil {
				return fmt.Errorf("%w: %w", ErrCorrupt, err)
			}
			topics = append(topics, t)
		}
		return rows.Err()
	})
	return topics, err
}

// Remember records topics as followed, and url as a server of this log. url must not
// contain a password. Either may be empty.
func (db *DB) Remember(ctx context.Context, topics []event.Topic, url string) error {
	return db.file.Update(ctx, func(tx *sql.Tx) error {
		for _, t := range topics {
			if _, err := tx.Exec(`INSERT INTO followed (topic) VALUES (?) ON CONFLICT DO NOTHING`, t.String()); err != nil {
				return err
			}
		}
		if url == "" {
			return nil
		}
		_, err := tx.Exec(`INSERT INTO source (url, seen) VALUES (?, ?)
			ON CONFLICT DO UPDATE SET seen = excluded.seen`, url, event.TimeOf(db.file.Now()))
		return err
	})
}

// A Count is how much a file holds.
type Count struct {
	Events   int64
	Storages int64
	Bytes    int64 // of the file, excluding its write-ahead log
}

// Count returns how much the file holds.
func (db *DB) Count(ctx context.Context) (n Count, err error) {
	err = db.file.ViewRow(ctx, `SELECT (SELECT count(*) FROM event), (SELECT count(*) FROM storage),
		(SELECT page_count * page_size FROM pragma_page_count, pragma_page_size)`, nil, &n.Events, &n.Storages, &n.Bytes)
	return n, err
}

// Sources returns the URLs of servers known to serve the log, most recent first.
func (db *DB) Sources(ctx context.Context) (urls []string, err error) {
	err = db.file.View(ctx, func(tx *sql.Tx) error {
		rows, err := tx.Query(`SELECT url FROM source ORDER BY seen DESC, url`)
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			var url string
			if err := rows.Scan(&url); err != nil {
				return err
			}
			urls = append(urls, url)
		}
		return rows.Err()
	})
	return urls, err
}

// MigrateOutbox copies the drafts in the outbox of another copy, in order. Drafts that were
// refused there are queued again.
func (db *DB) MigrateOutbox(ctx context.Context, old *DB) error {
	for after := int64(0); ; {
		queued, err := old.Outbox().List(ctx, after, maxReadEvents)
		if err != nil || len(queued) == 0 {
			return err
		}
		drafts := make([]event.Draft, len(queued))
		for i := range queued {
			drafts[i] = queued[i].Draft
		}
		if _, err := db.Outbox().Queue(ctx, drafts); err != nil {
			return err
		}
		after = queued[len(queued)-1].Number
	}
}

// MigrateCursors copies the cursors and the followed topics of another copy, whose log this
// copy's log was restored from. A cursor beyond parted, where the two logs diverged, is
// set back to parted. Cursors and topics already in this copy are kept.
func (db *DB) MigrateCursors(ctx context.Context, old *DB, parted event.ID) error {
	cursors, err := old.Cursors(ctx)
	if err != nil {
		return err
	}
	topics, err := old.Followed(ctx)
	if err != nil {
		return err
	}
	if err := db.Remember(ctx, topics, ""); err != nil {
		return err
	}
	return db.file.Update(ctx, func(tx *sql.Tx) error {
		for _, c := range cursors {
			_, err := tx.Exec(`INSERT INTO cursor (name, topics, position) VALUES (?, ?, ?) ON CONFLICT DO NOTHING`,
				c.Name, strings.Join(c.Topics, "\n"), min(c.Position, parted))
			if err != nil {
				return err
			}
		}
		return nil
	})
}
