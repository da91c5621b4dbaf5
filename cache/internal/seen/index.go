package seen

import (
	"context"
	"crypto/rand"
	"database/sql"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	"github.com/rstream-dev/rstream/cache/internal/dbfile"
	"github.com/rstream-dev/rstream/cache/internal/pages"
	"github.com/rstream-dev/rstream/cache/internal/rows"
	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/window"
)

// A memory is the committer's view of the hashes taken: the events that are in no sealed
// block yet, and the runs of hashes. It reflects the last transaction; if that was not
// committed, it is read again.
type memory struct {
	salt      uint64    // of filters and tables: unknown to authors, who choose the hashes
	open      openTable // the events after hashed or indexed
	hashed    event.ID  // the hashes up to here are in runs
	indexed   event.ID  // the events up to here have postings
	runs      []*run
	merges    []*merge
	nextIndex int64 // the number of the next one
	credit    int   // hashes that may be merged
}

// addOpen adds a new event.
func (k *memory) addOpen(ev rows.OpenEvent) { k.open.insertOpen(ev, ev.ID > k.hashed) }

// HashSpan is how many events' hashes become a run. It is a variable for the tests.
var HashSpan event.ID = 16 * event.BlockSize

// An Index finds the events of a log by their hashes. All its methods but SealBlock
// require the right to write.
type Index struct {
	file   *dbfile.File
	tables *rows.Tables
	memory *memory // nil if it must be read
}

// Open reads the index of a server's log, so that damage is reported when the file is
// opened.
func Open(ctx context.Context, f *dbfile.File, t *rows.Tables) (*Index, error) {
	x := &Index{file: f, tables: t}
	if err := x.file.Update(ctx, giveSalt); err != nil {
		return nil, err
	}
	if err := x.convertOld(ctx); err != nil {
		return nil, err
	}
	read := func(tx *sql.Tx) (err error) {
		x.memory, err = x.loadMemory(tx)
		return err
	}
	err := x.file.Update(ctx, read)
	if t.Pages.AvoidIndex(err) {
		err = x.file.Update(ctx, read)
	}
	return x, err
}

// Ready reads the index again if Invalidate has dropped it.
func (x *Index) Ready(tx *sql.Tx) (err error) {
	if x.memory == nil {
		x.memory, err = x.loadMemory(tx)
	}
	return err
}

// Invalidate drops the index from memory, which may contain more than was committed.
func (x *Index) Invalidate() { x.memory = nil }

// Add adds a new event.
func (x *Index) Add(ev rows.OpenEvent) { x.memory.addOpen(ev) }

// LastOpen returns the last event of each storage that has events without postings.
func (x *Index) LastOpen() map[int64]event.ID {
	open := map[int64]event.ID{}
	tail := &x.memory.open
	for _, ev := range tail.events[tail.after(x.memory.indexed):] {
		open[ev.Storage] = ev.ID
	}
	return open
}

// giveSalt gives a log without a salt for its filters a random one.
func giveSalt(tx *sql.Tx) error {
	var salt [8]byte
	rand.Read(salt[:]) // never fails
	var has int64
	if err := dbfile.ScanLog(context.Background(), tx, `salt`, &has); err != nil || has != 0 {
		return err
	}
	err := dbfile.UpdateLog(tx, dbfile.LogTable.Update("salt", "?1"), int64(binary.BigEndian.Uint64(salt[:])))
	return errors.Join(err, dbfile.CopyLog(tx))
}

// loadMemory reads the index.
func (x *Index) loadMemory(tx *sql.Tx) (k *memory, err error) {
	k = &memory{}
	var hashed, indexed, salt int64
	err = dbfile.ScanLog(context.Background(), tx, `hashed, indexed, salt, (SELECT coalesce(max(id), 0) + 1 FROM guard)`,
		&hashed, &indexed, &salt, &k.nextIndex)
	if err != nil {
		return nil, err
	}
	k.hashed, k.indexed, k.salt = event.ID(hashed), event.ID(indexed), uint64(salt)
	k.open.salt = k.salt
	if k.runs, err = loadRuns(tx); err != nil {
		return nil, err
	}
	for _, r := range k.runs {
		if err := r.loadPages(tx, k.salt); err != nil {
			return nil, err
		}
	}
	if k.merges, err = x.loadMerges(tx, k.runs); err != nil {
		return nil, err
	}
	after := min(k.hashed, k.indexed)
	// The log must start all the same, and know as many hashes as it can.
	skip := func(e *pages.DamageError) error {
		known, err := pages.KnownHashes(context.Background(), tx, e.Page)
		last := max(after, k.open.lastOpenID())
		for _, h := range known {
			if h.ID > last {
				k.addOpen(rows.OpenEvent{ID: h.ID, Storage: h.Storage, Hash: h.Hash})
			}
		}
		return err
	}
	return k, rows.EachOpenEvent(context.Background(), tx, after, x.tables.Pages.IsIndexAvoided(), skip, k.addOpen)
}

