package seen

import (
	"bytes"
	"cmp"
	"database/sql"
	"fmt"
	"slices"

	"github.com/rstream-dev/rstream/cache/internal/dbfile"
)

// MergeBits is, as a power of two, how many runs of one level become one of the next. It
// is a variable for the tests.
var MergeBits = 4

func mergeFan() int { return 1 << MergeBits }

// A merge makes one run of several. Each append pays for a part of it, in its own
// transaction: so the hashes of one block never wait for those of a thousand, and nothing
// is synced more often. Entries that were moved are removed from their old run: wherever
// the merge is interrupted, each hash is in exactly one of the runs.
type merge struct {
	out *run
	in  []*mergeInput
}

// A mergeInput is how far one run has been merged.
type mergeInput struct {
	run     *run
	page    int
	entries []byte // of the page, not yet moved
	key     uint64 // the fence of the first entry
}

// MergeSome merges as much as n new events pay for. A hash is moved once per level, so
// each event pays for that many moves, and a few more.
func (x *Index) MergeSome(tx *sql.Tx, n int) error {
	k := x.memory
	if err := x.startMerges(tx); err != nil {
		return err
	}
	if len(k.merges) == 0 {
		k.credit = 0
		return nil
	}
	top := 0
	for _, r := range k.runs {
		top = max(top, r.level)
	}
	for k.credit += n * (top + 2); k.credit >= batchLen && len(k.merges) > 0; k.credit -= batchLen {
		// Small ones first: a large one must not hold them up.
		m := slices.MinFunc(k.merges, func(a, b *merge) int { return cmp.Compare(a.out.level, b.out.level) })
		if err := x.mergeStep(tx, m); err != nil {
			return fmt.Errorf("merge into run %d: %w", m.out.id, err)
		}
	}
	return nil
}

// startMerges starts to merge the oldest runs of each level that has enough of them and
// no merge yet.
func (x *Index) startMerges(tx *sql.Tx) error {
	k := x.memory
	byLevel := map[int][]*run{}
	for _, r := range k.runs {
		if r.target == 0 && !slices.ContainsFunc(k.merges, func(m *merge) bool { return m.out == r }) {
			byLevel[r.level] = append(byLevel[r.level], r)
		}
	}
	for level, runs := range byLevel {
		busy := slices.ContainsFunc(k.merges, func(m *merge) bool { return m.out.level == level+1 })
		if busy || len(runs) < mergeFan() {
			continue
		}
		var count int64
		for _, r := range runs[:mergeFan()] {
			count += r.count
		}
		out := newRun(level+1, count, k.salt)
		if err := x.insertRun(tx, out); err != nil {
			return err
		}
		for _, r := range runs[:mergeFan()] {
			r.target = out.id
			if _, err := x.file.Exec(tx, `UPDATE run SET target = ? WHERE id = ?`, r.target, r.id); err != nil {
				return err
			}
		}
		m, err := x.resume(tx, out, runs[:mergeFan()])
		if err != nil {
			return err
		}
		k.merges, k.runs = append(k.merges, m), append(k.runs, out)
	}
	return nil
}

// loadMerges returns the unfinished merges.
func (x *Index) loadMerges(tx *sql.Tx, runs []*run) (merges []*merge, err error) {
	for _, out := range runs {
		var in []*run
		for _, r := range runs {
			if r.target == out.id {
				in = append(in, r)
			}
		}
		if len(in) == 0 {
			continue
		}
		m, err := x.resume(tx, out, in)
		if err != nil {
			return nil, err
		}
		merges = append(merges, m)
	}
	return merges, nil
}

