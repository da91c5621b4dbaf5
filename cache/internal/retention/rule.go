package retention

import (
	"context"
	"database/sql"
	"fmt"
	"slices"
	"time"

	"github.com/rstream-dev/rstream/cache/internal/dbfile"
	"github.com/rstream-dev/rstream/event"
)

// A Rule is the maximum age of the values of a topic. If several match a storage, the one
// of the narrowest topic counts; see [event.NarrowestFirst].
type Rule struct {
	Topic event.Topic
	Age   time.Duration // if zero, any
}

// ttlRules are the TTLs of a log, narrowest first.
type ttlRules []Rule

func newRules(ttls []Rule) ttlRules {
	return slices.SortedFunc(slices.Values(ttls), func(a, b Rule) int { return event.NarrowestFirst(a.Topic, b.Topic) })
}

func (rs ttlRules) checkRules() error {
	for i := range rs {
		if rs[i].Age < 0 {
			return fmt.Errorf("retain values of %s for %s: want no negative number", rs[i].Topic, rs[i].Age)
		}
		if i > 0 && rs[i].Topic == rs[i-1].Topic {
			return fmt.Errorf("retain values of %s for %s and %s: want one age", rs[i].Topic, rs[i-1].Age, rs[i].Age)
		}
	}
	return nil
}

// indexOf returns the index of the rule for a storage, -1 if there is none.
func (rs ttlRules) indexOf(user, path string) int {
	return slices.IndexFunc(rs, func(r Rule) bool { return r.Topic.Matches(user, path) })
}

// ages returns the distinct ages of the rules.
func (rs ttlRules) ages() (ages []time.Duration) {
	for i := range rs {
		if rs[i].Age > 0 {
			ages = append(ages, rs[i].Age)
		}
	}
	slices.Sort(ages)
	return slices.Compact(ages)
}

// A ttlScan is how far retention has scanned for values of a topic: those set up to a
// position, and matched by its rule, were deleted or replaced. That stays true under
// other rules, so an age may change.
type ttlScan struct {
	topic    event.Topic
	position event.ID
}

// loadScans reads the scans of the previous rules, narrowest first.
func loadScans(tx *sql.Tx) (scans []ttlScan, err error) {
	rows, err := tx.Query(`SELECT topic, position FROM expired`)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		var s ttlScan
		var topic string
		if err := rows.Scan(&topic, &s.position); err != nil {
			return nil, err
		}
		if s.topic, err = event.ParseTopic(topic); err != nil {
			return nil, fmt.Errorf("%w: expired values: %w", dbfile.ErrCorrupt, err)
		}
		scans = append(scans, s)
	}
	slices.SortFunc(scans, func(a, b ttlScan) int { return event.NarrowestFirst(a.topic, b.topic) })
	return scans, rows.Err()
}

// scanStart returns the position from which to scan for values of a new rule's topic: up
// to there each of its storages was scanned under the old rule that matched it.
func scanStart(old []ttlScan, topic event.Topic) event.ID {
	start := event.MaxID
	for _, s := range old {
		if !s.topic.Overlaps(topic) {
			continue
		}
		start = min(start, s.position)
		if s.topic.Contains(topic) {
			return start // no wider rule matched any of its storages
		}
	}
	return event.Beginning
}

// scansOf returns the scan of each rule. If the rules' topics are not the previous ones,
// it replaces them.
func (h *History) scansOf(ctx context.Context, rules ttlRules) (scans []ttlScan, err error) {
	same := func(old []ttlScan) bool {
		return slices.EqualFunc(old, rules, func(s ttlScan, r Rule) bool { return s.topic == r.Topic })
	}
	err = h.file.View(ctx, func(tx *sql.Tx) (err error) {
		scans, err = loadScans(tx)
		return err
	})
	if err != nil || same(scans) {
		return scans, err
	}
	err = h.file.Update(ctx, func(tx *sql.Tx) error {
		old, err := loadScans(tx)
		if err != nil {
			return err
		}
		if _, err := tx.Exec(`DELETE FROM expired`); err != nil {
			return err
		}
		scans = nil
		for _, r := range rules {
			s := ttlScan{r.Topic, scanStart(old, r.Topic)}
			if _, err := tx.Exec(`INSERT INTO expired (topic, position) VALUES (?, ?)`, s.topic.String(), s.position); err != nil {
				return err
			}
			scans = append(scans, s)
		}
		return nil
	})
	return scans, err
}
