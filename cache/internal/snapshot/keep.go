package snapshot

import (
	"cmp"
	"context"
	"database/sql"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"time"

	"github.com/rstream-dev/rstream/cache/internal/dbfile"
	"github.com/rstream-dev/rstream/cache/internal/rows"
	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/window"
)

// A Writer keeps a snapshot as it comes. Until Finish nobody sees it.
type Writer struct {
	db       *Store
	topic    event.Topic
	row      snapshotRow // its id is 0 until it is begun
	removals int64
	last     event.Storage
	members  []byte
	n        int // members that are not written yet
	parts    []snapshotPart
	bytes    int       // of parts
	due      time.Time // to write something, so that the lease does not end
	mark     event.Mark
}

type snapshotPart struct {
	last    event.Storage
	members []byte
	n       int
}

// One part has at most so many members, or about so many bytes; a transaction writes
// at most so many bytes.
const (
	partMembers = 500
	partBytes   = 64 << 10
	writeBytes  = 1 << 20
)

// KeepSnapshot begins to keep the state of topic at position at, whose events the
// caller has fetched. If another process is just doing the same, busy is true and the
// caller asks again later.
func (db *Store) KeepSnapshot(ctx context.Context, topic event.Topic, at event.ID) (w *Writer, busy bool, err error) {
	w = db.newSnapshot(topic, snapshotRow{at: at, form: formLines}, 0)
	err = db.file.Update(ctx, func(tx *sql.Tx) (err error) {
		if w.removals, err = rows.LoadRemovals(tx); err != nil {
			return err
		}
		return w.begin(tx)
	})
	if errors.Is(err, errBegun) {
		return nil, true, nil
	}
	return w, false, dbfile.Wrap(err, "keep the state of %s at %s", topic, at)
}

// newSnapshot returns a writer of a snapshot that is begun when something of it is
// written. The file had so many removals when its members were read.
func (db *Store) newSnapshot(topic event.Topic, row snapshotRow, removals int64) *Writer {
	return &Writer{db: db, topic: topic, row: row, removals: removals, due: db.file.Now().Add(dbfile.LeaseTime / 4)}
}

var errBegun = fmt.Errorf("%w: the same state is being kept", dbfile.ErrBusy)

// begin makes the snapshot's row. It returns errBegun if somebody else is just writing
// the same, and dbfile.ErrLost if it was made here.
func (w *Writer) begin(tx *sql.Tx) error {
	busy, err := w.db.clearSnapshots(tx, w.topic, w.row.at)
	if err != nil {
		return err
	}
	if busy {
		return errBegun
	}
	if w.row.form == formIDs {
		var made bool
		err := tx.QueryRow(`SELECT EXISTS (SELECT 1 FROM snapshot WHERE at = ? AND topic = ? AND form = 'ids' AND whole)`,
			w.row.at, w.topic.String()).Scan(&made)
		if err != nil || made {
			return cmp.Or(err, dbfile.ErrLost)
		}
	}
	return tx.QueryRow(`INSERT INTO snapshot (topic, at, form, removals, owner, lease) VALUES (?, ?, ?, ?, ?, ?) RETURNING id`,
		w.topic.String(), w.row.at, w.row.form, w.removals, w.db.file.OwnerName(), w.db.file.LeaseEnd()).Scan(&w.row.id)
}

// clearSnapshots drops the snapshots that nobody goes on with. It is busy if somebody
// is just writing the one of topic at position at.
func (db *Store) clearSnapshots(tx *sql.Tx, topic event.Topic, at event.ID) (busy bool, err error) {
	result, err := tx.Query(`SELECT id, topic, at, coalesce(owner, ''), coalesce(lease, 0) FROM snapshot WHERE NOT whole`)
	if err != nil {
		return false, err
	}
	var left []int64
	for result.Next() {
		var w rows.Window
		var of string
		var ofAt event.ID
		if err := result.Scan(&w.ID, &of, &ofAt, &w.Owner, &w.Lease); err != nil {
			return false, errors.Join(err, result.Close())
		}
		if db.file.Stale(w.Owner, w.Lease) {
			left = append(left, w.ID)
		} else if of == topic.String() && ofAt == at {
			busy = true
		}
	}
	err = errors.Join(result.Err(), result.Close())
	for _, id := range left {
		err = errors.Join(err, dropSnapshot(tx, id))
	}
	return busy, err
}

