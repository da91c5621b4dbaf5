package cache

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strings"

	"github.com/rstream-dev/rstream/cache/internal/rows"
	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/window"
)

// maxLeaves bounds the table of kept leaves; the oldest are dropped first. It is a
// variable for the tests.
var maxLeaves = 1 << 18

// maxLeafTopic is the longest topic name whose leaves are kept, so that maxLeaves bounds
// the bytes, too.
const maxLeafTopic = 256

// leafBlocks is how many blocks one reading transaction of Leaves looks at.
const leafBlocks = 64

// Leaves returns the leaves of topic in span, from which its digest is computed. They
// cover the stored events, held or not; a log has no leaves below its horizon. Leaves of
// whole blocks that cannot change any more are kept when they are first requested, or
// when a lease has filled them.
func (db *DB) Leaves(ctx context.Context, topic event.Topic, span window.Span) ([]window.Leaf, error) {
	return db.leaves(ctx, topic, span, false)
}

func (db *DB) leaves(ctx context.Context, topic event.Topic, span window.Span, imported bool) ([]window.Leaf, error) {
	var leaves []window.Leaf
	for at := span.From; at < span.To; {
		c := leafChunk{db: db, topic: topic, span: window.Span{From: at, To: chunkEnd(at, span.To)}, imported: imported}
		var next event.ID
		err := db.file.View(ctx, func(tx *sql.Tx) (err error) {
			if err = c.readLeaves(ctx, tx); err == nil {
				next, err = c.nextChunk(ctx, tx, span.To)
			}
			return err
		})
		if err == nil {
			err = c.keepLeaves(ctx)
		}
		if err != nil {
			return nil, fmt.Errorf("digest of %s %s: %w", topic, span, err)
		}
		leaves, at = append(leaves, c.leaves...), next
	}
	if err := db.saveLeaves(ctx, false); err != nil {
		return nil, fmt.Errorf("digest of %s %s: %w", topic, span, err)
	}
	return leaves, nil
}

// UnionLeaves returns the leaves of the stored events that belong to at least one of several
// topics. Unlike those of one topic they are not kept: they are made with each call.
func (db *DB) UnionLeaves(ctx context.Context, topics []event.Topic, span window.Span) ([]window.Leaf, error) {
	var leaves []window.Leaf
	for at := span.From; at < span.To; {
		part := window.Span{From: at, To: chunkEnd(at, span.To)}
		var l window.Leafer
		var next event.ID
		err := db.file.View(ctx, func(tx *sql.Tx) error {
			l = window.Leafer{} // or a second attempt would add to the first
			windows, err := rows.LoadWindows(tx)
			if err != nil {
				return err
			}
			if err := db.checkBegin(windows, part); err != nil {
				return err
			}
			some := false
			err = eachStored(ctx, tx, topics, part, func(ev *event.Event) {
				some = true
				l.Add(ev.ID, ev.Time, ev.Hash)
			})
			if next = part.To; err == nil && !some {
				next, err = db.skipEmpty(ctx, tx, topics, part.To, span.To)
			}
			return err
		})
		if err != nil {
			return nil, fmt.Errorf("digest of %d topics in %s: %w", len(topics), span, err)
		}
		leaves, at = append(leaves, l.Leaves()...), next
	}
	return leaves, nil
}

// chunkEnd returns where the chunk after a position ends.
func chunkEnd(at, end event.ID) event.ID {
	return min(end, window.BlockSpan(uint64(at)/event.BlockSize+leafBlocks-1).To)
}

// A leafChunk makes the leaves of some neighboring blocks.
type leafChunk struct {
	db       *DB
	topic    event.Topic
	span     window.Span
	leaves   []window.Leaf
	fresh    []window.Leaf // whole and final ones to keep, including empty ones
	removals int64         // when the leaves were made
	imported bool          // candidates count as events
}

func (c *leafChunk) readLeaves(ctx context.Context, tx *sql.Tx) (err error) {
	c.leaves, c.fresh = nil, nil
	final, err := c.sealedSpans(tx)
	if err != nil {
		return err
	}
	if c.removals, err = rows.LoadRemovals(tx); err != nil {
		return err
	}
	kept, err := loadLeaves(tx, c.topic, c.span)
	if err != nil {
		return err
	}
	if c.db.file.Role == Server {
		c.db.leafMemo.addTo(kept, c.topic, c.span)
	}
	var mixed map[uint64]bool // blocks with candidates
	if c.imported {
		if mixed, err = candidateBlocks(ctx, tx, c.topic, c.span); err != nil {
			return err
		}
	}
	known := func(part window.Span) bool {
		_, ok := kept[part.To.Block()]
		return mixed[part.To.Block()] || ok && isSealed(part, final)
	}
	for at := c.span.From; at < c.span.To; {
		part := blockPart(at, c.span.To)
		block := part.To.Block()
		switch {
		case mixed[block]:
			leaf, err := mixedLeaf(ctx, tx, c.topic, part)
			if err != nil {
				return err
			}
			c.addLeaf(leaf)
		case known(part):
			c.addLeaf(kept[block])
		case c.addOpenLeaf(part, final):
		default:
			// Read neighboring blocks together: finding a topic's events costs more than
			// reading a few of them.
			for part.To < c.span.To && !known(blockPart(part.To, c.span.To)) {
				part.To = blockPart(part.To, c.span.To).To
			}
			if err := c.computeLeaves(ctx, tx, part, final); err != nil {
				return err
			}
		}
		at = part.To
	}
	return nil
}

