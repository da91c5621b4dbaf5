package snapshot

import (
	"database/sql"
	"errors"

	"github.com/rstream-dev/rstream/cache/internal/dbfile"
	"github.com/rstream-dev/rstream/cache/internal/rows"
	"github.com/rstream-dev/rstream/event"
)

// Retire retires a snapshot up to a position that is not the last one of its topic there,
// and returns its number, 0 if there is none: no fold starts with it any more, and only this
// process removes it, with DropParts. A fold that has started with it starts again with
// another.
func (s *Store) Retire(tx *sql.Tx, before event.ID) (id int64, err error) {
	err = tx.QueryRow(retireSnapshot, s.file.OwnerName(), s.file.LeaseEnd(), before).Scan(&id)
	switch {
	case errors.Is(err, sql.ErrNoRows):
		return 0, nil
	case err != nil:
		return 0, err
	}
	return id, rows.NoteRemoval(tx)
}

// The later one must be sound, or no state would be left to start with.
var retireSnapshot = dbfile.SnapshotTable.Update("whole", "0", "owner", "?1", "lease", "?2") + ` AND id = (
	SELECT s.id FROM (SELECT * FROM snapshot WHERE whole AND ` + snapshotSound + `) s
	WHERE EXISTS (SELECT * FROM snapshot WHERE whole AND topic = s.topic AND at > s.at AND at <= ?3 AND ` + snapshotSound + `) LIMIT 1)
	RETURNING id`

// dropParts is how many parts of a retired snapshot DropParts removes.
const dropParts = 16

// DropParts removes some of a retired snapshot, and with the last part the snapshot. more
// reports whether something is left.
func DropParts(tx *sql.Tx, id int64) (more bool, err error) {
	res, err := tx.Exec(`DELETE FROM part WHERE rowid IN (SELECT rowid FROM part WHERE snapshot = ? LIMIT ?)`, id, dropParts)
	if err != nil {
		return false, err
	}
	if n, err := res.RowsAffected(); err != nil || n == dropParts {
		return err == nil, err
	}
	_, err = tx.Exec(`DELETE FROM snapshot WHERE id = ?`, id)
	return false, err
}
