package cache

import (
	"context"
	"database/sql"
	"slices"

	"github.com/rstream-dev/rstream/event"
)

// maxNarrower bounds how many narrower topics a request names. What is held of
// further ones is fetched again: a request of a thousand names would cost more.
const maxNarrower = 32

// Narrower returns the topics, each a part of topic, that are held from position at
// on, and the position up to which exactly these are, at most until. A window of
// topic that begins at at can leave them out of what it asks for.
func (db *DB) Narrower(ctx context.Context, topic event.Topic, at, until event.ID) (parts []event.Topic, end event.ID, err error) {
	err = db.view(ctx, func(tx *sql.Tx) error {
		windows, err := loadWindows(tx)
		if err != nil {
			return err
		}
		parts, end = narrower(windows, topic, at, until)
		return nil
	})
	return parts, end, err
}

func narrower(windows []row, topic event.Topic, at, until event.ID) (parts []event.Topic, end event.ID) {
	end = until
	seen := map[event.Topic]event.ID{}
	for i := range windows {
		w := &windows[i]
		held := w.Held()
		if w.Topic == topic || !topic.Contains(w.Topic) || held.Empty() || held.To <= at {
			continue
		}
		if held.From > at {
			end = min(end, held.From)
			continue
		}
		seen[w.Topic] = max(seen[w.Topic], held.To)
	}
	for t := range seen {
		covered := slices.ContainsFunc(parts, func(p event.Topic) bool { return p.Contains(t) })
		if !covered && len(parts) < maxNarrower {
			parts = append(slices.DeleteFunc(parts, t.Contains), t)
		}
	}
	for _, t := range parts {
		end = min(end, seen[t])
	}
	return parts, end
}
