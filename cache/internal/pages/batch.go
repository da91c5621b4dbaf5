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

// AvoidIndex has the writer read no page by the index of pages any more if that can help after
// an error, and reports whether it did until now. It must be called after a transaction in which
// SQLite has met damage, since SQLite commits none of these, whatever else is in it. Damage of a
// page or a posting is met just the same without the index, whose use saves much.
func (t *Tables) AvoidIndex(err error) (first bool) {
	if !errors.Is(err, dbfile.ErrCorrupt) || isDamage(err) && !dbfile.IsSQLite(err) {
		return false
	}
	first, t.notIndexed = !t.notIndexed, true
	return first
}

// IsIndexAvoided reports whether AvoidIndex was called.
func (t *Tables) IsIndexAvoided() bool { return t.notIndexed }

// A batch has the postings that a transaction changes, each read once.
type batch struct {
	*Tables
	tx       *sql.Tx
	postings map[octetKey]*posting
}

func (t *Tables) newBatch(tx *sql.Tx) *batch {
	return &batch{t, tx, map[octetKey]*posting{}}
}

// posting returns the posting of key, an empty one if there is none.
func (b *batch) posting(key octetKey) (*posting, error) {
	if p := b.postings[key]; p != nil {
		return p, nil
	}
	stmt, err := b.file.Stmt(b.tx, postingQuery)
	if err != nil {
		return nil, err
	}
	p, err := scanPosting(stmt.QueryRow(key.octet, int64(key.block)))
	if errors.Is(err, sql.ErrNoRows) {
		p, err = newPosting(key), nil
	}
	if err == nil {
		b.postings[key] = p
	}
	return p, err
}

// fewPostings is how many postings are read one by one, and manyOctets those of how many
// octets at most together.
const (
	fewPostings = 4
	manyOctets  = 64
)

// loadPostings reads the postings of keys at once, if they are many. A damaged one is left to
// posting.
func (b *batch) loadPostings(keys []octetKey) error {
	slices.SortFunc(keys, func(a, b octetKey) int {
		return cmp.Or(cmp.Compare(a.block, b.block), cmp.Compare(a.octet, b.octet))
	})
	keys = slices.Compact(keys)
	if len(keys) <= fewPostings {
		return nil
	}
	// Octets that have events in most of the same blocks are read together.
	octets := octetsOf(keys)
	if blocks := keys[len(keys)-1].block - keys[0].block + 1; blocks <= uint64(4*len(keys)/len(octets)) {
		return b.loadBlocks(keys, octets)
	}
	for len(keys) > 0 {
		n := 1
		for n < len(keys) && keys[n].block == keys[0].block {
			n++
		}
		if n > fewPostings {
			if err := b.loadBlocks(keys[:n], octetsOf(keys[:n])); err != nil {
				return err
			}
		}
		keys = keys[n:]
	}
	return nil
}

// octetsOf returns the octets of keys, each once, in order.
func octetsOf(keys []octetKey) []int64 {
	octets := make([]int64, len(keys))
	for i := range keys {
		octets[i] = keys[i].octet
	}
	slices.Sort(octets)
	return slices.Compact(octets)
}

// loadBlocks reads the postings of keys, which are in the order of blocks, and all others that
// the same octets have from the first of these blocks to the last.
func (b *batch) loadBlocks(keys []octetKey, octets []int64) error {
	damaged := map[octetKey]bool{}
	for some := range slices.Chunk(octets, manyOctets) {
		if err := b.loadSome(some, keys[0].block, keys[len(keys)-1].block, damaged); err != nil {
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

// loadSome reads the postings of octets in the blocks from first to last. It adds those that
// are damaged to damaged.
func (b *batch) loadSome(octets []int64, first, last uint64, damaged map[octetKey]bool) error {
	stmt, err := b.file.Stmt(b.tx, `SELECT `+postingColumns+`
		FROM json_each(?) j CROSS JOIN page_posting p ON p.octet = j.value AND p.block BETWEEN ? AND ?`)
	if err != nil {
		return err
	}
	rows, err := stmt.Query(joinNumbers(octets), int64(first), int64(last))
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		p, err := scanPosting(rows)
		var damage *DamageError
		switch {
		case errors.As(err, &damage):
			damaged[octetKey{octetOf(damage.Storage), damage.Block}] = true
		case err != nil:
			return err
		case b.postings[p.key] == nil:
			b.postings[p.key] = p
		}
	}
	return rows.Err()
}

// postingColumns are those that scanPosting scans, of page_posting p.
const postingColumns = `p.octet, p.block, p.members, p.count, p.chunks`

const postingQuery = `SELECT ` + postingColumns + ` FROM page_posting p WHERE p.octet = ? AND p.block = ?`

// scanPosting reads a row and checks all of it.
func scanPosting(row interface{ Scan(...any) error }) (*posting, error) {
	var octet, block, members, count int64 // database/sql converts only these without text
	var chunks []byte
	if err := row.Scan(&octet, &block, &members, &count, &chunks); err != nil {
		return nil, err
	}
	return decodePosting(octetKey{octet, uint64(block)}, members, count, chunks)
}

// writePostings writes the postings that have changed, in the order of the table.
func (b *batch) writePostings() error {
	for _, key := range slices.SortedFunc(maps.Keys(b.postings), compareOctetKeys) {
		p := b.postings[key]
		if !p.changed && !p.broken && len(p.added) == 0 {
			continue
		}
		if err := b.writePosting(p); err != nil {
			return err
		}
	}
	return nil
}

func compareOctetKeys(a, b octetKey) int {
	return cmp.Or(cmp.Compare(a.octet, b.octet), cmp.Compare(a.block, b.block))
}

func (b *batch) writePosting(p *posting) error {
	chunks, members, count := p.encode()
	if p.broken {
		return b.insertPosting(b.tx, p.key, 0, count, chunks) // members never is 0
	}
	if count == 0 || p.isMuchShorter(chunks, count) {
		// A row that only becomes shorter frees nothing.
		_, err := b.file.Exec(b.tx, `DELETE FROM page_posting WHERE octet = ? AND block = ?`, p.key.octet, int64(p.key.block))
		if err != nil || count == 0 {
			return err
		}
	}
	return b.insertPosting(b.tx, p.key, members, count, chunks)
}

// insertPosting writes a posting in place of the one that is there.
func (t *Tables) insertPosting(tx *sql.Tx, key octetKey, members int64, count int, chunks []byte) error {
	_, err := t.file.Exec(tx, `INSERT OR REPLACE INTO page_posting (octet, block, members, count, chunks) VALUES (?, ?, ?, ?, ?)`,
		key.octet, int64(key.block), members, count, chunks)
	return err
}

// isMuchShorter reports whether p is to be written in less than half of its space, or has
// lost most of its events by now.
func (p *posting) isMuchShorter(chunks []byte, count int) bool {
	return len(chunks) < len(p.written) && (count <= 2 || len(chunks) < len(p.written)/2)
}