// resume continues an interrupted merge after the last hash moved.
func (x *Index) resume(tx *sql.Tx, out *run, in []*run) (*merge, error) {
	last, err := x.lastEntry(tx, out)
	if err != nil {
		return nil, err
	}
	m := &merge{out: out}
	for _, r := range in {
		c := &mergeInput{run: r}
		for c.page < len(r.fences) && len(c.entries) == 0 {
			if c.entries, err = x.readPage(tx, r.pageID(c.page)); err != nil {
				return nil, err
			}
			if c.entries == nil {
				c.page++ // its entries were moved
				continue
			}
			c.key = fence(c.entries)
		}
		for len(c.entries) > 0 && bytes.Compare(c.entries[:entryLen], last) <= 0 {
			if err := x.advanceInput(tx, c); err != nil {
				return nil, err
			}
		}
		m.in = append(m.in, c)
	}
	return m, nil
}

// lastEntry returns the last entry of a run, nil if it has none, and counts the entries
// that the run has.
func (x *Index) lastEntry(tx *sql.Tx, r *run) ([]byte, error) {
	if len(r.fences) == 0 {
		return nil, nil
	}
	i := len(r.fences) - 1
	entries, err := x.readPage(tx, r.pageID(i))
	if err == nil && entries == nil {
		err = fmt.Errorf("%w: run %d has no page %d", dbfile.ErrCorrupt, r.id, i)
	}
	if err != nil {
		return nil, err
	}
	r.moved = int64(i*pageLen + len(entries)/entryLen)
	return entries[len(entries)-entryLen:], nil
}

// mergeStep moves one batch, and ends the merge if it was the last one.
func (x *Index) mergeStep(tx *sql.Tx, m *merge) error {
	g := make(pageBatch, 0, batchLen*entryLen)
	for !g.isBatchFull() {
		c := m.first()
		if c == nil {
			break
		}
		g = append(g, c.entries[:entryLen]...)
		if err := x.advanceInput(tx, c); err != nil {
			return err
		}
	}
	if len(g) > 0 {
		if err := x.writePageBatch(tx, g, m.out); err != nil {
			return err
		}
	}
	if m.first() != nil {
		return nil
	}
	return x.endMerge(tx, m)
}

// first returns the input with the lowest hash, nil if all are exhausted.
func (m *merge) first() (first *mergeInput) {
	for _, c := range m.in {
		if len(c.entries) > 0 && (first == nil || c.key < first.key || c.key == first.key && bytes.Compare(c.entries, first.entries) < 0) {
			first = c
		}
	}
	return first
}

// advanceInput removes the first entry of c. It deletes a page without entries, and an index
// without pages.
func (x *Index) advanceInput(tx *sql.Tx, c *mergeInput) error {
	if c.entries = c.entries[entryLen:]; len(c.entries) > 0 {
		c.key = fence(c.entries)
		return nil
	}
	if _, err := x.file.Exec(tx, `DELETE FROM slab WHERE id = ?`, c.run.pageID(c.page)); err != nil {
		return err
	}
	guard := c.run.indexes[c.page/batchPages]
	c.page++
	if c.page%batchPages == 0 || c.page == len(c.run.fences) {
		if _, err := x.file.Exec(tx, `DELETE FROM guard WHERE id = ?`, guard); err != nil {
			return err
		}
	}
	if c.page == len(c.run.fences) {
		return nil
	}
	var err error
	if c.entries, err = x.readPage(tx, c.run.pageID(c.page)); err == nil && c.entries == nil {
		err = fmt.Errorf("%w: run %d has no page %d", dbfile.ErrCorrupt, c.run.id, c.page)
	}
	if err != nil {
		return err
	}
	c.key = fence(c.entries)
	return nil
}

// endMerge deletes the runs that were merged.
func (x *Index) endMerge(tx *sql.Tx, m *merge) error {
	k := x.memory
	if m.out.moved != m.out.count {
		return fmt.Errorf("%w: found %d of %d hashes", dbfile.ErrCorrupt, m.out.moved, m.out.count)
	}
	for _, c := range m.in {
		k.runs = slices.DeleteFunc(k.runs, func(r *run) bool { return r == c.run })
		if _, err := x.file.Exec(tx, `DELETE FROM run WHERE id = ?`, c.run.id); err != nil {
			return err
		}
	}
	k.merges = slices.DeleteFunc(k.merges, func(other *merge) bool { return other == m })
	return nil
}
