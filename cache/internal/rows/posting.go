package rows

import (
	"cmp"
	"context"
	"database/sql"
	"encoding/binary"
	"errors"
	"slices"

	"github.com/rstream-dev/rstream/cache/internal/pages"
	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/window"
)

// Postings collects the events that one transaction adds to the postings.
type Postings []place

// A place is a storage's number and the id of an event.
type place struct {
	storage int64
	id      event.ID
}

// A PostingKey is the key of a posting: a storage and a block.
type PostingKey struct {
	Storage int64
	Block   uint64
}

// Add adds an event of a storage.
func (p *Postings) Add(storage int64, id event.ID) { *p = append(*p, place{storage, id}) }

// sorted returns the offsets of each storage and block, in the order of the table.
func (p Postings) sorted() (keys []PostingKey, offsets [][]byte) {
	slices.SortFunc(p, func(a, b place) int {
		return cmp.Or(cmp.Compare(a.storage, b.storage), cmp.Compare(a.id, b.id))
	})
	all := make([]byte, 0, 2*len(p))
	for i := 0; i < len(p); {
		key, from := PostingKey{p[i].storage, p[i].id.Block()}, len(all)
		for ; i < len(p) && p[i].storage == key.Storage && p[i].id.Block() == key.Block; i++ {
			all = binary.BigEndian.AppendUint16(all, uint16(uint64(p[i].id-1)%event.BlockSize))
		}
		keys, offsets = append(keys, key), append(offsets, all[from:])
	}
	return keys, offsets
}

// EachPosition calls visit with the ids for the offsets of a block.
func EachPosition(block int64, offsets []byte, visit func(event.ID)) {
	base := event.ID(block) * event.BlockSize
	for ; len(offsets) >= 2; offsets = offsets[2:] {
		visit(base + event.ID(binary.BigEndian.Uint16(offsets)) + 1)
	}
}

// SplitPosting removes the offsets of gone events. It returns the other offsets and the
// gone events, each once.
func SplitPosting(block uint64, offsets []byte, gone func(event.ID) bool) (left []byte, lost []event.ID) {
	left = []byte{}
	for ; len(offsets) >= 2; offsets = offsets[2:] {
		EachPosition(int64(block), offsets[:2], func(id event.ID) {
			if gone(id) {
				lost = append(lost, id)
			} else {
				left = append(left, offsets[:2]...)
			}
		})
	}
	slices.Sort(lost)
	return left, slices.Compact(lost)
}

// ReplacePosting stores the remaining offsets of a storage in a block.
func ReplacePosting(tx *sql.Tx, key PostingKey, left []byte) error {
	if len(left) == 0 {
		_, err := tx.Exec(`DELETE FROM posting WHERE storage = ? AND block = ?`, key.Storage, key.Block)
		return err
	}
	_, err := tx.Exec(`UPDATE posting SET offsets = ? WHERE storage = ? AND block = ?`, left, key.Storage, key.Block)
	return err
}

// LastPostingQuery selects the last posting of a storage.
const LastPostingQuery = `SELECT block, offsets FROM posting WHERE storage = ? ORDER BY block DESC LIMIT 1`

// LastInPosting returns the last event that a posting names, or Beginning if there is none.
func LastInPosting(row interface{ Scan(...any) error }) (last event.ID, err error) {
	var block int64
	var offsets []byte
	err = row.Scan(&block, &offsets)
	if errors.Is(err, sql.ErrNoRows) {
		return event.Beginning, nil
	}
	EachPosition(block, offsets, func(id event.ID) { last = max(last, id) })
	return last, err
}

// LastOffset returns the last event in span that a block's posting names, or Beginning.
func LastOffset(block int64, offsets []byte, span window.Span) (last event.ID) {
	EachPosition(block, offsets, func(id event.ID) {
		if span.From < id && id <= span.To {
			last = max(last, id)
		}
	})
	return last
}

// LastPosted returns the last event in span that the postings of a storage name, or
// Beginning.
func LastPosted(ctx context.Context, tx *sql.Tx, storage int64, span window.Span) (event.ID, error) {
	rows, err := tx.QueryContext(ctx, `SELECT block, offsets FROM posting
		WHERE storage = ? AND block BETWEEN ? AND ? ORDER BY block DESC`,
		storage, uint64(span.From)/event.BlockSize, span.To.Block())
	if err != nil {
		return 0, err
	}
	defer rows.Close()
	for rows.Next() {
		var block int64
		var offsets []byte
		if err := rows.Scan(&block, &offsets); err != nil {
			return 0, err
		}
		if id := LastOffset(block, offsets, span); id != event.Beginning {
			return id, nil
		}
	}
	return 0, rows.Err()
}

// EachPosting calls visit with the events that postings name, and closes rows.
func EachPosting(rows *sql.Rows, visit func(event.ID)) error {
	defer rows.Close()
	var block int64
	var offsets sql.RawBytes
	for rows.Next() {
		if err := rows.Scan(&block, &offsets); err != nil {
			return err
		}
		EachPosition(block, offsets, visit)
	}
	return rows.Err()
}

// EachStoragePosting calls fn with the postings of topic in the blocks of span.
func EachStoragePosting(ctx context.Context, tx *sql.Tx, topic event.Topic, span window.Span, fn func(key PostingKey, offsets []byte) error) error {
	where, args := StoragesOf(topic)
	rows, err := tx.QueryContext(ctx, `SELECT p.storage, p.block, p.offsets FROM storage s CROSS JOIN posting p
		ON p.storage = s.id AND p.block BETWEEN ? AND ? WHERE `+where,
		append([]any{uint64(span.From) / event.BlockSize, span.To.Block()}, args...)...)
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		var key PostingKey
		var offsets []byte
		if err := rows.Scan(&key.Storage, &key.Block, &offsets); err != nil {
			return err
		}
		if err := fn(key, offsets); err != nil {
			return err
		}
	}
	return rows.Err()
}

// EachTopicPosting calls fn with the postings of topic in the blocks of span: with the
// events in span, some storages at a time.
func EachTopicPosting(ctx context.Context, tx *sql.Tx, topic event.Topic, span window.Span, fn func(pages.PostingKey, []pages.Posted) error) error {
	from, _ := topic.StorageRange()
	for {
		storages, err := StoragesFrom(ctx, tx, topic, from)
		if err != nil {
			return err
		}
		numbers := make([]int64, len(storages))
		for i := range storages {
			numbers[i], from = storages[i].ID, storages[i].Next()
		}
		if err := pages.EachPosting(ctx, tx, numbers, span, nil, fn); err != nil {
			return err
		}
		if len(storages) < StorageChunk {
			return nil
		}
	}
}