// loadRuns returns the runs without their pages and filters.
func loadRuns(tx *sql.Tx) (runs []*run, err error) {
	var most int64 // bounds the memory that a damaged count can ask for by the size of the file
	if err := tx.QueryRow(`SELECT c.page_count * s.page_size / ? FROM pragma_page_count c, pragma_page_size s`, entryLen).Scan(&most); err != nil {
		return nil, err
	}
	rows, err := tx.Query(`SELECT id, level, count, coalesce(target, 0) FROM run ORDER BY id`)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		var r run
		if err := rows.Scan(&r.id, &r.level, &r.count, &r.target); err != nil {
			return nil, err
		}
		if r.count < 0 || r.count > most {
			return nil, fmt.Errorf("%w: run %d has %d hashes", dbfile.ErrCorrupt, r.id, r.count)
		}
		runs = append(runs, &r)
	}
	return runs, rows.Err()
}

// loadPages reads the run's filter and the fences of its pages.
func (r *run) loadPages(tx *sql.Tx, salt uint64) error {
	r.filter = newFilter(r.count, salt)
	rows, err := tx.Query(`SELECT id, first, fences, lines FROM guard WHERE run = ? ORDER BY first`, r.id)
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		var id int64
		var first, fences, lines sql.RawBytes
		if err := rows.Scan(&id, &first, &fences, &lines); err != nil {
			return err
		}
		if len(r.fences) != len(r.indexes)*batchPages {
			return fmt.Errorf("%w: page index %d follows a partial one", dbfile.ErrCorrupt, id)
		}
		if err := r.addPageIndex(id, first, fences); err != nil {
			return err
		}
		if err := r.filter.addBlocks(first, lines); err != nil {
			return err
		}
	}
	return rows.Err()
}

func (r *run) addPageIndex(id int64, first, fences []byte) error {
	n := len(fences) / 8
	if n == 0 || n > batchPages || len(fences) != 8*n || len(first) != len(event.Hash{}) {
		return fmt.Errorf("%w: page index %d has %d and %d bytes", dbfile.ErrCorrupt, id, len(first), len(fences))
	}
	r.indexes = append(r.indexes, id)
	for ; len(fences) > 0; fences = fences[8:] {
		r.fences = append(r.fences, fence(fences))
	}
	return nil
}

// Find returns the id of the log's event with hash h; ok is false if there is none.
func (x *Index) Find(tx *sql.Tx, h *event.Hash) (id event.ID, ok bool, err error) {
	if id, ok = x.memory.open.findOpen(h); ok {
		return id, ok, nil
	}
	bits := mix(h, x.memory.salt)
	for _, r := range x.memory.runs {
		if !r.filter.mayHave(h, bits) {
			continue
		}
		if id, ok, err = x.findIn(tx, r, h); ok || err != nil {
			return id, ok, err
		}
	}
	return 0, false, nil
}

func (x *Index) findIn(tx *sql.Tx, r *run, h *event.Hash) (id event.ID, ok bool, err error) {
	r.pages(h, func(i int) bool {
		var entries []byte
		if entries, err = x.readPage(tx, r.pageID(i)); err == nil && entries == nil && r.target == 0 {
			err = fmt.Errorf("%w: run %d has no page %d", dbfile.ErrCorrupt, r.id, i)
		}
		id, ok = findEntry(entries, h)
		return !ok && err == nil
	})
	return id, ok, err
}

// Seal does the work of a whole block at once: it writes the postings of the blocks that
// head has filled and, once there are enough of them, a run of their hashes. That costs a
// fraction of an index updated with each event; the open events are scanned instead.
func (x *Index) Seal(tx *sql.Tx, head event.ID) error {
	k := x.memory
	sealed := head / event.BlockSize * event.BlockSize
	if err := x.sealPostings(tx, sealed); err != nil {
		return err
	}
	if sealed >= k.hashed+HashSpan {
		if err := x.sealHashes(tx, sealed); err != nil {
			return err
		}
	}
	if err := x.file.UpdateLog(tx, setSealed, int64(k.hashed), int64(k.indexed)); err != nil {
		return err
	}
	return dbfile.CopyLog(tx)
}

var setSealed = dbfile.LogTable.Update("hashed", "?1", "indexed", "?2")

// sealPostings writes the postings of the blocks up to a position. A mirror of some topics may
// have no event in most of them: if there are several blocks, those without are skipped.
func (x *Index) sealPostings(tx *sql.Tx, sealed event.ID) error {
	k := x.memory
	for k.indexed < sealed {
		if x.file.IsPart() && sealed-k.indexed > event.BlockSize {
			next, err := x.tables.Pages.NextStored(tx, window.Span{From: k.indexed, To: sealed})
			if err != nil {
				return err
			}
			if k.indexed = next; next == sealed {
				return nil
			}
		}
		block := (k.indexed + 1).Block()
		if err := x.tables.Pages.PostBlock(context.Background(), tx, block); err != nil {
			return err
		}
		k.indexed = window.BlockSpan(block).To
	}
	return nil
}

