package cache

import (
	"context"
	"database/sql"

	"github.com/rstream-dev/rstream/cache/internal/pages"
	"github.com/rstream-dev/rstream/cache/internal/rows"
	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/window"
)

// leafBuilders make the leaves of the blocks that a lease fills, from the events that the
// lease stores, so that they need not be read again for a comparison. The transaction
// that ends a block keeps its leaves, but only if a topic's stored events there are
// exactly those that the lease has stored.
type leafBuilders struct {
	builders []*leafBuilder           // one for each topic
	matching map[int64][]*leafBuilder // by storage
	kept     int                      // how many leaves the lease has kept
	ended    []topicLeaf              // of the open transaction, to be kept
	own      map[uint64]int           // how many events the lease has stored in the last blocks

	counted uint64               // the block of counts, in the open transaction
	counts  map[*leafBuilder]int // of its stored events; nil if unknown
	rows    map[uint64]int       // events of blocks, as the rows of pages say
}

// maxMatching and maxOwn bound what leafBuilders remember between two transactions.
const (
	maxMatching = 1 << 16
	maxOwn      = 1 << 10
)

// newLeafBuilders returns the leafBuilders of a lease that begins at position from, nil if
// the lease makes no leaves.
func newLeafBuilders(topics []event.Topic, from event.ID) *leafBuilders {
	m := &leafBuilders{matching: map[int64][]*leafBuilder{}, own: map[uint64]int{}}
	for _, t := range topics {
		if len(t.String()) > maxLeafTopic {
			return nil
		}
		m.builders = append(m.builders, &leafBuilder{topic: t, from: from, removals: -1})
	}
	if len(topics) == 0 {
		return nil
	}
	return m
}

// startAllOver forgets the events stored up to a position.
func (m *leafBuilders) startAllOver(at event.ID, removals int64) {
	clear(m.own)
	clear(m.matching) // after a rollback, a storage may get another number
	for _, b := range m.builders {
		b.startOver(at, removals)
	}
}

// addStored adds the events that a transaction has stored up to position reached, and keeps
// the leaves of the blocks that end there. storages are the events' storages, and now is
// the file's count of removals. If any of the events was held before, it could have been
// stored wrongly, so its block gets no leaf.
func (m *leafBuilders) addStored(db *DB, tx *sql.Tx, evs []event.Event, storages []int64, held bool, reached event.ID, now int64) error {
	m.ended = m.ended[:0]
	if err := m.endBlocks(tx, evs, storages, held, reached, now); err != nil {
		return err
	}
	m.kept += len(m.ended)
	return db.insertLeaves(tx, m.ended)
}

// endBlocks is addStored, except that it only collects the leaves.
func (m *leafBuilders) endBlocks(tx *sql.Tx, evs []event.Event, storages []int64, held bool, reached event.ID, now int64) error {
	m.counts, m.rows = nil, nil
	for _, b := range m.builders {
		b.posted = nil
	}
	if len(m.matching) > maxMatching {
		clear(m.matching)
	}
	if known := m.builders[0].removals; held || now != known && known >= 0 {
		m.startAllOver(reached, now)
		return nil
	}
	for _, b := range m.builders {
		b.removals = now
	}
	if len(m.own) > maxOwn {
		clear(m.own)
	}
	for i := range evs {
		ev := &evs[i]
		m.own[ev.ID.Block()]++
		builders := m.match(storages[i], event.Storage{User: ev.User, Path: ev.Path})
		if len(builders) == 0 {
			m.startAllOver(reached, now)
			return nil
		}
		for _, b := range builders {
			if ev.ID.Block() != b.block {
				if err := m.endBlock(tx, b, reached); err != nil {
					return err
				}
				b.block = ev.ID.Block()
			}
			b.open.Add(ev.ID, ev.Time, ev.Hash)
			b.count++
		}
	}
	for _, b := range m.builders {
		if reached >= window.BlockSpan(b.block).To {
			if err := m.endBlock(tx, b, reached); err != nil {
				return err
			}
		}
	}
	return nil
}

// match returns the builders of the topics that contain a storage.
func (m *leafBuilders) match(number int64, s event.Storage) []*leafBuilder {
	builders, ok := m.matching[number]
	if !ok {
		for _, b := range m.builders {
			if b.topic.Matches(s.User, s.Path) {
				builders = append(builders, b)
			}
		}
		m.matching[number] = builders
	}
	return builders
}

