package cache

import (
	"cmp"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"math"
	"slices"

	"github.com/rstream-dev/rstream/cache/internal/dbfile"
	"github.com/rstream-dev/rstream/cache/internal/pages"
	"github.com/rstream-dev/rstream/cache/internal/rows"
	"github.com/rstream-dev/rstream/cache/internal/snapshot"
	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/window"
)

// CheckedLeaves returns the leaves of topic in span, computed by reading every event and
// hashing its contents. An event that is damaged, or that Read would not find, changes
// the leaf of its block; it never causes an error.
func (db *DB) CheckedLeaves(ctx context.Context, topic event.Topic, span window.Span) (leaves []window.Leaf, err error) {
	for at := span.From; at < span.To; {
		part := window.Span{From: at, To: chunkEnd(at, span.To)}
		err := db.file.View(ctx, func(tx *sql.Tx) error {
			some, err := checkedLeaves(ctx, tx, topic, part)
			leaves = append(leaves, some...)
			if at = part.To; err == nil && len(some) == 0 {
				at, err = db.skipEmpty(ctx, tx, []event.Topic{topic}, part.To, span.To)
			}
			return err
		})
		if err != nil {
			return nil, fmt.Errorf("check %s %s: %w", topic, span, err)
		}
	}
	return leaves, nil
}

func checkedLeaves(ctx context.Context, tx *sql.Tx, topic event.Topic, span window.Span) ([]window.Leaf, error) {
	c := leafChecker{topic: topic, names: rows.NewNames(ctx, tx)}
	if err := c.readPosted(ctx, tx, span); err != nil {
		return nil, err
	}
	q := pages.Query{Span: span, Skip: c.passDamage}
	if err := pages.Scan(ctx, tx, q, c.checkStoredLine); err != nil {
		return nil, err
	}
	c.addUnfound(event.MaxID)
	return c.Leaves(), nil
}

// A leafChecker makes the leaves of a topic. A damaged event changes its leaf.
type leafChecker struct {
	window.Leafer
	topic   event.Topic
	names   *rows.Names
	indexed event.ID       // events up to here should have postings
	posted  []postedRecord // what postings name and was not found yet
}

// A postedRecord is an event that the posting of a storage names.
type postedRecord struct {
	pages.Posted
	storage int64 // 0: a posting is damaged there
}

func (c *leafChecker) readPosted(ctx context.Context, tx *sql.Tx, span window.Span) error {
	if err := dbfile.ScanLog(ctx, tx, `indexed`, &c.indexed); err != nil {
		return err
	}
	numbers, _, err := rows.FindNumbers(ctx, tx, []event.Topic{c.topic}, math.MaxInt32)
	if err != nil {
		return err
	}
	skip := func(damage *pages.DamageError) error {
		first := max(span.From, window.BlockSpan(damage.Block).From) + 1
		c.posted = append(c.posted, postedRecord{Posted: pages.Posted{ID: first}})
		return nil
	}
	err = pages.EachPosting(ctx, tx, numbers, span, skip, func(key pages.PostingKey, evs []pages.Posted) error {
		for i := range evs {
			c.posted = append(c.posted, postedRecord{evs[i], key.Storage})
		}
		return nil
	})
	slices.SortFunc(c.posted, func(a, b postedRecord) int { return cmp.Compare(a.ID, b.ID) })
	return err
}

// addWrong adds what no sound event has: the zero hash.
func (c *leafChecker) addWrong(id event.ID) { c.Add(id, 0, event.Hash{}) }

// passDamage goes past a damaged page, since postings name its events. An event that is
// stored twice is wrong.
func (c *leafChecker) passDamage(damage *pages.DamageError) error {
	if damage.Twin {
		c.addWrong(damage.ID)
	}
	return nil
}

// addUnfound adds the events before id that postings name and no sound page has.
func (c *leafChecker) addUnfound(id event.ID) {
	for ; len(c.posted) > 0 && c.posted[0].ID < id; c.posted = c.posted[1:] {
		c.addWrong(c.posted[0].ID)
	}
}