// nextChunk returns where the next chunk begins, at or before end.
func (c *leafChunk) nextChunk(ctx context.Context, tx *sql.Tx, end event.ID) (event.ID, error) {
	switch {
	case len(c.leaves) > 0:
		return c.span.To, nil
	case c.imported:
		return c.db.skipUnimported(ctx, tx, c.topic, c.span.To, end)
	}
	return c.db.skipEmpty(ctx, tx, []event.Topic{c.topic}, c.span.To, end)
}

// addOpenLeaf adds the leaf of the part of a block up to the end of a page, if that is known.
// Like the events of a whole block, those cannot change.
func (c *leafChunk) addOpenLeaf(part window.Span, final window.Spans) bool {
	if c.db.file.Role != Server || !final.Contains(part) {
		return false
	}
	leaf, ok := c.db.leafMemo.openLeaf(c.topic, part)
	if ok {
		c.addLeaf(leaf)
	}
	return ok
}

// blockPart returns the part of (at, end] that lies in the block in which it begins.
func blockPart(at, end event.ID) window.Span {
	return window.Span{From: at, To: min(end, window.BlockSpan(uint64(at)/event.BlockSize).To)}
}

// isBelow reports whether a horizon has passed a block.
func isBelow(block uint64, horizon event.ID) bool { return block < uint64(horizon)/event.BlockSize }

// isSealed reports whether part is a whole block whose events cannot change any more.
func isSealed(part window.Span, final window.Spans) bool {
	return part == window.BlockSpan(part.To.Block()) && final.Contains(part)
}

// addLeaf adds the leaf of the next block, which has none if it has no event.
func (c *leafChunk) addLeaf(leaf window.Leaf) {
	if leaf.Count > 0 {
		c.leaves = append(c.leaves, leaf)
	}
}

// computeLeaves makes the leaves of the blocks of span from the stored events.
func (c *leafChunk) computeLeaves(ctx context.Context, tx *sql.Tx, span window.Span, final window.Spans) error {
	var l window.Leafer
	err := eachStored(ctx, tx, []event.Topic{c.topic}, span, func(ev *event.Event) { l.Add(ev.ID, ev.Time, ev.Hash) })
	if err != nil {
		return err
	}
	made := l.Leaves()
	for at := span.From; at < span.To; {
		part := blockPart(at, span.To)
		leaf := window.Leaf{Block: part.To.Block()}
		if len(made) > 0 && made[0].Block == leaf.Block {
			leaf, made = made[0], made[1:]
		}
		c.addLeaf(leaf)
		if isSealed(part, final) {
			c.fresh = append(c.fresh, leaf)
		}
		at = part.To
	}
	return nil
}

// sealedSpans returns the spans in which the topic's events cannot change any more: the held
// ones.
func (c *leafChunk) sealedSpans(tx *sql.Tx) (window.Spans, error) {
	windows, err := rows.LoadWindows(tx)
	if err != nil {
		return nil, err
	}
	return rows.WindowSet(windows).Held(c.topic), c.db.checkBegin(windows, c.span)
}

// checkBegin returns an error if a log no longer has all of a span.
func (db *DB) checkBegin(windows []rows.Window, span window.Span) error {
	if db.file.Role != Client && len(windows) > 0 && span.From < windows[0].From {
		return &window.NotHeldError{After: span.From, Oldest: windows[0].From, Some: true}
	}
	return nil
}

func loadLeaves(tx *sql.Tx, topic event.Topic, span window.Span) (map[uint64]window.Leaf, error) {
	rows, err := tx.Query(`SELECT block, count, sum FROM leaf WHERE topic = ? AND block BETWEEN ? AND ?`,
		topic.String(), uint64(span.From)/event.BlockSize, span.To.Block())
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	kept := map[uint64]window.Leaf{}
	for rows.Next() {
		var l window.Leaf
		var sum []byte
		if err := rows.Scan(&l.Block, &l.Count, &sum); err != nil {
			return nil, err
		}
		if copy(l.Sum[:], sum) != len(l.Sum) {
			return nil, fmt.Errorf("%w: leaf of block %d", ErrCorrupt, l.Block)
		}
		kept[l.Block] = l
	}
	return kept, rows.Err()
}

