package pages

import (
	"bytes"
	"cmp"
	"context"
	"database/sql"
	"encoding/binary"
	"slices"

	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/window"
)

// A Rebuilding says how Rebuild stores the events of a stretch of a copy again.
type Rebuilding struct {
	Span window.Span
	// Drop reports whether a sound event goes; those that are damaged go anyway.
	Drop func(ev *event.Event) bool
	// Number returns the number of an event's storage.
	Number func(ev *event.Event) (int64, error)
	// Add are stored, too, in place of other events with their ids. Their ids ascend.
	Add []event.Event
}

// Rebuild repairs a stretch of a copy. It reads the pages that reach into the stretch,
// without trusting them, deletes them with their postings, and stores the sound events again,
// each under the storage that its line names. A line is sound if its hash is right
// and, as a hash does not cover the time, if the checksum of its page or its posting is
// right. Rebuild returns the events that were damaged, or have given way to another one with
// their id. Where neither an index nor a posting names them, it returns an event of storage 0
// for each block that may have had some.
func (t *Tables) Rebuild(ctx context.Context, tx *sql.Tx, r Rebuilding) (lost []Place, err error) {
	if r.Span.Empty() {
		return nil, checkAscending(r.Add)
	}
	if err := checkAscending(r.Add); err != nil {
		return nil, err
	}
	b := rebuilder{batch: t.newBatch(tx), ctx: ctx, r: &r, suspects: map[int64]*suspect{}, sound: map[event.ID]event.Event{}}
	for _, step := range []func() error{b.readSuspects, b.readPostings, b.judge, b.replace} {
		if err := step(); err != nil {
			return nil, err
		}
	}
	return b.lost, nil
}

// A suspect is a page that is about to be rebuilt.
type suspect struct {
	key     int64
	first   event.ID // of the stretch that its events may be in, if the index is damaged
	last    event.ID
	entries []entry // nil if the index is damaged
	lines   []byte
	whole   bool               // the lines have their checksum
	posted  map[event.ID]Place // what postings say is in it
	sums    map[event.ID]uint32
}

// A rebuilder runs Rebuild.
type rebuilder struct {
	*batch
	ctx      context.Context
	r        *Rebuilding
	suspects map[int64]*suspect // by key
	blocks   window.Span        // the blocks of their events, as a span
	sound    map[event.ID]event.Event
	lost     []Place
	broken   []octetKey // damaged postings
}

// readSuspects reads the pages that reach into the span.
func (b *rebuilder) readSuspects() error {
	rows, err := b.tx.QueryContext(b.ctx, `SELECT `+pageColumns+` FROM page WHERE `+touching, touchingArgs(b.r.Span)...)
	if err != nil {
		return err
	}
	defer rows.Close()
	b.blocks = blocksOf(b.r.Span.From+1, b.r.Span.To)
	for rows.Next() {
		s := &suspect{posted: map[event.ID]Place{}, sums: map[event.ID]uint32{}}
		var first, last event.ID
		var count int64
		var index []byte
		if err := rows.Scan(&s.key, &first, &last, &count, &index, &s.lines); err != nil {
			return err
		}
		if s.entries, err = decodeIndex(first, count, index, len(s.lines)); err == nil {
			s.whole = checksum(s.lines) == binary.BigEndian.Uint32(index[4:])
		} else if first > 0 && first <= last && last < first+maxSpan && last <= event.MaxID {
			s.first, s.last = first, last // if these are right, at least
		}
		b.suspects[s.key] = s
		b.widen(s)
	}
	return rows.Err()
}

// widen adds the blocks of the events of s.
func (b *rebuilder) widen(s *suspect) {
	add := func(id event.ID) {
		more := blocksOf(id, id)
		b.blocks = window.Span{From: min(b.blocks.From, more.From), To: max(b.blocks.To, more.To)}
	}
	for line, id := range s.eachLine() {
		if id != 0 {
			add(id)
		} else if ev, err := event.ParseLine(line); err == nil {
			if s.first == 0 {
				s.first = ev.ID
			}
			s.first, s.last = min(s.first, ev.ID), max(s.last, ev.ID)
		}
	}
	if s.first != 0 {
		add(s.first)
		add(s.last)
	}
}

// blocksOf returns the span of the blocks that two events are in.
func blocksOf(first, last event.ID) window.Span {
	return window.Span{From: window.BlockSpan(first.Block()).From, To: window.BlockSpan(last.Block()).To}
}

// readPostings takes out of all postings what they say about the suspects and about the
// span.
func (b *rebuilder) readPostings() error {
	rows, err := b.tx.QueryContext(b.ctx, `SELECT `+postingColumns+` FROM page_posting p WHERE p.block BETWEEN ? AND ?`,
		int64((b.blocks.From + 1).Block()), int64(b.blocks.To.Block()))
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		var key octetKey
		var members, count int64
		var chunks []byte
		if err := rows.Scan(&key.octet, &key.block, &members, &count, &chunks); err != nil {
			return err
		}
		p, err := decodePosting(key, members, count, chunks)
		if err != nil {
			p = newPosting(key)
			p.changed = true
			b.broken = append(b.broken, key)
		}
		for i := range p.entries {
			b.takeOut(p, &p.entries[i])
		}
		if p.changed {
			b.postings[key] = p
		}
	}
	return rows.Err()
}