func (c *leafChecker) checkStoredLine(l pages.Line) error {
	c.addUnfound(l.ID)
	found, at := l.ID > c.indexed, l.Posted()
	for ; len(c.posted) > 0 && c.posted[0].ID == l.ID; c.posted = c.posted[1:] {
		if p := &c.posted[0]; p.storage == l.Storage && p.Posted == at {
			found = true
		} else {
			c.addWrong(l.ID)
		}
	}
	name, ok, err := c.names.Of(l.Storage)
	if err != nil || !ok || !c.topic.Matches(name.User, name.Path) {
		return err
	}
	ev, err := event.ParseLine(l.Text)
	if err != nil || ev.ID != l.ID || ev.Storage() != name || !found {
		c.addWrong(l.ID)
		return nil
	}
	c.Add(l.ID, ev.Time, ev.Hash)
	return nil
}

// Replace replaces the stored events of topic in span with evs, which must be all that
// the log has there. It changes nothing outside of span or of other topics.
func (db *DB) Replace(ctx context.Context, topic event.Topic, span window.Span, evs []event.Event) error {
	err := db.checkAgain(topic, span, evs)
	if err != nil {
		return fmt.Errorf("replace %s %s: %w", topic, span, err)
	}
	err = db.file.Update(ctx, func(tx *sql.Tx) error {
		replaced := func(user, path string, id event.ID) bool {
			return topic.Matches(user, path) && span.Contains(spanOf(id))
		}
		lost, err := db.tables.Pages.Rebuild(ctx, tx, pages.Rebuilding{
			Span:   span,
			Drop:   func(ev *event.Event) bool { return replaced(ev.User, ev.Path, ev.ID) },
			Number: func(ev *event.Event) (int64, error) { return db.tables.StorageID(tx, ev.User, ev.Path) },
			Add:    evs,
		})
		if err != nil {
			return err
		}
		if err := db.doubtLost(ctx, tx, lost, replaced); err != nil {
			return err
		}
		if err := dropImported(tx, evs); err != nil {
			return err
		}
		return errors.Join(dropLeaves(tx, topic, span), snapshot.Drop(tx, topic, span), rows.NoteRemoval(tx))
	})
	if err != nil {
		return fmt.Errorf("replace %s %s: %w", topic, span, err)
	}
	return nil
}

// checkAgain returns an error unless db is a copy and evs are events of topic in span,
// sorted.
func (db *DB) checkAgain(topic event.Topic, span window.Span, evs []event.Event) error {
	if db.file.Role != Client {
		return db.file.Role.Wrong()
	}
	at := span.From
	for i := range evs {
		ev := &evs[i]
		if ev.ID <= at || ev.ID > span.To || !topic.Matches(ev.User, ev.Path) {
			return fmt.Errorf("event %s does not belong there", ev.ID)
		}
		at = ev.ID
	}
	return nil
}

// doubtLost puts in doubt the blocks of events that were held and cannot be read any more,
// unless accounted reports that a lost event does not matter.
func (db *DB) doubtLost(ctx context.Context, tx *sql.Tx, lost []pages.Place, accounted func(user, path string, id event.ID) bool) error {
	names := rows.NewNames(ctx, tx)
	for _, place := range lost {
		name, known, err := names.Of(place.Storage)
		if err != nil {
			return err
		}
		if known && accounted(name.User, name.Path, place.ID) {
			continue
		}
		windows, err := rows.LoadWindows(tx)
		if err != nil {
			return err
		}
		block := window.BlockSpan(place.ID.Block())
		for i := range windows {
			w := &windows[i]
			if w.Held().Intersect(block).Empty() || known && !(w.Topic.Matches(name.User, name.Path) && w.Held().Contains(spanOf(place.ID))) {
				continue
			}
			if err := db.doubtHeld(tx, w.Topic, block); err != nil {
				return err
			}
		}
	}
	return nil
}

// Check has SQLite check the structure of the whole file.
func (db *DB) Check(ctx context.Context) error {
	db.file.Report(Progress{Step: StepStructure})
	if err := db.file.QuickCheck(ctx); err != nil {
		return fmt.Errorf("check %s: %w", db.file.Path, err)
	}
	return nil
}
