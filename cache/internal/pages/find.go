package pages

import (
	"context"
	"database/sql"
	"errors"
	"slices"
	"strconv"

	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/window"
)

// Find returns the line of an event, nil if it is not held, and the number of its
// storage. If a damaged page may have it, Find returns a *DamageError.
func Find(ctx context.Context, tx *sql.Tx, id event.ID) (line []byte, storage int64, err error) {
	p, e, err := find(ctx, tx, id)
	if err != nil || e == nil {
		return nil, 0, err
	}
	return p.line(e), e.storage, nil
}

// find returns the page and the entry of an event, nil if it is not held.
func find(ctx context.Context, tx *sql.Tx, id event.ID) (*page, *entry, error) {
	p, err := nearestPage(ctx, tx, id)
	if err == nil && p == nil {
		return nil, nil, nil
	}
	if isDamage(err) || err == nil && p.find(id) == nil {
		p, err = searchPages(ctx, tx, id)
	}
	if err != nil || p == nil {
		return nil, nil, err
	}
	e := p.find(id)
	if e == nil {
		return nil, nil, pageDamage(p.key, p.first(), p.last(), "event %s is not there", id)
	}
	return p, e, nil
}

const nearestQuery = `SELECT ` + pageColumns + ` FROM page WHERE ` + mayHave + ` LIMIT 1`

// nearestPage returns the last page that begins at or before an event and does not end
// before it, or nil. Unless pages overlap there, no other can have the event.
func nearestPage(ctx context.Context, tx *sql.Tx, id event.ID) (*page, error) {
	p, err := scanPage(tx.QueryRowContext(ctx, nearestQuery, id, id, id))
	if errors.Is(err, sql.ErrNoRows) {
		return nil, nil
	}
	return p, err
}

// searchPages returns the page that has an event, or nil.
func searchPages(ctx context.Context, tx *sql.Tx, id event.ID) (*page, error) {
	key, err := findPage(ctx, tx, id)
	if err != nil || key == 0 {
		return nil, err
	}
	return loadPage(ctx, tx, key)
}

// mayHave selects the pages among whose ids an id may be, which it takes three times.
const mayHave = `first > ? - 65536 AND first <= ? AND last >= ? ORDER BY first DESC`

// findPage returns the key of the page that has an event, or 0. It looks at the indexes
// alone, since on a copy many pages can have ids from before and after the event.
func findPage(ctx context.Context, tx *sql.Tx, id event.ID) (key int64, err error) {
	rows, err := tx.QueryContext(ctx, `SELECT key, first, last, count, entries, length(lines) FROM page WHERE `+mayHave, id, id, id)
	if err != nil {
		return 0, err
	}
	defer rows.Close()
	var damage error
	for rows.Next() {
		var p page
		var first, last event.ID
		var count int64
		var linesLen int
		if err := rows.Scan(&p.key, &first, &last, &count, &p.index, &linesLen); err != nil {
			return 0, err
		}
		if p.entries, err = decodeIndex(first, count, p.index, linesLen); err != nil {
			damage = errors.Join(damage, pageDamage(p.key, first, last, "%v", err))
		} else if p.find(id) != nil {
			return p.key, nil
		}
	}
	return 0, errors.Join(damage, rows.Err())
}

// A wanted set has storages, for each octet a bit for each of its storages.
type wantedSet map[int64]uint8

func wantedOf(storages []int64) wantedSet {
	w := make(wantedSet, len(storages)/octetLen+1)
	for _, storage := range storages {
		w[octetOf(storage)] |= 1 << placeIn(storage)
	}
	return w
}

func (w wantedSet) has(storage int64) bool { return w[octetOf(storage)]>>placeIn(storage)&1 != 0 }

// eachPosting calls fn with the postings that storages have in the blocks from first to last,
// or with the damage of one: octet by octet, each in the order of blocks. Postings may have
// events of other storages, too.
func eachPosting(ctx context.Context, tx *sql.Tx, w wantedSet, first, last uint64, fn func(*posting, error) error) error {
	octets := sortedKeys(w)
	for some := range slices.Chunk(octets, manyOctets) {
		if err := eachPostingOf(ctx, tx, w, some, first, last, fn); err != nil {
			return err
		}
	}
	return nil
}

