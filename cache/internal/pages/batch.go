package pages

import (
	"cmp"
	"database/sql"
	"errors"
	"maps"
	"slices"

	"github.com/rstream-dev/rstream/cache/internal/dbfile"
)

// Tables are the pages and postings of an open file.
type Tables struct {
	file *dbfile.File

	// Owned by the writer.
	open       *openPage // the one that was written last
	unposted   unposted
	notIndexed bool
}

// New returns the pages of f.
func New(f *dbfile.File) *Tables { return &Tables{file: f} }

// ForgetPage forgets the page that was written last, and the events that have no postings
// yet. It must be called after a transaction that was not committed, or may not have been.
func (t *Tables) ForgetPage() {
	t.open = nil
	t.unposted.forget()
}

// AvoidIndex has the writer read no page by the index of pages any more, and reports whether
// it did until now. It must be called after a transaction in which SQLite has met damage,
// since SQLite commits none of these, whatever else is in it.
func (t *Tables) AvoidIndex() (first bool) {
	first, t.notIndexed = !t.notIndexed, true
	return first
}

// IsIndexAvoided reports whether AvoidIndex was called.
func (t *Tables) IsIndexAvoided() bool { return t.notIndexed }

// A batch has the postings that a transaction changes, each read once.
type batch struct {
	*Tables
	tx       *sql.Tx
	postings map[PostingKey]*posting
}

func (t *Tables) newBatch(tx *sql.Tx) *batch {
	return &batch{t, tx, map[PostingKey]*posting{}}
}

// posting returns the posting of key, an empty one if there is none.
func (b *batch) posting(key PostingKey) (*posting, error) {
	if p := b.postings[key]; p != nil {
		return p, nil
	}
	stmt, err := b.file.Stmt(b.tx, postingQuery)
	if err != nil {
		return nil, err
	}
	p, err := scanPosting(stmt.QueryRow(key.Storage, int64(key.Block)))
	if errors.Is(err, sql.ErrNoRows) {
		p, err = newPosting(key), nil
	}
	if err == nil {
		b.postings[key] = p
	}
	return p, err
}

// fewPostings is how many postings are read one by one, and manyStorages those of how many
// storages at most together.
const (
	fewPostings  = 4
	manyStorages = 512
)

// loadPostings reads the postings of keys at once, if they are many. A damaged one is left to
// posting.
func (b *batch) loadPostings(keys []PostingKey) error {
	slices.SortFunc(keys, func(a, b PostingKey) int {
		return cmp.Or(cmp.Compare(a.Block, b.Block), cmp.Compare(a.Storage, b.Storage))
	})
	keys = slices.Compact(keys)
	if len(keys) <= fewPostings {
		return nil
	}
	// Storages that have events in most of the same blocks are read together.
	storages := storagesOf(keys)
	if blocks := keys[len(keys)-1].Block - keys[0].Block + 1; blocks <= uint64(4*len(keys)/len(storages)) {
		return b.loadBlocks(keys, storages)
	}
	for len(keys) > 0 {
		n := 1
		for n < len(keys) && keys[n].Block == keys[0].Block {
			n++
		}
		if n > fewPostings {
			if err := b.loadBlocks(keys[:n], storagesOf(keys[:n])); err != nil {
				return err
			}
		}
		keys = keys[n:]
	}
	return nil
}

// storagesOf returns the storages of keys, each once, in order.
func storagesOf(keys []PostingKey) []int64 {
	storages := make([]int64, len(keys))
	for i := range keys {
		storages[i] = keys[i].Storage
	}
	slices.Sort(storages)
	return slices.Compact(storages)
}

// loadBlocks reads the postings of keys, which are in the order of blocks, and all others that
// the same storages have from the first of these blocks to the last.
func (b *batch) loadBlocks(keys []PostingKey, storages []int64) error {
	damaged := map[PostingKey]bool{}
	for some := range slices.Chunk(storages, manyStorages) {
		if err := b.loadSome(some, keys[0].Block, keys[len(keys)-1].Block, damaged); err != nil {
			return err
		}
	}
	for _, key := range keys {
		if b.postings[key] == nil && !damaged[key] {
			b.postings[key] = newPosting(key)
		}
	}
	return nil
}

// loadSome reads the postings of storages in the blocks from first to last. It adds those that
// are damaged to damaged.
func (b *batch) loadSome(storages []int64, first, last uint64, damaged map[PostingKey]bool) error {
	stmt, err := b.file.Stmt(b.tx, `SELECT p.storage, p.block, p.count, p.chunks
		FROM json_each(?) j CROSS JOIN page_posting p ON p.storage = j.value AND p.block BETWEEN ? AND ?`)
	if err != nil {
		return err
	}
	rows, err := stmt.Query(joinNumbers(storages), int64(first), int64(last))
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		p, err := scanPosting(rows)
		var damage *DamageError
		switch {
		case errors.As(err, &damage):
			damaged[PostingKey{damage.Storage, damage.Block}] = true
		case err != nil:
			return err
		case b.postings[p.key] == nil:
			b.postings[p.key] = p
		}
	}
	return rows.Err()
}

const postingQuery = `SELECT storage, block, count, chunks FROM page_posting WHERE storage = ? AND block = ?`

// scanPosting reads a row and checks all of it.
func scanPosting(row interface{ Scan(...any) error }) (*posting, error) {
	var key PostingKey
	var count int64
	var chunks []byte
	if err := row.Scan(&key.Storage, &key.Block, &count, &chunks); err != nil {
		return nil, err
	}
	return decodePosting(key, count, chunks)
}

// writePostings writes the postings that have changed, in the order of the table.
func (b *batch) writePostings() error {
	for _, key := range slices.SortedFunc(maps.Keys(b.postings), comparePostingKeys) {
		p := b.postings[key]
		if !p.changed && len(p.added) == 0 {
			continue
		}
		if err := b.writePosting(p); err != nil {
			return err
		}
	}
	return nil
}

func comparePostingKeys(a, b PostingKey) int {
	return cmp.Or(cmp.Compare(a.Storage, b.Storage), cmp.Compare(a.Block, b.Block))
}

func (b *batch) writePosting(p *posting) error {
	chunks, count := p.encode()
	if count == 0 || p.isMuchShorter(chunks, count) {
		// A row that only becomes shorter frees nothing.
		_, err := b.file.Exec(b.tx, `DELETE FROM page_posting WHERE storage = ? AND block = ?`, p.key.Storage, int64(p.key.Block))
		if err != nil || count == 0 {
			return err
		}
	}
	return b.insertPosting(b.tx, p.key, count, chunks)
}

// insertPosting writes a posting in place of the one that is there.
func (t *Tables) insertPosting(tx *sql.Tx, key PostingKey, count int, chunks []byte) error {
	_, err := t.file.Exec(tx, `INSERT INTO page_posting (storage, block, count, chunks) VALUES (?, ?, ?, ?)
		ON CONFLICT (storage, block) DO UPDATE SET count = excluded.count, chunks = excluded.chunks`,
		key.Storage, int64(key.Block), count, chunks)
	return err
}

// isMuchShorter reports whether p is to be written in less than half of its space, or has
// lost most of its events by now.
func (p *posting) isMuchShorter(chunks []byte, count int) bool {
	return len(chunks) < len(p.written) && (count <= 2 || len(chunks) < len(p.written)/2)
}
