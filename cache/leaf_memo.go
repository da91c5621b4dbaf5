package cache

import (
	"bytes"
	"context"
	"database/sql"
	"slices"
	"sync"

	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/window"
)

// Bounds of a leafMemo. They are variables for the tests.
var (
	maxUnsaved = 1 << 10 // blocks whose leaves are not in the file yet
	maxMemo    = 1 << 15 // blocks
	maxOpen    = 1 << 8  // blocks that pages have begun
)

// A leafMemo has leaves of whole blocks of a log, which never change again. Those that are
// not in the file yet are written many at a time: each transaction makes the connections
// that read forget all pages that they have in memory. If the process is killed, some
// leaves are made again.
type leafMemo struct {
	mu      sync.Mutex
	topics  map[event.Topic]*topicLeaves
	open    map[openBlock]*window.Leafer
	blocks  int // in topics
	unsaved int // of them
}

// topicLeaves are the leaves of a topic in some blocks.
type topicLeaves struct {
	known   window.Spans
	unsaved window.Spans // of known
	leaves  map[uint64]window.Leaf
}

// An openBlock is a block of which pages have had the events up to a position.
type openBlock struct {
	topic event.Topic
	at    event.ID
}

// blocksOf returns how many blocks are in a span of whole blocks.
func blocksOf(span window.Span) int { return int((span.To - span.From) / event.BlockSize) }

// addTo adds the leaves of topic in span to leaves.
func (m *leafMemo) addTo(leaves map[uint64]window.Leaf, topic event.Topic, span window.Span) {
	m.mu.Lock()
	defer m.mu.Unlock()
	t := m.topics[topic]
	if t == nil {
		return
	}
	for _, known := range t.known.Intersect(window.Spans{span}) {
		for at := known.From; at < known.To; {
			part := blockPart(at, known.To)
			leaf, ok := t.leaves[part.To.Block()]
			if !ok {
				leaf.Block = part.To.Block() // it is empty
			}
			leaves[leaf.Block] = leaf
			at = part.To
		}
	}
}

// knows reports whether the memo has the leaves of topic in span.
func (m *leafMemo) knows(topic event.Topic, span window.Span) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	t := m.topics[topic]
	return t != nil && t.known.Contains(span)
}

// add adds the leaves of topic in a span of whole blocks, those of empty blocks being left
// out.
func (m *leafMemo) add(topic event.Topic, span window.Span, leaves []window.Leaf) {
	if span.Empty() || len(topic.String()) > maxLeafTopic {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.blocks > maxMemo {
		m.topics, m.blocks, m.unsaved = nil, 0, 0
	}
	if m.topics == nil {
		m.topics = map[event.Topic]*topicLeaves{}
	}
	t := m.topics[topic]
	if t == nil {
		t = &topicLeaves{leaves: map[uint64]window.Leaf{}}
		m.topics[topic] = t
	}
	for _, fresh := range t.known.Gaps(span) {
		t.known, t.unsaved = t.known.Add(fresh), t.unsaved.Add(fresh)
		m.blocks, m.unsaved = m.blocks+blocksOf(fresh), m.unsaved+blocksOf(fresh)
	}
	for _, leaf := range leaves {
		t.leaves[leaf.Block] = leaf
	}
}

// takeUnsaved returns the leaves that are to be written, if they are many or all is set. From
// then on they count as written.
func (m *leafMemo) takeUnsaved(all bool) map[event.Topic][]window.Leaf {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.unsaved < maxUnsaved && !all || m.unsaved == 0 {
		return nil
	}
	unsaved := map[event.Topic][]window.Leaf{}
	for topic, t := range m.topics {
		for _, span := range t.unsaved {
			for at := span.From; at < span.To; at += event.BlockSize {
				block := (at + 1).Block()
				leaf := t.leaves[block]
				leaf.Block = block
				unsaved[topic] = append(unsaved[topic], leaf)
			}
		}
		t.unsaved = nil
	}
	m.unsaved = 0
	return unsaved
}

// takeOpen returns the Leafer of the events that pages of topic have had of the block of at,
// which end there; nil if nobody knows them.
func (m *leafMemo) takeOpen(topic event.Topic, at event.ID) *window.Leafer {
	m.mu.Lock()
	defer m.mu.Unlock()
	key := openBlock{topic, at}
	l := m.open[key]
	delete(m.open, key)
	return l
}

func (m *leafMemo) putOpen(topic event.Topic, at event.ID, l *window.Leafer) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.open == nil || len(m.open) >= maxOpen {
		m.open = map[openBlock]*window.Leafer{}
	}
	m.open[openBlock{topic, at}] = l
}