func eachPostingOf(ctx context.Context, tx *sql.Tx, w wantedSet, octets []int64, first, last uint64, fn func(*posting, error) error) error {
	wanted := make([]int64, len(octets)) // 256 times the octet, and a bit for each storage
	for i, octet := range octets {
		wanted[i] = octet<<octetLen | int64(w[octet])
	}
	rows, err := tx.QueryContext(ctx, `SELECT `+postingColumns+` FROM json_each(?) j CROSS JOIN page_posting p
		ON p.octet = j.value >> 8 AND p.block BETWEEN ? AND ?
			AND (p.members & j.value & 255 OR p.members & 255 <> 255 - (p.members >> 8))`,
		joinNumbers(wanted), int64(first), int64(last))
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		p, err := scanPosting(rows)
		if err != nil && !isDamage(err) {
			return err
		}
		if err := fn(p, err); err != nil {
			return err
		}
	}
	return rows.Err()
}

// EachPosting calls fn with the events in a span that the postings of storages have: octet by
// octet, each in the order of blocks. fn must not keep the slice. skip is called with damaged
// postings, once for each of the storages that they may have events of, which EachPosting then
// goes past; if nil, the first one ends it.
func EachPosting(ctx context.Context, tx *sql.Tx, storages []int64, span window.Span, skip Skip, fn func(PostingKey, []Posted) error) error {
	if span.Empty() {
		return nil
	}
	w := wantedOf(storages)
	w[octetOf(unknownStorage)] |= 1 << placeIn(unknownStorage)
	var evs []Posted
	return eachPosting(ctx, tx, w, (span.From + 1).Block(), span.To.Block(), func(p *posting, err error) error {
		if err != nil {
			return w.skipDamage(skip, err)
		}
		first := p.key.octet<<octetBits + 1
		for storage := first; storage < first+octetLen; storage++ {
			if !w.has(storage) {
				continue
			}
			if evs = p.appendOf(evs[:0], storage, span.From, span.To); len(evs) == 0 {
				continue
			}
			if storage == unknownStorage {
				err = skip.Pass(unknownDamage(evs, span.From))
			} else {
				err = fn(PostingKey{storage, p.key.block}, evs)
			}
			if err != nil {
				return err
			}
		}
		return nil
	})
}

// skipDamage calls skip with damage of a posting for each of the storages that are wanted.
func (w wantedSet) skipDamage(skip Skip, err error) error {
	var damage *DamageError
	if skip == nil || !errors.As(err, &damage) {
		return err
	}
	for storage := damage.Storage; storage < damage.Storage+int64(damage.Storages); storage++ {
		if w.has(storage) {
			of := *damage
			of.Storage, of.Storages = storage, 1
			if err := skip(&of); err != nil {
				return err
			}
		}
	}
	return nil
}

// ReadPostingsOf returns the events in a span that the postings of some storages have, in
// their order.
func ReadPostingsOf(ctx context.Context, tx *sql.Tx, storages []int64, span window.Span) (posted []Posted, err error) {
	if span.Empty() {
		return nil, nil
	}
	w := wantedOf(storages)
	err = eachPosting(ctx, tx, w, (span.From + 1).Block(), span.To.Block(), func(p *posting, err error) error {
		if err != nil {
			return err
		}
		for i := range p.entries {
			if e := &p.entries[i]; w.has(e.storage) && span.From < e.ID && e.ID <= span.To {
				posted = append(posted, e.Posted)
			}
		}
		return nil
	})
	if err == nil {
		err = checkUnknown(ctx, tx, span.From, span, nil)
	}
	slices.SortFunc(posted, comparePosted)
	return posted, err
}

// joinNumbers writes numbers as json_each reads them.
func joinNumbers(numbers []int64) string {
	b := []byte{'['}
	for i, n := range numbers {
		if i > 0 {
			b = append(b, ',')
		}
		b = strconv.AppendInt(b, n, 10)
	}
	return string(append(b, ']'))
}