func (b *rebuilder) takeOut(p *posting, e *placedEvent) {
	s := b.suspects[e.Page]
	if s != nil {
		s.posted[e.ID], s.sums[e.ID] = Place{e.storage, e.ID}, e.Sum
	} else if e.ID <= b.r.Span.From || e.ID > b.r.Span.To {
		return
	}
	e.Page, p.changed = 0, true
}

// judge finds the sound events of the suspects.
func (b *rebuilder) judge() error {
	for _, key := range sortedKeys(b.suspects) {
		s := b.suspects[key]
		found := map[event.ID]bool{}
		for line, told := range s.eachLine() {
			ev, err := event.ParseLine(line)
			if err != nil || told != 0 && ev.ID != told {
				continue
			}
			if sum, ok := s.sums[ev.ID]; !s.whole && !(ok && sum == checksum(line)) {
				continue
			}
			found[ev.ID] = true
			if b.r.Drop(&ev) {
				continue
			}
			if was, twice := b.sound[ev.ID]; !twice {
				b.sound[ev.ID] = ev
			} else if err := b.lose(&was, &ev); err != nil {
				return err
			}
		}
		for i := range s.entries {
			if e := &s.entries[i]; !e.dead && !found[e.id] {
				b.lost = append(b.lost, Place{e.storage, e.id})
			}
		}
		if s.entries == nil {
			for id, place := range s.posted {
				if !found[id] {
					b.lost = append(b.lost, place)
				}
			}
			b.loseUnknown(s)
		}
	}
	for i := range b.r.Add {
		ev := &b.r.Add[i]
		if was, twice := b.sound[ev.ID]; twice {
			if err := b.lose(ev, &was); err != nil {
				return err
			}
		}
		b.sound[ev.ID] = *ev
	}
	slices.SortFunc(b.lost, func(a, b Place) int { return cmp.Or(cmp.Compare(a.ID, b.ID), cmp.Compare(a.Storage, b.Storage)) })
	b.lost = slices.Compact(b.lost)
	return nil
}

// lose notes that an event gives way to another one with its id, unless it is the same.
func (b *rebuilder) lose(kept, gone *event.Event) error {
	if kept.Storage() == gone.Storage() && kept.Hash == gone.Hash {
		return nil
	}
	storage, err := b.r.Number(gone)
	if err == nil {
		b.lost = append(b.lost, Place{storage, gone.ID})
	}
	return err
}

// loseUnknown notes that blocks of s, whose index is damaged, may have lost events that a
// damaged posting has named.
func (b *rebuilder) loseUnknown(s *suspect) {
	if s.first == 0 {
		return
	}
	for _, key := range b.broken { // the bounds of s may be damaged, and any number of blocks apart
		if s.first.Block() <= key.block && key.block <= s.last.Block() {
			b.lost = append(b.lost, Place{0, window.BlockSpan(key.block).To})
		}
	}
}

// eachLine yields the lines of s, each with the id that it must have, or 0.
func (s *suspect) eachLine() func(yield func([]byte, event.ID) bool) {
	return func(yield func([]byte, event.ID) bool) {
		for i := range s.entries {
			e := &s.entries[i]
			if !e.dead && !yield(bytes.Clone(s.lines[e.offset:e.end()]), e.id) {
				return
			}
		}
		if s.entries != nil {
			return
		}
		for line := range bytes.SplitSeq(s.lines, newline) {
			if !yield(bytes.Clone(bytes.Trim(line, " ")), 0) {
				return
			}
		}
	}
}

// replace replaces the suspects with pages of the sound events.
func (b *rebuilder) replace() error {
	for _, key := range sortedKeys(b.suspects) {
		if err := b.deletePage(b.tx, key); err != nil {
			return err
		}
	}
	for _, key := range b.broken {
		if err := b.restorePosting(key); err != nil {
			return err
		}
	}
	evs := make([]incoming, 0, len(b.sound))
	for _, ev := range b.sound {
		storage, err := b.r.Number(&ev)
		if err != nil {
			return err
		}
		evs = append(evs, incoming{ev.ID, storage, ev.Line()})
	}
	slices.SortFunc(evs, func(a, b incoming) int { return cmp.Compare(a.id, b.id) })
	b.open = nil
	places, err := b.fillPages(evs)
	b.open = nil // what comes next does not belong to these events
	if err != nil {
		return err
	}
	for i := range evs {
		p, err := b.posting(evs[i].key())
		if err != nil {
			return err
		}
		p.added = append(p.added, placedEvent{evs[i].storage, places[i]})
	}
	return b.writePostings()
}

// restorePosting finds what a damaged posting has to name outside of the suspects. If there is
// other damage in its block, nothing tells what else it has named, and it stays damaged until that
// is rebuilt, too.
func (b *rebuilder) restorePosting(key octetKey) error {
	p, span := b.postings[key], window.BlockSpan(key.block)
	q := Query{Span: span, Want: func(storage int64) bool { return octetOf(storage) == key.octet },
		Skip: func(*DamageError) error { p.broken = true; return nil }}
	return Scan(b.ctx, b.tx, q, func(l Line) error {
		p.added = append(p.added, placedEvent{l.Storage, l.Posted()})
		return nil
	})
}