func (x *Index) sealHashes(tx *sql.Tx, sealed event.ID) error {
	k := x.memory
	old := &k.open
	from, to := old.after(k.hashed), old.after(sealed)
	if err := x.writeRun(tx, old.events[from:to]); err != nil {
		return err
	}
	k.hashed = sealed
	fresh := openTable{salt: k.salt, events: make([]rows.OpenEvent, 0, len(old.events)), places: make([]uint32, len(old.places))}
	for _, ev := range old.events[to:] {
		fresh.insertOpen(ev, true)
	}
	k.open = fresh
	return nil
}

// writeRun makes a run of the hashes of evs.
func (x *Index) writeRun(tx *sql.Tx, evs []rows.OpenEvent) error {
	if len(evs) == 0 {
		return nil
	}
	r := newRun(0, int64(len(evs)), x.memory.salt)
	if err := x.insertRun(tx, r); err != nil {
		return err
	}
	g := newPageBatch()
	for _, ev := range sortedByHash(evs) {
		if g = g.appendEntry(ev.Hash[:], ev.ID); g.isBatchFull() {
			if err := x.writePageBatch(tx, g, r); err != nil {
				return err
			}
			g = g[:0]
		}
	}
	if len(g) > 0 {
		if err := x.writePageBatch(tx, g, r); err != nil {
			return err
		}
	}
	x.memory.runs = append(x.memory.runs, r)
	return nil
}

// Replace makes the index that of a log that has taken only evs, all of them at or before
// position at, the end of a block, and with postings.
func (x *Index) Replace(tx *sql.Tx, at event.ID, evs []rows.OpenEvent) error {
	if err := x.Ready(tx); err != nil {
		return err
	}
	for _, table := range []string{"run", "guard", "slab", "taken"} {
		if _, err := tx.Exec(`DELETE FROM ` + table); err != nil {
			return err
		}
	}
	k := &memory{salt: x.memory.salt, hashed: at, indexed: at, nextIndex: x.memory.nextIndex}
	k.open.salt = k.salt
	x.memory = k
	if err := x.writeRun(tx, evs); err != nil {
		return err
	}
	if len(k.runs) > 0 {
		r := k.runs[0]
		if err := x.setLevel(tx, r); err != nil {
			return err
		}
	}
	return x.file.UpdateLog(tx, setSealed, int64(at), int64(at))
}

// setLevel gives a run that was not merged the level of its size.
func (x *Index) setLevel(tx *sql.Tx, r *run) error {
	for r.level = 0; r.count > int64(HashSpan)<<(MergeBits*(r.level+1)); {
		r.level++
	}
	_, err := tx.Exec(`UPDATE run SET level = ? WHERE id = ?`, r.level, r.id)
	return err
}

// sortedByHash returns evs sorted by hash. It first distributes them over buckets, which
// leaves little to sort, since hashes are evenly distributed.
func sortedByHash(evs []rows.OpenEvent) []*rows.OpenEvent {
	const buckets = 4096
	bucket := func(ev *rows.OpenEvent) int { return int(fence(ev.Hash[:]) >> 52) }
	var ends [buckets + 1]int
	for i := range evs {
		ends[bucket(&evs[i])+1]++
	}
	for b := range buckets {
		ends[b+1] += ends[b]
	}
	starts := ends
	sorted := make([]*rows.OpenEvent, len(evs))
	for i := range evs {
		b := bucket(&evs[i])
		sorted[starts[b]] = &evs[i]
		starts[b]++
	}
	for b := range buckets {
		if same := sorted[ends[b]:ends[b+1]]; len(same) > 1 {
			slices.SortFunc(same, func(x, y *rows.OpenEvent) int { return x.Hash.Compare(y.Hash) })
		}
	}
	return sorted
}

// SealBlock makes a run of the hashes of the block after a position, before its lines are
// dropped: the log must know the hashes for ever.
func (x *Index) SealBlock(ctx context.Context, after event.ID) error {
	if err := x.file.Lock(ctx); err != nil {
		return err
	}
	defer x.file.Unlock()
	// Do not let the caller's context end it: the index would have to be read again.
	err := x.file.Transact(context.WithoutCancel(ctx), func(tx *sql.Tx) (err error) {
		if err := x.Ready(tx); err != nil {
			return err
		}
		end := window.BlockSpan(uint64(after) / event.BlockSize).To
		if x.memory.hashed >= end {
			return nil // an append has done it already
		}
		if err := x.sealHashes(tx, end); err != nil {
			return err
		}
		if err := x.file.UpdateLog(tx, setSealed, int64(x.memory.hashed), int64(x.memory.indexed)); err != nil {
			return err
		}
		return dbfile.CopyLog(tx)
	})
	if err != nil {
		x.memory = nil
	}
	return x.file.Named(err)
}