// endBlock collects the leaf of the block of b, if it was filled from its beginning. The
// transaction stores events up to position reached.
func (m *leafBuilders) endBlock(tx *sql.Tx, b *leafBuilder, reached event.ID) error {
	span, count, leaves := window.BlockSpan(b.block), b.count, b.open.Leaves()
	b.count = 0
	if count == 0 || b.from > span.From {
		return nil
	}
	whole, err := m.isWhole(tx, b, count, reached)
	if err != nil || !whole {
		return err
	}
	m.ended = append(m.ended, topicLeaf{b.topic, leaves[0]})
	return nil
}

const (
	// maxCountedTopics is how many topics' events in blocks are counted by the postings of
	// their storages, and maxCounted how many storages of a topic. For more, the indexes of
	// a block's pages are read, once for all topics.
	maxCountedTopics = 4
	maxCounted       = 100
)

// isWhole reports whether the block of b has exactly count stored events of its topic.
func (m *leafBuilders) isWhole(tx *sql.Tx, b *leafBuilder, count int, reached event.ID) (bool, error) {
	if len(m.builders) <= maxCountedTopics {
		if err := b.countPosted(tx, reached); err != nil {
			return false, err
		}
		if b.few {
			return b.posted[b.block] == count, nil
		}
	}
	if all, err := m.hasOnlyOwn(tx, b.block); err != nil || all {
		return all, err
	}
	if m.counts == nil || m.counted != b.block {
		if err := m.countBlock(tx, b.block); err != nil {
			return false, err
		}
	}
	return m.counts[b] == count, nil
}

// hasOnlyOwn reports whether a block certainly has no other events than the lease has stored:
// then the events of each topic are those that its builder has. It does not read the indexes
// of its pages, so it may miss that.
func (m *leafBuilders) hasOnlyOwn(tx *sql.Tx, block uint64) (bool, error) {
	n, known := m.rows[block]
	if !known {
		var err error
		if n, err = pages.CountRows(context.Background(), tx, window.BlockSpan(block)); err != nil {
			return false, err
		}
		if m.rows == nil {
			m.rows = map[uint64]int{}
		}
		m.rows[block] = n
	}
	return n > 0 && n == m.own[block], nil
}

// countBlock counts the stored events of each topic in a block.
func (m *leafBuilders) countBlock(tx *sql.Tx, block uint64) error {
	ctx := context.Background() // it runs only briefly
	counts, err := pages.CountEvents(ctx, tx, window.BlockSpan(block))
	if err != nil {
		return err
	}
	var unknown []int64
	for storage := range counts {
		if _, ok := m.matching[storage]; !ok {
			unknown = append(unknown, storage)
		}
	}
	err = rows.NamesOf(ctx, tx, unknown, func(number int64, s event.Storage) { m.match(number, s) })
	if err != nil {
		return err
	}
	m.counted, m.counts = block, map[*leafBuilder]int{}
	for storage, n := range counts {
		for _, b := range m.matching[storage] {
			m.counts[b] += n
		}
	}
	return nil
}

// A leafBuilder makes the leaves of one topic.
type leafBuilder struct {
	topic    event.Topic
	from     event.ID // everything stored since comes from the lease
	removals int64    // of the file at that time; negative if unknown
	block    uint64   // of the last event
	open     window.Leafer
	count    int // of its events

	// Of the open transaction.
	posted map[uint64]int // how many events blocks have by their postings; nil if unknown
	few    bool           // the topic has few storages; if not, posted is empty
}

func (b *leafBuilder) startOver(at event.ID, removals int64) {
	*b = leafBuilder{topic: b.topic, from: at, removals: removals}
}

// countPosted counts the events of the topic in the block of b and those after it, once in
// a transaction, which ends blocks up to position reached.
func (b *leafBuilder) countPosted(tx *sql.Tx, reached event.ID) (err error) {
	if b.posted != nil {
		return nil
	}
	ctx := context.Background() // it runs only briefly
	var numbers []int64
	if numbers, b.few, err = rows.FindNumbers(ctx, tx, []event.Topic{b.topic}, maxCounted); err != nil {
		return err
	}
	b.posted = map[uint64]int{}
	if b.few {
		b.posted, err = pages.CountPosted(ctx, tx, numbers, b.block, reached.Block())
	}
	return err
}