// LastPosted returns the last event in a span that the postings of each storage have. The
// page is 0 if they have none, or if one is damaged and skip takes it, as in EachPosting.
func LastPosted(ctx context.Context, tx *sql.Tx, storages []int64, span window.Span, skip Skip) (last []Posted, err error) {
	last = make([]Posted, len(storages))
	if span.Empty() || len(storages) == 0 {
		return last, nil
	}
	w := wantedOf(storages)
	found := make(map[int64]Posted, len(storages))
	for _, octet := range sortedKeys(w) {
		l := lastFinder{ctx: ctx, tx: tx, octet: octet, wanted: int64(w[octet]), span: span, found: found}
		if err := skip.Pass(l.find()); err != nil {
			return nil, err
		}
	}
	before := span.To
	for i := range last {
		last[i] = found[storages[i]]
		before = min(before, last[i].ID)
	}
	return last, checkUnknown(ctx, tx, before, span, skip)
}

// A lastFinder finds the last events of storages of an octet in a span.
type lastFinder struct {
	ctx    context.Context
	tx     *sql.Tx
	octet  int64
	wanted int64 // a bit for each storage that has none yet
	span   window.Span
	found  map[int64]Posted
}

// lastPostings is how many postings are read before those are left out that have no event of
// the storages that are still wanted: one that has seldom events may share postings with others
// that have many.
const lastPostings = 4

func (l *lastFinder) find() error {
	for first, last := (l.span.From + 1).Block(), l.span.To.Block(); l.wanted != 0; {
		n, block, err := l.findSome(first, last)
		if err != nil || n < lastPostings || block == first {
			return err
		}
		last = block - 1
	}
	return nil
}

// findSome reads some postings of the blocks from first to last, newest first. It returns how
// many, and the block of the last one.
func (l *lastFinder) findSome(first, last uint64) (n int, block uint64, err error) {
	rows, err := l.tx.QueryContext(l.ctx, `SELECT `+postingColumns+` FROM page_posting p
		WHERE p.octet = ? AND p.block BETWEEN ? AND ? AND (p.members & ? OR p.members & 255 <> 255 - (p.members >> 8))
		ORDER BY p.block DESC LIMIT ? + 0`, l.octet, int64(first), int64(last), l.wanted, lastPostings)
	if err != nil {
		return 0, 0, err
	}
	defer rows.Close()
	for ; l.wanted != 0 && rows.Next(); n++ {
		p, err := scanPosting(rows)
		if err != nil {
			return n, 0, err
		}
		block = p.key.block
		for i := len(p.entries) - 1; i >= 0 && l.wanted != 0; i-- {
			e := &p.entries[i]
			bit := int64(1) << placeIn(e.storage)
			if l.wanted&bit != 0 && l.span.From < e.ID && e.ID <= l.span.To {
				l.found[e.storage] = e.Posted
				l.wanted &^= bit
			}
		}
	}
	return n, block, rows.Err()
}

// checkUnknown returns damage if an event whose storage is not known may be in a span after a
// position.
func checkUnknown(ctx context.Context, tx *sql.Tx, after event.ID, span window.Span, skip Skip) error {
	unknown := func(PostingKey, []Posted) error { return nil }
	return EachPosting(ctx, tx, nil, window.Span{From: max(after, span.From), To: span.To}, skip, unknown)
}

// LastPostedOf returns the last event that the postings of a storage have, Beginning if
// they have none, in a transaction of File.Begin.
func (t *Tables) LastPostedOf(tx *sql.Tx, storage int64) (event.ID, error) {
	stmt, err := t.file.Stmt(tx, newestPosting)
	if err != nil {
		return event.Beginning, err
	}
	p, err := scanPosting(stmt.QueryRow(joinNumbers([]int64{storage})))
	if errors.Is(err, sql.ErrNoRows) {
		return event.Beginning, nil
	}
	if err != nil {
		return event.Beginning, err
	}
	if evs := p.appendOf(nil, storage, event.Beginning, event.MaxID); len(evs) > 0 {
		return evs[len(evs)-1].ID, nil
	}
	return event.Beginning, nil
}

// newestPosting selects the newest posting of the storage in a JSON array of one.
const newestPosting = `SELECT ` + postingColumns + ` FROM json_each(?) j CROSS JOIN page_posting p
	ON p.octet = ` + octetOfJSON + ` AND ` + hasJSON + ` ORDER BY p.block DESC LIMIT 1`