// openLeaf returns the leaf of topic in part of a block, if pages have had exactly the events of
// that part.
func (m *leafMemo) openLeaf(topic event.Topic, part window.Span) (leaf window.Leaf, ok bool) {
	if part.From != window.BlockSpan(part.To.Block()).From {
		return leaf, false
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	l := m.open[openBlock{topic, part.To}]
	if l == nil {
		return leaf, false
	}
	return l.Last(), true
}

// LearnLeaves makes the leaves of the blocks that a response has filled, so that the digest
// which its reader asks for next needs no second reading. lines are all events of topics in
// span, as AppendLines has returned them.
func (db *DB) LearnLeaves(topics []event.Topic, span window.Span, lines []byte) {
	if db.file.Role != Server {
		return
	}
	learners := db.newLearners(topics, span)
	if len(learners) == 0 {
		return
	}
	matching := map[string][]*leafLearner{} // by storage
	var name []byte
	for len(lines) > 0 {
		var line []byte
		line, lines, _ = bytes.Cut(lines, []byte("\n"))
		s, t, h, err := event.SkimHash(line)
		if err != nil {
			return // who needs the leaves reads the events, and returns the error
		}
		fed := learners
		if len(topics) > 1 {
			name = append(append(append(name[:0], s.User...), '/'), s.Path...)
			known := false
			if fed, known = matching[string(name)]; !known {
				fed = matchLearners(learners, string(s.User), string(s.Path))
				matching[string(name)] = fed
			}
		}
		for _, l := range fed {
			l.addEvent(s.ID, t, h)
		}
	}
	for _, l := range learners {
		l.endLearning(&db.leafMemo, span.To)
	}
}

// newLearners returns learners for the topics whose leaves in span are not known.
func (db *DB) newLearners(topics []event.Topic, span window.Span) (learners []*leafLearner) {
	for _, topic := range topics {
		l := &leafLearner{topic: topic, from: window.BlockSpan((span.From + 1).Block()).From}
		if span.From > l.from {
			if l.leafer = db.leafMemo.takeOpen(topic, span.From); l.leafer == nil {
				l.from += event.BlockSize
			}
		}
		if l.leafer == nil {
			l.leafer = &window.Leafer{}
		}
		switch whole := l.wholeUpTo(span.To); {
		case whole.From > whole.To, blocksOf(whole) > maxMemo, !whole.Empty() && db.leafMemo.knows(topic, whole):
			continue
		}
		learners = append(learners, l)
	}
	return learners
}

// A leafLearner makes the leaves of a topic from a response.
type leafLearner struct {
	topic  event.Topic
	from   event.ID // where its first whole block begins
	leafer *window.Leafer
}

// wholeUpTo returns the span of the whole blocks that end at or before a position. It ends
// before it begins if not even the first block begins there.
func (l *leafLearner) wholeUpTo(at event.ID) window.Span {
	return window.Span{From: l.from, To: at / event.BlockSize * event.BlockSize}
}

func matchLearners(learners []*leafLearner, user, path string) (some []*leafLearner) {
	for _, l := range learners {
		if l.topic.Matches(user, path) {
			some = append(some, l)
		}
	}
	return some
}

func (l *leafLearner) addEvent(id event.ID, t event.Time, h event.Hash) {
	if id > l.from {
		l.leafer.Add(id, t, h)
	}
}

// endLearning puts the leaves of the blocks that end at or before a position into m. The
// part that was read of the next block stays open.
func (l *leafLearner) endLearning(m *leafMemo, at event.ID) {
	whole := l.wholeUpTo(at)
	ended, open := l.leafer.Split(whole.To)
	m.add(l.topic, whole, ended)
	if at > whole.To {
		m.putOpen(l.topic, at, open)
	}
}

// saveLeaves writes leaves of the memo that are not in the file yet, if they are many or all
// is set, but for those that the horizon has passed, which nobody needs. If it cannot, that is
// no error: the file may be full.
func (db *DB) saveLeaves(ctx context.Context, all bool) error {
	unsaved := db.leafMemo.takeUnsaved(all)
	if len(unsaved) == 0 {
		return nil
	}
	return keepingError(ctx, db.file.Update(ctx, func(tx *sql.Tx) error {
		horizon, err := db.tables.HorizonIn(tx)
		if err != nil {
			return err
		}
		for topic, leaves := range unsaved {
			leaves = slices.DeleteFunc(leaves, func(l window.Leaf) bool { return isBelow(l.Block, horizon) })
			if err := db.insertLeaves(tx, leavesOf(topic, leaves)); err != nil {
				return err
			}
		}
		return boundLeaves(tx)
	}))
}
