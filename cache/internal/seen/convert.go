package seen

import (
	"bytes"
	"context"
	"database/sql"
	"fmt"

	"github.com/rstream-dev/rstream/cache/internal/dbfile"
	"github.com/rstream-dev/rstream/event"
)

// convertBatches is how many batches of taken one transaction converts. It is a variable
// for the tests.
var convertBatches = 32

// converting is the level of a run that is being made from taken.
const converting = -1

// convertOld makes a run from taken, the sorted table of an earlier version. It works in
// steps that may be interrupted at any point; the last one empties taken.
func (x *Index) convertOld(ctx context.Context) error {
	for done := false; !done; {
		err := x.file.Update(ctx, func(tx *sql.Tx) (err error) {
			done, err = x.convertSome(tx)
			return err
		})
		if err != nil {
			return fmt.Errorf("sort the hashes: %w", err)
		}
	}
	return nil
}

func (x *Index) convertSome(tx *sql.Tx) (done bool, err error) {
	if some, err := hasOld(tx); err != nil || !some {
		return true, err
	}
	if err := x.Ready(tx); err != nil {
		return false, err
	}
	r, last, err := x.conversion(tx)
	if err != nil {
		return false, err
	}
	n, err := x.convertAfter(tx, r, last)
	if err != nil || n == convertBatches*batchLen {
		return false, err
	}
	return true, x.endConversion(tx, r)
}

// conversion returns the run that taken becomes and the last hash in it so far.
func (x *Index) conversion(tx *sql.Tx) (r *run, last []byte, err error) {
	for _, r := range x.memory.runs {
		if r.level == converting {
			last, err := x.lastEntry(tx, r)
			return r, last[:min(len(last), len(event.Hash{}))], err
		}
	}
	var count int64
	if err := tx.QueryRow(`SELECT count(*) FROM taken`).Scan(&count); err != nil {
		return nil, nil, err
	}
	r = newRun(converting, count, x.memory.salt)
	x.memory.runs = append(x.memory.runs, r)
	return r, []byte{}, x.insertRun(tx, r)
}

// convertAfter appends the hashes after last to r and returns how many there were.
func (x *Index) convertAfter(tx *sql.Tx, r *run, last []byte) (n int, err error) {
	rows, err := tx.Query(`SELECT hash, id FROM taken WHERE hash > ? ORDER BY hash LIMIT ?`, last, convertBatches*batchLen)
	if err != nil {
		return 0, err
	}
	defer rows.Close()
	g := newPageBatch()
	for ; rows.Next(); n++ {
		var hash sql.RawBytes
		var id int64
		if err := rows.Scan(&hash, &id); err != nil {
			return n, err
		}
		if len(hash) != len(event.Hash{}) {
			return n, fmt.Errorf("%w: a hash of %d bytes", dbfile.ErrCorrupt, len(hash))
		}
		if bytes.Compare(hash, last) <= 0 {
			return n, dbfile.OutOfOrder("taken")
		}
		last = append(last[:0], hash...)
		if g = g.appendEntry(hash, event.ID(id)); g.isBatchFull() {
			if err := x.writePageBatch(tx, g, r); err != nil {
				return n, err
			}
			g = g[:0]
		}
	}
	if err := rows.Err(); err != nil || len(g) == 0 {
		return n, err
	}
	return n, x.writePageBatch(tx, g, r)
}

// endConversion empties taken, which is now run r.
func (x *Index) endConversion(tx *sql.Tx, r *run) error {
	if r.moved != r.count {
		return fmt.Errorf("%w: found %d of %d hashes", dbfile.ErrCorrupt, r.moved, r.count)
	}
	if err := x.setLevel(tx, r); err != nil {
		return err
	}
	_, err := tx.Exec(`DELETE FROM taken`)
	return err
}
