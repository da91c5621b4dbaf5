package seen

import (
	"bytes"
	"database/sql"
	"encoding/binary"
	"errors"
	"fmt"
	"math/bits"
	"slices"

	"github.com/rstream-dev/rstream/cache/internal/dbfile"
	"github.com/rstream-dev/rstream/event"
)

// A run is a sorted list of hashes and the ids of their events. It is cut into pages, two
// of which fill one of SQLite's; a batch of sixteen pages is written at a time.
// Only a filter of the whole run and the fence of each page are in memory: 27 bits a
// hash. So looking up a hash that is not in the run reads nothing, and one that is reads
// one page.
//
// The run has the full hashes: the event's line, which could distinguish two, may be gone
// long before its hash may be taken again.
const (
	entryLen   = len(event.Hash{}) + 8
	pageLen    = 100 // entries: with SQLite's overhead, two such rows fill its page of 8,192 bytes
	batchPages = 16
	batchLen   = batchPages * pageLen
)

// A run is the committer's view of a run in the file. Page i is in the batch of
// indexes[i/batchPages]. The file calls pages slabs, and page indexes guards.
type run struct {
	id      int64
	level   int
	count   int64 // of all its hashes, also those not written yet
	filter  filter
	target  int64    // the run it is being merged into, or 0
	indexes []int64  // page indexes
	fences  []uint64 // of each page
	moved   int64    // how many hashes were written
}

func newRun(level int, count int64, salt uint64) *run {
	return &run{level: level, count: count, filter: newFilter(count, salt)}
}

// insertRun inserts the run's row.
func (x *Index) insertRun(tx *sql.Tx, r *run) error {
	return x.file.Scan(tx, `INSERT INTO run (level, count) VALUES (?, ?) RETURNING id`, []any{r.level, r.count}, &r.id)
}

// pages calls visit with the pages that may contain h, seldom more than one, until it
// returns false.
func (r *run) pages(h *event.Hash, visit func(slab int) bool) {
	x := fence(h[:])
	for i := lastFence(r.fences, x); i >= 0 && visit(i) && r.fences[i] == x; i-- {
	}
}

// pageID returns the row of page i.
func (r *run) pageID(i int) int64 { return r.indexes[i/batchPages]*batchPages + int64(i%batchPages) }

// fence returns the first bytes of a hash as a number.
func fence(hash []byte) uint64 { return binary.BigEndian.Uint64(hash) }

// lastFence returns the index of the last fence that is at most x, or -1.
func lastFence(fences []uint64, x uint64) int {
	i, found := slices.BinarySearch(fences, x)
	for found && i+1 < len(fences) && fences[i+1] == x {
		i++
	}
	if !found {
		i--
	}
	return i
}

// A filter rules out most hashes that are not in a run. It consists of blocks of 512
// bits; the block of a hash grows with the hash, so that a run written in order can write
// its filter along with it. The bits within the block depend on the salt: authors can
// crowd a block with hashes of their choice, and slow down their own lookups, but nobody
// else's.
type filter struct {
	salt   uint64
	blocks []filterBlock
}

type filterBlock [8]uint64

const (
	blockHashes = 20 // for one false positive in several thousand hashes
	blockLen    = 64
)

func newFilter(count int64, salt uint64) filter {
	return filter{salt: salt, blocks: make([]filterBlock, count/blockHashes+1)}
}

// block returns the block of a hash.
func (f *filter) block(h []byte) int {
	i, _ := bits.Mul64(fence(h), uint64(len(f.blocks)))
	return int(i)
}

// mix returns bits that only the holder of the salt can tell from a hash.
func mix(h *event.Hash, salt uint64) uint64 {
	x := (binary.LittleEndian.Uint64(h[8:]) ^ salt) * 0x9E3779B97F4A7C15
	x = (x ^ x>>32) * 0xD6E8FEB86659FD93
	return x ^ x>>32
}

// filterPlaces is how many bits a hash sets in its block, each chosen by nine bits of
// mix.
const filterPlaces = 6

func (l *filterBlock) setBits(x uint64) {
	for range filterPlaces {
		l[x>>6&7] |= 1 << (x & 63)
		x >>= 9
	}
}

// mayHave reports whether h, with x = mix(h), may have been added.
func (f *filter) mayHave(h *event.Hash, x uint64) bool {
	l := &f.blocks[f.block(h[:])]
	for range filterPlaces {
		if l[x>>6&7]&(1<<(x&63)) == 0 {
			return false
		}
		x >>= 9
	}
	return true
}

