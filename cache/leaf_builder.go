package cache

import (
	"context"
	"database/sql"
	"maps"
	"slices"

	"github.com/rstream-dev/rstream/cache/internal/pages"
	"github.com/rstream-dev/rstream/cache/internal/rows"
	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/window"
)

// A leafBuilder makes the leaves of the blocks that a lease fills, from the events that the
// lease stores, so that they need not be read again for a comparison. The transaction
// that ends a block keeps its leaf, but only if the topic's stored events there are
// exactly those that the lease has stored.
type leafBuilder struct {
	topic    event.Topic
	from     event.ID // everything stored since comes from the lease
	removals int64    // of the file at that time; negative if unknown
	block    uint64   // of the last event
	open     window.Leafer
	count    int // of its events
	kept     int // how many leaves the lease has kept
}

// newLeafBuilder returns the leafBuilder of a lease that begins at position from, nil if the
// lease makes no leaves.
func newLeafBuilder(topics []event.Topic, from event.ID) *leafBuilder {
	if len(topics) != 1 || len(topics[0].String()) > maxLeafTopic {
		return nil
	}
	return &leafBuilder{topic: topics[0], from: from, removals: -1}
}

// startOver forgets the events stored up to a position.
func (m *leafBuilder) startOver(at event.ID, removals int64) {
	*m = leafBuilder{topic: m.topic, from: at, removals: removals, kept: m.kept}
}

// addStored adds the events that a transaction has stored up to position reached, and keeps the
// leaves of the blocks that end there. now is the file's count of removals. If any of the
// events was held before, it could have been stored wrongly, so its block gets no leaf.
func (m *leafBuilder) addStored(db *DB, tx *sql.Tx, evs []event.Event, held bool, reached event.ID, now int64) error {
	if held || now != m.removals && m.removals >= 0 {
		m.startOver(reached, now)
		return nil
	}
	m.removals = now
	for i := range evs {
		ev := &evs[i]
		if !m.topic.Matches(ev.User, ev.Path) {
			m.startOver(reached, now)
			return nil
		}
		if ev.ID.Block() != m.block {
			if err := m.keepEnded(db, tx); err != nil {
				return err
			}
			m.block = ev.ID.Block()
		}
		m.open.Add(ev.ID, ev.Time, ev.Hash)
		m.count++
	}
	if reached >= window.BlockSpan(m.block).To {
		return m.keepEnded(db, tx)
	}
	return nil
}

// keepEnded keeps the leaf of the block, if it was filled from its beginning.
func (m *leafBuilder) keepEnded(db *DB, tx *sql.Tx) error {
	span, count, leaves := window.BlockSpan(m.block), m.count, m.open.Leaves()
	m.count = 0
	if count == 0 || m.from > span.From {
		return nil
	}
	whole, err := m.isWhole(tx, span, count)
	if err != nil || !whole {
		return err
	}
	m.kept++
	return db.keepLeaf(tx, m.topic, &leaves[0])
}

// maxCounted is how many storages' postings of a block are counted. Reading the indexes of
// the block's pages is cheaper than counting more.
const maxCounted = 100

// isWhole reports whether a block has exactly count stored events of the topic.
func (m *leafBuilder) isWhole(tx *sql.Tx, span window.Span, count int) (bool, error) {
	ctx := context.Background() // it runs only briefly
	numbers, few, err := rows.FindNumbers(ctx, tx, []event.Topic{m.topic}, maxCounted)
	if err != nil {
		return false, err
	}
	if few {
		stored, err := pages.CountPosted(ctx, tx, numbers, m.block)
		return stored == count, err
	}
	stored, err := countMatching(ctx, tx, m.topic, span)
	return stored == count, err
}

// countMatching returns how many events topic has in a span, which must be short.
func countMatching(ctx context.Context, tx *sql.Tx, topic event.Topic, span window.Span) (n int, err error) {
	counts, err := pages.CountEvents(ctx, tx, span)
	if err != nil {
		return 0, err
	}
	if topic == event.All {
		for _, some := range counts {
			n += some
		}
		return n, nil
	}
	err = rows.NamesOf(ctx, tx, slices.Collect(maps.Keys(counts)), func(storage int64, s event.Storage) {
		if topic.Matches(s.User, s.Path) {
			n += counts[storage]
		}
	})
	return n, err
}
