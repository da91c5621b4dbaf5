package seen

import (
	"context"
	"database/sql"
	"fmt"

	"github.com/rstream-dev/rstream/cache/internal/dbfile"
	"github.com/rstream-dev/rstream/event"
)

// convertGroups is how many groups of taken one transaction makes a run of. It is a
// variable for the tests.
var convertGroups = 32

// converting is the level of a run that is being made of taken.
const converting = -1

// convertTaken makes a run of what an earlier version kept in taken, which is sorted
// already, in steps that may be cut at any point: taken is emptied by the last one.
func (db *Index) convertTaken(ctx context.Context) error {
	for done := false; !done; {
		err := db.file.Update(ctx, func(tx *sql.Tx) (err error) {
			done, err = db.convertSome(tx)
			return err
		})
		if err != nil {
			return fmt.Errorf("sort the hashes: %w", err)
		}
	}
	return nil
}

func (db *Index) convertSome(tx *sql.Tx) (done bool, err error) {
	if some, err := hasTaken(tx); err != nil || !some {
		return true, err
	}
	if err := db.Ready(tx); err != nil {
		return false, err
	}
	r, last, err := db.conversion(tx)
	if err != nil {
		return false, err
	}
	n, err := db.convertAfter(tx, r, last)
	if err != nil || n == convertGroups*groupLen {
		return false, err
	}
	return true, db.endConversion(tx, r)
}

// conversion returns the run that taken becomes and the last hash that it has.
func (db *Index) conversion(tx *sql.Tx) (r *run, last []byte, err error) {
	for _, r := range db.known.runs {
		if r.level == converting {
			last, err := db.lastEntry(tx, r)
			return r, last[:min(len(last), len(event.Hash{}))], err
		}
	}
	var count int64
	if err := tx.QueryRow(`SELECT count(*) FROM taken`).Scan(&count); err != nil {
		return nil, nil, err
	}
	r = newRun(converting, count, db.known.salt)
	db.known.runs = append(db.known.runs, r)
	return r, []byte{}, db.insertRun(tx, r)
}

// convertAfter appends the hashes behind last to r and returns how many there were.
func (db *Index) convertAfter(tx *sql.Tx, r *run, last []byte) (n int, err error) {
	rows, err := tx.Query(`SELECT hash, id FROM taken WHERE hash > ? ORDER BY hash LIMIT ?`, last, convertGroups*groupLen)
	if err != nil {
		return 0, err
	}
	defer rows.Close()
	g := newGroup()
	for ; rows.Next(); n++ {
		var hash sql.RawBytes
		var id int64
		if err := rows.Scan(&hash, &id); err != nil {
			return n, err
		}
		if len(hash) != len(event.Hash{}) {
			return n, fmt.Errorf("%w: a hash has %d bytes", dbfile.ErrCorrupt, len(hash))
		}
		if g = g.appendEntry(hash, event.ID(id)); g.full() {
			if err := db.writeGroup(tx, g, r); err != nil {
				return n, err
			}
			g = g[:0]
		}
	}
	if err := rows.Err(); err != nil || len(g) == 0 {
		return n, err
	}
	return n, db.writeGroup(tx, g, r)
}

// endConversion takes away what has become run r.
func (db *Index) endConversion(tx *sql.Tx, r *run) error {
	if r.moved != r.count {
		return fmt.Errorf("%w: of %d hashes %d were found", dbfile.ErrCorrupt, r.count, r.moved)
	}
	for r.level = 0; r.count > int64(HashSpan)<<(MergeBits*(r.level+1)); {
		r.level++
	}
	if _, err := tx.Exec(`UPDATE run SET level = ? WHERE id = ?`, r.level, r.id); err != nil {
		return err
	}
	_, err := tx.Exec(`DELETE FROM taken`)
	return err
}