// appendBlocks appends the filter blocks of a batch, with the bits of its own hashes
// only.
func (f *filter) appendBlocks(b []byte, g pageBatch) []byte {
	own := filter{salt: f.salt, blocks: make([]filterBlock, f.block(g[len(g)-entryLen:])-f.block(g)+1)}
	from := f.block(g)
	for ; len(g) > 0; g = g[entryLen:] {
		own.blocks[f.block(g)-from].setBits(mix((*event.Hash)(g), f.salt))
	}
	for i := range own.blocks {
		for _, x := range own.blocks[i] {
			b = binary.LittleEndian.AppendUint64(b, x)
		}
	}
	return b
}

// addBlocks adds the result of appendBlocks for a batch that begins with first.
func (f *filter) addBlocks(first, b []byte) error {
	from := f.block(first)
	if len(b)%blockLen != 0 || from+len(b)/blockLen > len(f.blocks) {
		return fmt.Errorf("%w: a filter of %d bytes at block %d", dbfile.ErrCorrupt, len(b), from)
	}
	for i := range len(b) / 8 {
		f.blocks[from+i/8][i%8] |= binary.LittleEndian.Uint64(b[8*i:])
	}
	return nil
}

// findEntry returns the id that the sorted entries have for hash h.
func findEntry(entries []byte, h *event.Hash) (event.ID, bool) {
	low, high := 0, len(entries)/entryLen
	for low < high {
		m := (low + high) / 2
		e := entries[m*entryLen:][:entryLen]
		switch c := bytes.Compare(e[:len(h)], h[:]); {
		case c == 0:
			return event.ID(binary.BigEndian.Uint64(e[len(h):])), true
		case c < 0:
			low = m + 1
		default:
			high = m
		}
	}
	return 0, false
}

// A pageBatch is the unit of writing: sorted entries on their way into a run.
type pageBatch []byte

func newPageBatch() pageBatch { return make(pageBatch, 0, batchLen*entryLen) }

func (g pageBatch) isBatchFull() bool { return len(g) >= batchLen*entryLen }

// appendEntry appends a hash and the id of its event.
func (g pageBatch) appendEntry(hash []byte, id event.ID) pageBatch {
	return binary.BigEndian.AppendUint64(append(g, hash...), uint64(id))
}

// writePageBatch appends a batch to run r.
func (x *Index) writePageBatch(tx *sql.Tx, g pageBatch, r *run) error {
	guard := x.memory.nextIndex
	x.memory.nextIndex++
	var fences []byte
	for i := 0; len(g) > i*pageLen*entryLen; i++ {
		slab := g[i*pageLen*entryLen:]
		slab = slab[:min(len(slab), pageLen*entryLen)]
		fences = append(fences, slab[:8]...)
		r.fences = append(r.fences, fence(slab))
		if _, err := x.file.Exec(tx, `INSERT INTO slab (id, hashes) VALUES (?, ?)`, guard*batchPages+int64(i), []byte(slab)); err != nil {
			return err
		}
	}
	r.indexes = append(r.indexes, guard)
	r.moved += int64(len(g) / entryLen)
	lines := r.filter.appendBlocks(nil, g)
	if err := r.filter.addBlocks(g, lines); err != nil {
		return err
	}
	_, err := x.file.Exec(tx, `INSERT INTO guard (id, run, first, fences, lines) VALUES (?, ?, ?, ?, ?)`,
		guard, r.id, []byte(g[:len(event.Hash{})]), fences, lines)
	return err
}

// readPage returns the entries of a page, none if it has no row.
func (x *Index) readPage(tx *sql.Tx, id int64) (entries []byte, err error) {
	err = x.file.Scan(tx, `SELECT hashes FROM slab WHERE id = ?`, []any{id}, &entries)
	if errors.Is(err, sql.ErrNoRows) {
		return nil, nil
	}
	if err == nil {
		err = checkPage(id, entries)
	}
	return entries, err
}

func checkPage(id int64, entries []byte) error {
	if len(entries) == 0 || len(entries)%entryLen != 0 {
		return fmt.Errorf("%w: page %d has %d bytes", dbfile.ErrCorrupt, id, len(entries))
	}
	return nil
}