// Add adds the next member, in the order of users and paths.
func (w *Writer) Add(ctx context.Context, ev *event.Event) error {
	n := ev.Storage()
	if w.row.count+int64(w.n) > 0 && n.Compare(w.last) <= 0 {
		return fmt.Errorf("keep a state: %s does not follow %s", ev.Storage(), w.last)
	}
	if w.row.form == formLines {
		w.members = append(ev.AppendLine(w.members), '\n')
	} else {
		before := ""
		if w.n > 0 {
			before = w.last.User + "\x00" + w.last.Path
		}
		w.members = appendRef(w.members, before, n.User+"\x00"+n.Path, ev.ID)
	}
	w.last = n
	if w.n++; w.n >= partMembers || len(w.members) >= partBytes {
		w.endPart()
	}
	if w.bytes < writeBytes && w.db.file.Now().Before(w.due) {
		return nil
	}
	return w.flush(ctx, false)
}

func (w *Writer) endPart() {
	if w.n == 0 {
		return
	}
	members := binary.BigEndian.AppendUint32(w.members, crc32.Checksum(w.members, castagnoli))
	w.parts, w.bytes = append(w.parts, snapshotPart{w.last, members, w.n}), w.bytes+len(members)
	w.row.count += int64(w.n)
	w.members, w.n = nil, 0
}

// flush writes the parts that are ready, as the last ones if the snapshot is whole then.
func (w *Writer) flush(ctx context.Context, whole bool) error {
	begun := w.row.id
	err := w.db.file.Update(ctx, func(tx *sql.Tx) error {
		switch now, err := rows.LoadRemovals(tx); {
		case err != nil:
			return err
		case whole && w.row.form == formIDs && now != w.removals:
			return dbfile.ErrLost
		}
		if begun == 0 {
			if err := w.begin(tx); err != nil {
				return err
			}
		}
		if whole {
			if err := w.db.tables.NoteMark(tx, event.Point{ID: w.row.at, Mark: w.mark}); err != nil {
				return err
			}
		}
		return w.write(tx, whole)
	})
	if err != nil {
		w.row.id = begun
	}
	return err
}

// write writes the parts that are ready, in the snapshot that is begun.
func (w *Writer) write(tx *sql.Tx, whole bool) error {
	if w.row.form == formLines {
		if err := rows.CountFetched(tx, w.ready(), w.bytes); err != nil {
			return err
		}
	}
	for _, p := range w.parts {
		_, err := tx.Exec(`INSERT INTO part (snapshot, user, path, members) VALUES (?, ?, ?, ?)`,
			w.row.id, p.last.User, p.last.Path, p.members)
		if err != nil {
			return err
		}
	}
	lease := sql.NullInt64{Int64: w.db.file.LeaseEnd(), Valid: !whole}
	owner := sql.NullString{String: w.db.file.OwnerName(), Valid: !whole}
	res, err := tx.Exec(`UPDATE snapshot SET count = ?, whole = ?, owner = ?, lease = ? WHERE id = ?`,
		w.row.count, whole, owner, lease, w.row.id)
	if err != nil {
		return err
	}
	switch n, err := res.RowsAffected(); {
	case err != nil:
		return err
	case n != 1:
		return dbfile.ErrLost // it was forgotten meanwhile, or given up for us
	}
	w.parts, w.bytes, w.due = nil, 0, w.db.file.Now().Add(dbfile.LeaseTime/4)
	return nil
}

// ready returns how many members the parts have that are ready.
func (w *Writer) ready() (n int) {
	for _, p := range w.parts {
		n += p.n
	}
	return n
}

// Marked tells the mark of the snapshot's position. Finish keeps it.
func (w *Writer) Marked(mark event.Mark) { w.mark = mark }

// Finish makes the snapshot one that states are folded from. It returns dbfile.ErrLost if
// what it stands on was removed meanwhile.
func (w *Writer) Finish(ctx context.Context) error {
	w.endPart()
	return dbfile.Wrap(w.flush(ctx, true), "keep a state")
}

// Abort gives the snapshot up.
func (w *Writer) Abort(ctx context.Context) error {
	if w.row.id == 0 {
		return nil
	}
	return w.db.file.Update(ctx, func(tx *sql.Tx) error {
		if _, err := tx.Exec(`DELETE FROM part WHERE snapshot IN (SELECT id FROM snapshot WHERE id = ? AND NOT whole)`, w.row.id); err != nil {
			return err
		}
		_, err := tx.Exec(`DELETE FROM snapshot WHERE id = ? AND NOT whole`, w.row.id)
		return err
	})
}

// SealSpan is how many stored events lie between two snapshots that are made here, at
// least: folding them takes some milliseconds. It is a variable for the tests.
var SealSpan event.ID = 2 * event.BlockSize

