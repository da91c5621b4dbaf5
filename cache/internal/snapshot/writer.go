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
)

// A Writer writes a snapshot member by member. It becomes visible with Finish.
type Writer struct {
	db       *Store
	topic    event.Topic
	row      keptSnapshot // its id is 0 until begin
	removals int64
	last     event.Storage
	members  []byte
	n        int // members not written yet
	parts    []snapshotPart
	bytes    int       // of parts
	due      time.Time // when to write something, so that the lease does not end
	mark     event.Mark
}

type snapshotPart struct {
	last    event.Storage
	members []byte
	n       int
}

// partMembers and partBytes bound the members and the approximate bytes of a part;
// writeBytes bounds the bytes of a transaction.
const (
	partMembers = 500
	partBytes   = 64 << 10
	writeBytes  = 1 << 20
)

// NewWriter starts to keep the state of topic at position at, whose events the caller has
// fetched. If another process is doing the same, busy is true and the caller tries again
// later.
func (s *Store) NewWriter(ctx context.Context, topic event.Topic, at event.ID) (w *Writer, busy bool, err error) {
	w = s.newWriter(topic, keptSnapshot{at: at, form: formLines}, 0)
	err = s.file.Update(ctx, func(tx *sql.Tx) (err error) {
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

// newWriter returns a writer of a snapshot whose row is created with its first write.
// removals is the file's count of removals when the members were read.
func (s *Store) newWriter(topic event.Topic, row keptSnapshot, removals int64) *Writer {
	return &Writer{db: s, topic: topic, row: row, removals: removals, due: s.file.Now().Add(dbfile.LeaseTime / 4)}
}

var errBegun = fmt.Errorf("%w: the same state is being kept", dbfile.ErrBusy)

// begin inserts the snapshot's row. It returns errBegun if another process is writing the
// same state, and dbfile.ErrLost if it was already sealed here.
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
	return tx.QueryRow(insertSnapshot, w.topic.String(), w.row.at, w.row.form, 0, false,
		w.removals, w.db.file.OwnerName(), w.db.file.LeaseEnd()).Scan(&w.row.id)
}

var (
	insertSnapshot = dbfile.SnapshotTable.Insert("removals", "owner", "lease") + ` RETURNING id`
	extendSnapshot = dbfile.SnapshotTable.Update("count", "?1", "whole", "?2", "owner", "?3", "lease", "?4") + ` AND id = ?5`
)

// clearSnapshots deletes unfinished snapshots whose writer is gone, and those whose rows are
// damaged. busy is true if another process is writing the one of topic at position at.
func (s *Store) clearSnapshots(tx *sql.Tx, topic event.Topic, at event.ID) (busy bool, err error) {
	result, err := tx.Query(`SELECT id, topic, at, coalesce(owner, ''), coalesce(lease, 0), ` + snapshotSound + ` FROM snapshot WHERE NOT whole OR NOT ` + snapshotSound)
	if err != nil {
		return false, err
	}
	var left, damaged []int64
	for result.Next() {
		var w rows.Window
		var of string
		var ofAt event.ID
		var sound bool
		if err := result.Scan(&w.ID, &of, &ofAt, &w.Owner, &w.Lease, &sound); err != nil {
			return false, errors.Join(err, result.Close())
		}
		switch stale := s.file.Stale(w.Owner, w.Lease); {
		case stale && sound:
			left = append(left, w.ID)
		case stale:
			damaged = append(damaged, w.ID)
		case of == topic.String() && ofAt == at:
			busy = true
		}
	}
	err = errors.Join(result.Err(), result.Close())
	for _, id := range left {
		err = errors.Join(err, dropSnapshot(tx, id))
	}
	for _, id := range damaged {
		err = errors.Join(err, dropFolded(tx, id))
	}
	return busy, err
}

// Add adds the next member. Members must be sorted by user and path.
func (w *Writer) Add(ctx context.Context, ev *event.Event) error {
	if w.row.form == formIDs {
		return w.addRef(ctx, &Ref{Storage: ev.Storage(), ID: ev.ID})
	}
	if err := w.checkMemberOrder(ev.Storage()); err != nil {
		return err
	}
	w.members = append(ev.AppendLine(w.members), '\n')
	return w.added(ctx, ev.Storage())
}

// addRef is Add for the member of a snapshot of names and ids.
func (w *Writer) addRef(ctx context.Context, r *Ref) error {
	if err := w.checkMemberOrder(r.Storage); err != nil {
		return err
	}
	before := ""
	if w.n > 0 {
		before = w.last.User + "\x00" + w.last.Path
	}
	w.members = appendRef(w.members, before, r.User+"\x00"+r.Path, r.ID, &r.at)
	return w.added(ctx, r.Storage)
}

func (w *Writer) checkMemberOrder(n event.Storage) error {
	if w.row.count+int64(w.n) > 0 && n.Compare(w.last) <= 0 {
		return fmt.Errorf("keep a state: %s does not follow %s", n, w.last)
	}
	return nil
}

// added writes the rows that are due after the member of a storage was added.
func (w *Writer) added(ctx context.Context, n event.Storage) error {
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

// flush writes the complete parts, and ends the snapshot if whole is set.
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

// write writes the complete parts into the snapshot that begin created.
func (w *Writer) write(tx *sql.Tx, whole bool) error {
	if w.row.form == formLines {
		if err := rows.CountFetched(tx, w.readyMembers(), w.bytes); err != nil {
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
	res, err := tx.Exec(extendSnapshot, w.row.count, whole, owner, lease, w.row.id)
	if err != nil {
		return err
	}
	switch n, err := res.RowsAffected(); {
	case err != nil:
		return err
	case n != 1:
		return dbfile.ErrLost // the row was deleted in the meantime
	}
	w.parts, w.bytes, w.due = nil, 0, w.db.file.Now().Add(dbfile.LeaseTime/4)
	return nil
}

// readyMembers returns the number of members in the complete parts.
func (w *Writer) readyMembers() (n int) {
	for _, p := range w.parts {
		n += p.n
	}
	return n
}

// Marked sets the mark of the snapshot's position, which Finish keeps.
func (w *Writer) Marked(mark event.Mark) { w.mark = mark }

// Finish makes the snapshot available to states. It returns dbfile.ErrLost if the events
// it depends on were removed in the meantime.
func (w *Writer) Finish(ctx context.Context) error {
	w.endPart()
	return dbfile.Wrap(w.flush(ctx, true), "keep a state")
}

// Abort deletes the unfinished snapshot.
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
