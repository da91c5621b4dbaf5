package cache

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"

	"github.com/rstream-dev/rstream/cache/internal/dbfile"
	"github.com/rstream-dev/rstream/cache/internal/pages"
	"github.com/rstream-dev/rstream/cache/internal/rows"
	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/window"
)

// ErrNotInLog means that an event is not in the log it claims to belong to: the range in
// which it would be is held and proven without it.
var ErrNotInLog = errors.New("is not in the log: the proven range does not contain it")

// ErrUnproven means that an imported event has members that its hash does not cover, so
// that no digest could ever confirm them.
var ErrUnproven = errors.New("has members that its hash does not cover")

// importChunk is how many imported events one transaction looks at. It is a variable for
// the tests.
var importChunk = 1000

// Imports are the events imported from files, of this log or of another one. They are not
// read as events until a server is known to have them.
type Imports struct{ db *DB }

// Imports returns the imported events of a client's file.
func (db *DB) Imports() Imports { return Imports{db} }

// AddCandidates stores imported events of this log, each accepted by event.ParseLine, all
// or none. They are candidates: they are not read as events until a window that contains
// them is proven. Events that are already stored are skipped. A candidate replaces an
// earlier one with the same id, so that a good file can correct a bad one. AddCandidates
// returns how many candidates are new or changed. It returns a *ConflictError if an event
// differs from the one stored under its id, ErrNotInLog, or ErrUnproven.
func (im Imports) AddCandidates(ctx context.Context, evs []event.Event) (added int, err error) {
	if err := im.db.takesImports(); err != nil {
		return 0, err
	}
	err = im.db.file.Update(ctx, func(tx *sql.Tx) error {
		fresh, err := newCandidates(ctx, tx, evs)
		if err != nil {
			return err
		}
		insert, err := tx.Prepare(`INSERT INTO candidate (id, storage, line) VALUES (?, ?, ?)
			ON CONFLICT DO UPDATE SET storage = excluded.storage, line = excluded.line WHERE line <> excluded.line`)
		if err != nil {
			return err
		}
		defer insert.Close()
		added = 0
		for _, ev := range fresh {
			storage, err := im.db.tables.StorageID(tx, ev.User, ev.Path)
			if err != nil {
				return err
			}
			n, err := affected(insert.Exec(ev.ID, storage, string(ev.Line())))
			if err != nil {
				return err
			}
			added += n
		}
		return nil
	})
	return added, dbfile.Wrap(err, "import")
}

// CheckCandidates returns the error that AddCandidates would return, but adds nothing.
func (im Imports) CheckCandidates(ctx context.Context, evs []event.Event) error {
	if err := im.db.takesImports(); err != nil {
		return err
	}
	err := im.db.file.View(ctx, func(tx *sql.Tx) error {
		_, err := newCandidates(ctx, tx, evs)
		return err
	})
	return dbfile.Wrap(err, "import")
}

// takesImports returns an error for the file of a log itself, which gets its events from
// Append.
func (db *DB) takesImports() error {
	if db.file.Role != Client {
		return fmt.Errorf("import: %w", db.file.Role.Wrong())
	}
	return nil
}

// newCandidates returns those of evs that are not stored.
func newCandidates(ctx context.Context, tx *sql.Tx, evs []event.Event) (fresh []*event.Event, err error) {
	windows, err := rows.LoadWindows(tx)
	if err != nil {
		return nil, err
	}
	for i := range evs {
		if !evs[i].Covered() {
			return nil, fmt.Errorf("event %s %w", evs[i].ID, ErrUnproven)
		}
	}
	storages, err := rows.FindStorageIDs(ctx, tx, evs)
	if err != nil {
		return nil, err
	}
	held, err := pages.FindHeld(ctx, tx, evs, storages)
	if err != nil {
		return nil, conflictOf(err)
	}
	for i := range evs {
		ev := &evs[i]
		switch {
		case len(held) > 0 && held[0] == i:
			held = held[1:]
		case inProven(windows, ev):
			return nil, fmt.Errorf("event %s %w", ev.ID, ErrNotInLog)
		default:
			fresh = append(fresh, ev)
		}
	}
	return fresh, checkUntaken(ctx, tx, fresh)
}

// checkUntaken returns a *ConflictError if one of evs, none of which is held, has the id of
// an event of another storage.
func checkUntaken(ctx context.Context, tx *sql.Tx, evs []*event.Event) error {
	ids := make([]event.ID, len(evs))
	for i := range evs {
		ids[i] = evs[i].ID
	}
	slices.Sort(ids)
	places, err := pages.Resolve(ctx, tx, slices.Compact(ids))
	for i := range places {
		if places[i].Page != 0 {
			return &ConflictError{ID: places[i].ID}
		}
	}
	return err
}

// inProven reports whether ev lies in a proven window, which has it if it is in the log.
func inProven(windows []rows.Window, ev *event.Event) bool {
	for i := range windows {
		w := &windows[i]
		if w.Proven && w.Topic.Matches(ev.User, ev.Path) && w.Held().Contains(spanOf(ev.ID)) {
			return true
		}
	}
	return false
}

// spanOf returns the span that contains only id.
func spanOf(id event.ID) window.Span { return window.Span{From: id - 1, To: id} }