// SealStates keeps the state of topic at sealed blocks up to what is held, as far as
// that was not done: from then on a question for any moment folds little. Each
// stands behind as many stored events as it has members, so that they take little room
// however large the state becomes, or quiet the topic. A topic of a few storages needs none.
func (db *Store) SealStates(ctx context.Context, topic event.Topic) error {
	for {
		at, removals, err := db.nextSeal(ctx, topic)
		if err != nil || at == event.Beginning {
			return dbfile.Wrap(err, "keep the states of %s", topic)
		}
		err = db.sealState(ctx, topic, at, removals)
		var passed *window.NotHeldError // by the horizon
		if err != nil && !errors.Is(err, dbfile.ErrLost) && (db.file.Role == dbfile.Client || !errors.As(err, &passed)) {
			return err
		}
	}
}

// KeepStates seals the states of a log as it grows, beside the appends and in small
// steps, until ctx ends. What another writer or a full disk keeps it from is done when
// the next block is sealed.
func (db *Store) KeepStates(ctx context.Context) error {
	for {
		err := db.SealStates(ctx, event.All)
		if err != nil && !errors.Is(err, dbfile.ErrBusy) && !errors.Is(err, dbfile.ErrFull) {
			return err
		}
		select {
		case <-db.sealed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// nextSeal returns the position of the next snapshot to make, or Beginning, and the
// file's removals.
func (db *Store) nextSeal(ctx context.Context, topic event.Topic) (at event.ID, removed int64, err error) {
	err = db.file.View(ctx, func(tx *sql.Tx) (err error) {
		at = event.Beginning
		if removed, err = rows.LoadRemovals(tx); err != nil {
			return err
		}
		if few, err := hasFew(ctx, tx, topic); err != nil || few {
			return err
		}
		if doubted, err := db.doubted(tx, []event.Topic{topic}); err != nil || len(doubted) > 0 {
			return err // a sealed state would outlive the doubt
		}
		windows, err := rows.LoadWindows(tx)
		if err != nil {
			return err
		}
		for _, span := range rows.WindowSet(windows).Held(topic) {
			if at, err = db.nextSealIn(ctx, tx, topic, span, removed); err != nil || at != event.Beginning {
				return err
			}
		}
		return nil
	})
	return at, removed, err
}

func (db *Store) nextSealIn(ctx context.Context, tx *sql.Tx, topic event.Topic, span window.Span, removed int64) (at event.ID, err error) {
	if span.From != event.Beginning && db.file.Role == dbfile.Client {
		return 0, nil // a state there has members that are not stored as events
	}
	known := span
	if db.file.Role != dbfile.Client {
		known.From = event.Beginning // one from below the horizon will do
	}
	last, _, err := findSnapshot(ctx, tx, topic, known, false)
	if err != nil {
		return 0, err
	}
	from, step := max(last.at, span.From), max(SealSpan, event.ID(last.count))
	if span.To-from < step {
		return 0, nil
	}
	// A topic may be quiet for millions of ids, which are no reason for a snapshot.
	if at = from + step; !db.recent.isDense(window.Span{From: from, To: at}, removed) {
		err = tx.QueryRowContext(ctx, `SELECT id FROM event WHERE id > ? ORDER BY id LIMIT 1 OFFSET ?`, from, step-1).Scan(&at)
	}
	if errors.Is(err, sql.ErrNoRows) {
		return 0, nil
	}
	if at = (at + event.BlockSize - 1) / event.BlockSize * event.BlockSize; err != nil || at > span.To {
		return 0, err
	}
	return at, nil
}

// NewSealed returns a writer of a state that is made here, of the names and ids of events
// that are stored.
func (db *Store) NewSealed(topic event.Topic, at event.ID, removals int64) *Writer {
	return db.newSnapshot(topic, snapshotRow{at: at, form: formIDs}, removals)
}

// sealState keeps the state of topic at position at, unless something was removed since
// the file had so many removals.
func (db *Store) sealState(ctx context.Context, topic event.Topic, at event.ID, removals int64) error {
	w := db.NewSealed(topic, at, removals)
	s := stateReader{db: db, topic: topic, at: at, names: true}
	s.from, _ = topic.StorageRange()
	err := s.each(ctx, func(ev *event.Event) error { return w.Add(ctx, ev) })
	if err == nil {
		err = w.Finish(ctx)
	}
	if err != nil {
		return errors.Join(err, w.Abort(context.WithoutCancel(ctx)))
	}
	return nil
}
