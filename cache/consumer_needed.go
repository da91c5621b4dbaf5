package cache

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"

	"github.com/rstream-dev/rstream/cache/internal/dbfile"
	"github.com/rstream-dev/rstream/cache/internal/pages"
	"github.com/rstream-dev/rstream/cache/internal/rows"
	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/window"
)

// A NeededError means that events cannot be forgotten, since a consumer has not done them.
type NeededError struct {
	Cursor string
	From   event.ID // the first of them, or a position before it
	Unread bool     // the consumer has not read them
}

func (e *NeededError) Error() string {
	return fmt.Sprintf("cursor %s has not done the events from %s on", e.Cursor, e.From)
}

// checkNeeded returns a *NeededError if a consumer has not done an event of topic up to
// before: judging by topics and positions if it has read it, and otherwise only if the event
// would be removed.
func (db *DB) checkNeeded(ctx context.Context, tx *sql.Tx, topic event.Topic, before event.ID) error {
	if ok, err := hasConsumers(tx); err != nil || !ok {
		return err
	}
	consumers, err := loadConsumers(tx)
	if err != nil {
		return err
	}
	var windows []rows.Window
	for i := range consumers {
		c := &consumers[i]
		overlaps := func(t event.Topic) bool { return t.Overlaps(topic) }
		switch {
		case c.topics != nil && !slices.ContainsFunc(c.topics, overlaps):
			continue
		case c.damaged:
			return cursorError(c.name, ErrDamagedCursor)
		case 0 < c.oldest && c.oldest <= before:
			return &NeededError{Cursor: c.name, From: c.oldest}
		}
		if windows == nil {
			if windows, err = rows.LoadWindows(tx); err != nil {
				return err
			}
		}
		unread, err := c.hasUnread(ctx, tx, topic, before, windows)
		if err != nil {
			return err
		}
		if unread {
			return &NeededError{Cursor: c.name, From: c.position + 1, Unread: true}
		}
	}
	return nil
}

// A consumerRow is a cursor that is a consumer's.
type consumerRow struct {
	name     string
	topics   []event.Topic // nil if the row of the cursor is damaged
	position event.ID
	oldest   event.ID
	damaged  bool // one of its rows is
}

func loadConsumers(tx *sql.Tx) (consumers []consumerRow, err error) {
	found, err := tx.Query(`SELECT name, topics, position, oldest, ` + dbfile.CursorTable.Sound() + `, u.sum
		FROM cursor JOIN consumer1 u USING (name) ORDER BY name`)
	if err != nil {
		return nil, err
	}
	defer found.Close()
	for found.Next() {
		var c consumerRow
		var lines string
		var sound bool
		var sum int64
		if err := found.Scan(&c.name, &lines, &c.position, &c.oldest, &sound, &sum); err != nil {
			return nil, err
		}
		c.damaged = !sound || sum != dbfile.RowSum(c.name, int64(c.oldest))
		if sound {
			for _, name := range splitTopics(lines) {
				t, err := event.ParseTopic(name)
				if err != nil {
					return nil, cursorError(c.name, err)
				}
				c.topics = append(c.topics, t)
			}
		}
		consumers = append(consumers, c)
	}
	return consumers, found.Err()
}

// errUnread ends a search for unread events.
var errUnread = errors.New("there is an event")

// hasUnread reports whether Forget would remove events that the consumer has not read. If a
// posting is damaged, it may have some.
func (c *consumerRow) hasUnread(ctx context.Context, tx *sql.Tx, topic event.Topic, before event.ID, windows []rows.Window) (bool, error) {
	span := window.Span{From: c.position, To: before}
	for from, end := (event.Storage{}), span.Empty(); !end; {
		some, err := rows.StoragesFrom(ctx, tx, topic, from)
		if err != nil {
			return false, err
		}
		if end = len(some) < rows.StorageChunk; !end {
			from = some[len(some)-1].Next()
		}
		names := map[int64]event.Storage{}
		var numbers []int64
		for _, s := range some {
			if slices.ContainsFunc(c.topics, func(t event.Topic) bool { return t.Matches(s.User, s.Path) }) {
				names[s.ID] = s.Storage
				numbers = append(numbers, s.ID)
			}
		}
		skip := func(*pages.DamageError) error { return errUnread }
		err = pages.EachPosting(ctx, tx, numbers, span, skip, func(key pages.PostingKey, evs []pages.Posted) error {
			name, wanted := names[key.Storage]
			for i := range evs {
				if wanted && isHeldOnlyBy(windows, topic, name, evs[i].ID) {
					return errUnread
				}
			}
			return nil
		})
		if errors.Is(err, errUnread) {
			return true, nil
		}
		if err != nil {
			return false, err
		}
	}
	return false, nil
}

// isHeldOnlyBy reports whether an event is held, and only by windows of topic and its parts.
func isHeldOnlyBy(windows []rows.Window, topic event.Topic, s event.Storage, id event.ID) (held bool) {
	for i := range windows {
		w := &windows[i]
		if !w.Topic.Matches(s.User, s.Path) || !w.Held().Contains(spanOf(id)) {
			continue
		}
		if !topic.Contains(w.Topic) {
			return false
		}
		held = true
	}
	return held
}
