package cache

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strings"

	"github.com/rstream-dev/rstream/cache/internal/dbfile"
	"github.com/rstream-dev/rstream/cache/internal/rows"
	"github.com/rstream-dev/rstream/event"
)

var (
	// ErrHeld means that another process holds a cursor.
	ErrHeld = errors.New("is held by another process")
	// ErrNoCursor means that no cursor has that name.
	ErrNoCursor = errors.New("no such cursor")
	// ErrCursorName means that no cursor can have that name.
	ErrCursorName = fmt.Errorf("want 1 to %d bytes without control characters", event.MaxKey)
	// ErrDamagedCursor means that a bit has flipped in the row of a cursor. SetCursor with
	// topics replaces it.
	ErrDamagedCursor = fmt.Errorf("its position is lost: its row %w", dbfile.ErrCorrupt)
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
// error. If another process has the cursor, HoldCursor returns ErrHeld, and if a consumer
// has not done all events up to its position, ErrUnfinished.
func (db *DB) HoldCursor(ctx context.Context, name string, topics []event.Topic) (*Cursor, error) {
	return db.holdCursor(ctx, name, topics, func(tx *sql.Tx) error { return checkFinished(tx, name) })
}

// holdCursor takes a cursor if check, in the same transaction, returns no error.
func (db *DB) holdCursor(ctx context.Context, name string, topics []event.Topic, check func(tx *sql.Tx) error) (*Cursor, error) {
	if err := checkCursor(name); err != nil {
		return nil, err
	}
	c := &Cursor{db: db, name: name}
	err := db.file.Update(ctx, func(tx *sql.Tx) error {
		have, err := db.readCursor(tx, name)
		if errors.Is(err, ErrNoCursor) {
			if err := check(tx); err != nil {
				return err
			}
			_, err := tx.Exec(insertCursor, name, topicLines(topics), 0, nil, db.file.OwnerName(), db.file.LeaseEnd())
			return err
		}
		if err != nil {
			return err
		}
		if have.Held {
			return ErrHeld
		}
		if have.Damaged {
			return ErrDamagedCursor
		}
		if err := have.belongsTo(topics); err != nil {
			return err
		}
		if err := check(tx); err != nil {
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
		return fmt.Errorf("cursor %.40q: %w", name, ErrCursorName)
	}
	return nil
}

var (
	cursorQuery   = `SELECT name, topics, position, state, coalesce(owner, ''), coalesce(lease, 0), ` + dbfile.CursorTable.Sound() + ` FROM cursor`
	insertCursor  = dbfile.CursorTable.Insert("owner", "lease")
	replaceCursor = strings.Replace(insertCursor, "INSERT", "INSERT OR REPLACE", 1)
	setCursor     = dbfile.CursorTable.Update("position", "?1", "state", "NULL") + ` AND name = ?2`
	moveCursor    = dbfile.CursorTable.Update("position", "?1", "state", "?2", "lease", "?3") + ` AND name = ?4 AND owner = ?5`
)

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
	var sound bool
	var w rows.Window
	if err := scan(&c.Name, &topics, &c.Position, &c.state, &w.Owner, &w.Lease, &sound); err != nil {
		return c, err
	}
	c.Damaged = !sound
	c.Topics, c.Held = splitTopics(topics), db.file.Holds(w.Owner, w.Lease)
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
// none, it creates one for topics; without topics it returns ErrNoCursor. Events up to there
// count as done by a consumer; its dead letters stay.
func (db *DB) SetCursor(ctx context.Context, name string, topics []event.Topic, at event.ID) (c CursorInfo, err error) {
	if err := checkCursor(name); err != nil {
		return c, err
	}
	err = db.file.Update(ctx, func(tx *sql.Tx) error {
		c, err = db.readFreeCursor(tx, name)
		if err == nil {
			if err := dropUnfinished(tx, name, false); err != nil {
				return err
			}
		}
		if errors.Is(err, ErrNoCursor) && len(topics) > 0 {
			c = CursorInfo{Name: name, Topics: strings.Split(topicLines(topics), "\n"), Position: at}
			_, err := tx.Exec(insertCursor, name, topicLines(topics), at, nil, nil, nil)
			return err
		}
		switch {
		case err != nil:
			return err
		case c.Damaged && len(topics) == 0:
			return ErrDamagedCursor
		case c.Damaged:
			c = CursorInfo{Name: name, Topics: strings.Split(topicLines(topics), "\n"), Position: at}
			_, err := tx.Exec(replaceCursor, name, topicLines(topics), at, nil, nil, nil)
			return err
		case len(topics) > 0:
			if err := c.belongsTo(topics); err != nil {
				return err
			}
		}
		c.Position = at
		_, err := tx.Exec(setCursor, at, name)
		return err
	})
	return c, cursorError(name, err)
}

// DropCursors removes cursors and their dead letters, all or none, and returns the cursors. It returns ErrHeld if a
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
			if err := dropUnfinished(tx, name, true); err != nil {
				return err
			}
			dropped = append(dropped, c)
		}
		return nil
	})
	return dropped, err
}

func splitTopics(lines string) []string { return strings.Split(lines, "\n") }

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
	err := c.db.file.Update(ctx, func(tx *sql.Tx) error { return c.move(tx, at, state) })
	if err != nil {
		return fmt.Errorf("move cursor %s: %w", c.name, err)
	}
	c.position, c.state = at, state
	return nil
}

func (c *Cursor) move(tx *sql.Tx, at event.ID, state []byte) error {
	res, err := c.db.file.Exec(tx, moveCursor, at, state, c.db.file.LeaseEnd(), c.name, c.db.file.OwnerName())
	if err != nil {
		return err
	}
	if n, err := res.RowsAffected(); err != nil || n != 1 {
		return errors.Join(err, ErrLost)
	}
	return nil
}

// Release releases the cursor.
func (c *Cursor) Release(ctx context.Context) error {
	err := c.db.file.Update(ctx, func(tx *sql.Tx) error {
		_, err := tx.Exec(`UPDATE cursor SET owner = NULL, lease = NULL WHERE name = ? AND owner = ?`, c.name, c.db.file.OwnerName())
		return err
	})
	return dbfile.Wrap(err, "release the cursor %s", c.name)
}

// A CursorInfo describes a named cursor.
type CursorInfo struct {
	Name     string
	Topics   []string
	Position event.ID
	Held     bool // by a process
	Damaged  bool // its row is: none of the above is certain
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
