package pages

import (
	"context"
	"database/sql"
	"errors"
	"fmt"

	"github.com/rstream-dev/rstream/cache/internal/dbfile"
	"github.com/rstream-dev/rstream/window"
)

// CountOldPosted returns how many events the postings of an earlier version have that are not
// yet joined.
func CountOldPosted(ctx context.Context, tx *sql.Tx) (n int64, err error) {
	err = tx.QueryRowContext(ctx, `SELECT coalesce(sum(count), 0) FROM old_page_posting`).Scan(&n)
	return n, err
}

// JoinOldPostings joins postings of an earlier version, each of which is of one storage, to
// postings of eight: octet by octet, those of up to so many blocks at a time, until there were
// so many. It returns how many events they have, and whether there are more.
//
// One that is damaged is made of the pages of its block; if these are damaged, too, the posting
// that it is joined to will be an error to those who read it. If the key of one is damaged, so
// that SQLite does not find the rows in their order, JoinOldPostings returns an error: it would
// join some twice, or the same ones for ever.
func (t *Tables) JoinOldPostings(ctx context.Context, tx *sql.Tx, blocks, postings int) (events int64, more bool, err error) {
	j := oldJoiner{batch: t.newBatch(tx), ctx: ctx}
	for j.joined < postings {
		var storage int64
		err := tx.QueryRowContext(ctx, `SELECT storage FROM old_page_posting ORDER BY storage, block LIMIT 1`).Scan(&storage)
		if errors.Is(err, sql.ErrNoRows) {
			return j.events, false, nil
		}
		if err != nil {
			return 0, false, err
		}
		if err := j.joinSome(octetOf(storage), blocks); err != nil {
			return 0, false, err
		}
	}
	return j.events, true, nil
}

// An oldJoiner runs JoinOldPostings.
type oldJoiner struct {
	*batch
	ctx    context.Context
	joined int
	events int64
}

// An oldPosting is the row of a posting of an earlier version.
type oldPosting struct {
	storage, block, count int64
	chunks                []byte
}

// joinSome joins the first postings of an octet.
func (j *oldJoiner) joinSome(octet int64, blocks int) error {
	var some []oldPosting
	last := int64(1<<63 - 1) // of the blocks of which all postings were read
	for i := range int64(octetLen) {
		n := len(some)
		var err error
		if some, err = j.appendOld(some, octet<<octetBits+1+i, blocks); err != nil {
			return err
		}
		if len(some)-n == blocks {
			last = min(last, some[len(some)-1].block)
		}
	}
	joined := int64(0)
	for i := range some {
		if some[i].block <= last {
			if err := j.join(&some[i]); err != nil {
				return err
			}
			joined++
		}
	}
	if err := j.writePostings(); err != nil {
		return err
	}
	clear(j.postings)
	deleted, err := j.deleteOld(octet, last)
	if err == nil && (deleted == 0 || deleted != joined) {
		err = errOldOrder
	}
	return err
}

var errOldOrder = dbfile.OutOfOrder("old_page_posting")

// deleteOld deletes the postings of an octet up to a block, and returns how many there were.
func (j *oldJoiner) deleteOld(octet, last int64) (deleted int64, err error) {
	for i := range int64(octetLen) {
		res, err := j.file.Exec(j.tx, `DELETE FROM old_page_posting WHERE storage = ? AND block <= ?`, octet<<octetBits+1+i, last)
		if err != nil {
			return 0, err
		}
		n, err := res.RowsAffected()
		if err != nil {
			return 0, err
		}
		deleted += n
	}
	return deleted, nil
}

func (j *oldJoiner) appendOld(some []oldPosting, storage int64, blocks int) ([]oldPosting, error) {
	rows, err := j.tx.QueryContext(j.ctx, `SELECT storage, block, count, chunks FROM old_page_posting WHERE storage = ? ORDER BY block LIMIT ?`, storage, blocks)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		var p oldPosting
		if err := rows.Scan(&p.storage, &p.block, &p.count, &p.chunks); err != nil {
			return nil, err
		}
		if n := len(some); p.storage != storage || n > 0 && some[n-1].storage == storage && p.block <= some[n-1].block {
			return nil, errOldOrder
		}
		some = append(some, p)
	}
	return some, rows.Err()
}

// join adds the events of an old posting to the one of its octet.
func (j *oldJoiner) join(old *oldPosting) error {
	p, err := j.posting(octetKey{octetOf(old.storage), uint64(old.block)})
	if err != nil {
		return err
	}
	j.joined++
	j.events += old.count
	entries, err := old.read(j.ctx, j.tx)
	if isDamage(err) {
		p.broken = true
		return nil
	}
	p.added = append(p.added, entries...)
	return err
}

// read returns the events of an old posting. One that is damaged is made of the pages of its block.
// If its key may be damaged, the block must have as many events as the posting says: the posting
// of another block would hide the events of its own.
func (old *oldPosting) read(ctx context.Context, tx *sql.Tx) ([]placedEvent, error) {
	p := newPosting(octetKey{old.storage, uint64(old.block)})
	p.old = true
	if p.decode(old.count, old.chunks) == nil {
		return p.entries, nil
	}
	isKeySound := p.chunks > 0 // the checksum of the first chunk begins with it
	var made []placedEvent
	q := Query{Span: window.BlockSpan(uint64(old.block)), Want: func(storage int64) bool { return storage == old.storage }}
	err := Scan(ctx, tx, q, func(l Line) error {
		made = append(made, placedEvent{l.Storage, l.Posted()})
		return nil
	})
	if err != nil {
		return nil, err
	}
	if !isKeySound && int64(len(made)) != old.count {
		return nil, fmt.Errorf("%w: the posting of storage %d in block %d has %d events, of which the pages have %d",
			dbfile.ErrCorrupt, old.storage, old.block, old.count, len(made))
	}
	return made, nil
}

// CheckOldPosting returns the error that JoinOldPostings would return for a posting.
func CheckOldPosting(ctx context.Context, tx *sql.Tx, key PostingKey, count int64, chunks []byte) error {
	old := oldPosting{key.Storage, int64(key.Block), count, chunks}
	_, err := old.read(ctx, tx)
	if isDamage(err) {
		return nil
	}
	return err
}