// affected returns how many rows a statement has changed.
func affected(res sql.Result, err error) (int, error) {
	if err != nil {
		return 0, err
	}
	n, err := res.RowsAffected()
	return int(n), err
}

// Candidates calls fn with the candidates of topic in span, sorted by id. It reads them
// in chunks: no transaction is open while fn runs.
func (im Imports) Candidates(ctx context.Context, topic event.Topic, span window.Span, fn func(*event.Event) error) error {
	return im.eachCandidate(ctx, topic, span, fn, nil)
}

// eachCandidate is Candidates that calls skip, if that is not nil, for those that are damaged.
func (im Imports) eachCandidate(ctx context.Context, topic event.Topic, span window.Span, fn func(*event.Event) error, skip func()) error {
	for at := span.From; at < span.To; {
		var evs []event.Event
		err := im.db.file.View(ctx, func(tx *sql.Tx) (err error) {
			evs, at, err = readCandidates(ctx, tx, topic, window.Span{From: at, To: span.To}, skip)
			return err
		})
		if err != nil {
			return dbfile.Wrap(err, "read the candidates of %s", topic)
		}
		for i := range evs {
			if err := fn(&evs[i]); err != nil {
				return err
			}
		}
	}
	return nil
}

// readCandidates returns the first candidates of topic in span, up to the limits of one
// transaction, and the position up to which these are complete.
func readCandidates(ctx context.Context, tx *sql.Tx, topic event.Topic, span window.Span, skip func()) (evs []event.Event, next event.ID, err error) {
	where, args := importedOf(topic)
	result, err := tx.QueryContext(ctx, `SELECT id, line FROM candidate WHERE id > ? AND id <= ? AND `+where+` ORDER BY id LIMIT ?`,
		append(append([]any{span.From, span.To}, args...), importChunk)...)
	if err != nil {
		return nil, span.From, err
	}
	defer result.Close()
	last, n := span.From, 0
	for bytes := 0; result.Next(); {
		var id event.ID
		var line []byte
		if err := result.Scan(&id, &line); err != nil {
			return nil, span.From, err
		}
		if id <= last {
			return nil, span.From, dbfile.OutOfOrder("candidate")
		}
		last = id
		n++
		ev, err := rows.ParseStored(id, line)
		switch {
		case err == nil:
			evs = append(evs, ev)
		case skip != nil && errors.Is(err, ErrCorrupt):
			skip()
		default:
			return nil, span.From, err
		}
		if bytes += len(line); n == importChunk || bytes >= maxReadBytes {
			return evs, id, nil
		}
	}
	return evs, span.To, result.Err()
}

// importedOf returns an SQL condition on imported events, true for those of topic, and
// its arguments.
func importedOf(topic event.Topic) (where string, args []any) {
	if topic == event.All {
		return "TRUE", nil
	}
	where, args = rows.StoragesOf(topic)
	return `storage IN (SELECT s.id FROM storage s WHERE ` + where + `)`, args
}

// DropCandidates drops the candidates with the given ids.
func (im Imports) DropCandidates(ctx context.Context, ids []event.ID) error {
	err := im.db.file.Update(ctx, func(tx *sql.Tx) error {
		for _, id := range ids {
			if _, err := tx.Exec(`DELETE FROM candidate WHERE id = ?`, id); err != nil {
				return err
			}
		}
		return nil
	})
	return dbfile.Wrap(err, "drop candidates")
}

// dropImported drops the imported copies of events that are now stored.
func dropImported(tx *sql.Tx, evs []event.Event) error {
	if len(evs) == 0 {
		return nil
	}
	var candidates, foreign bool
	err := tx.QueryRow(`SELECT EXISTS (SELECT 1 FROM candidate), EXISTS (SELECT 1 FROM foreign_event)`).Scan(&candidates, &foreign)
	if err != nil {
		return err
	}
	if candidates {
		err = eachExec(tx, `DELETE FROM candidate WHERE id = ?`, evs, func(ev *event.Event) any { return ev.ID })
	}
	if foreign && err == nil {
		err = eachExec(tx, `DELETE FROM foreign_event WHERE hash = ?`, evs, func(ev *event.Event) any { return ev.Hash[:] })
	}
	return err
}

// eachExec executes a statement for each event.
func eachExec(tx *sql.Tx, statement string, evs []event.Event, arg func(*event.Event) any) error {
	stmt, err := tx.Prepare(statement)
	if err != nil {
		return err
	}
	defer stmt.Close()
	for i := range evs {
		if _, err := stmt.Exec(arg(&evs[i])); err != nil {
			return err
		}
	}
	return nil
}

// forgetImported drops the imported events of topic in span. A foreign event has no
// position in this log: it is dropped if span has no end.
func forgetImported(tx *sql.Tx, topic event.Topic, span window.Span) error {
	where, args := importedOf(topic)
	_, err := tx.Exec(`DELETE FROM candidate WHERE id > ? AND id <= ? AND `+where, append([]any{span.From, span.To}, args...)...)
	if err == nil && span.To == event.MaxID {
		_, err = tx.Exec(`DELETE FROM foreign_event WHERE `+where, args...)
	}
	return err
}