// makeLeaf makes the leaf of a span that lies in one block.
func makeLeaf(ctx context.Context, tx *sql.Tx, topic event.Topic, span window.Span) (window.Leaf, error) {
	var l window.Leafer
	err := eachStored(ctx, tx, []event.Topic{topic}, span, func(ev *event.Event) { l.Add(ev.ID, ev.Time, ev.Hash) })
	return oneLeaf(&l, span), err
}

// oneLeaf returns the leaf of a span that lies in one block.
func oneLeaf(l *window.Leafer, span window.Span) window.Leaf {
	if leaves := l.Leaves(); len(leaves) > 0 {
		return leaves[0]
	}
	return window.Leaf{Block: uint64(span.From) / event.BlockSize}
}

// eachStored calls fn with the stored events of topics in span, in order.
func eachStored(ctx context.Context, tx *sql.Tx, topics []event.Topic, span window.Span, fn func(*event.Event)) error {
	r := reader{ctx: ctx, tx: tx, filter: &storageFilter{topics: topics}, limit: maxReadEvents}
	for at := span.From; at < span.To; {
		next, err := r.readForward(at, span.To)
		if err != nil {
			return err
		}
		for i := range r.events {
			fn(&r.events[i])
		}
		r.reset()
		at = next
	}
	return nil
}

// keepLeaves keeps leaves for the next time, unless events were removed since they were made.
func (c *leafChunk) keepLeaves(ctx context.Context) error {
	if len(c.fresh) == 0 || len(c.topic.String()) > maxLeafTopic {
		return nil
	}
	if c.db.file.Role == Server {
		for i := range c.fresh {
			c.db.leafMemo.add(c.topic, window.BlockSpan(c.fresh[i].Block), c.fresh[i:i+1])
		}
		return nil
	}
	return keepingError(ctx, c.db.file.Update(ctx, func(tx *sql.Tx) error {
		if now, err := rows.LoadRemovals(tx); err != nil || now != c.removals {
			return err
		}
		if err := c.db.insertLeaves(tx, leavesOf(c.topic, c.fresh)); err != nil {
			return err
		}
		return boundLeaves(tx)
	}))
}

// keepingError returns the part of err that matters to a caller who needs the leaves, not that
// they are kept: the file may be full, or open only for reading.
func keepingError(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if errors.Is(err, ErrCorrupt) {
		return err
	}
	return nil
}

// A topicLeaf is the leaf of a topic in a block.
type topicLeaf struct {
	topic event.Topic
	window.Leaf
}

func leavesOf(topic event.Topic, leaves []window.Leaf) []topicLeaf {
	of := make([]topicLeaf, len(leaves))
	for i := range leaves {
		of[i] = topicLeaf{topic, leaves[i]}
	}
	return of
}

// leavesTogether is how many leaves one statement inserts. A copy of many topics with few events
// each has nearly as many leaves as events.
const leavesTogether = 16

var insertOneLeaf, insertManyLeaves = leafInsert(1), leafInsert(leavesTogether)

func leafInsert(n int) string {
	const row = `(?, ?, ?, ?, ?)`
	return `INSERT INTO leaf (topic, block, count, sum, used) VALUES ` + row + strings.Repeat(`, `+row, n-1) + ` ON CONFLICT DO NOTHING`
}

// insertLeaves keeps leaves that cannot change any more.
func (db *DB) insertLeaves(tx *sql.Tx, leaves []topicLeaf) error {
	used := int64(event.TimeOf(db.file.Now()))
	for len(leaves) > 0 {
		n, insert := 1, insertOneLeaf
		if len(leaves) >= leavesTogether {
			n, insert = leavesTogether, insertManyLeaves
		}
		args := make([]any, 0, 5*n)
		for i := range leaves[:n] {
			l := &leaves[i]
			args = append(args, l.topic.String(), int64(l.Block), int64(l.Count), l.Sum[:], used)
		}
		if _, err := db.file.Exec(tx, insert, args...); err != nil {
			return err
		}
		leaves = leaves[n:]
	}
	return nil
}

// boundLeaves drops the leaves in excess of maxLeaves.
func boundLeaves(tx *sql.Tx) error {
	_, err := tx.Exec(`DELETE FROM leaf WHERE used <= (SELECT used FROM leaf ORDER BY used DESC LIMIT 1 OFFSET ?)`, maxLeaves)
	return err
}
