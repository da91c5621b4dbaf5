package retention

import (
	"context"
	"database/sql"
	"time"

	"github.com/rstream-dev/rstream/cache/internal/rows"
	"github.com/rstream-dev/rstream/event"
)

// expireValues expires the values that were not set again for the age of their rule. It
// looks at each event once: if the event is the latest of its storage then, the committer
// deletes the value; otherwise there is nothing to do.
func (r *Retainer) expireValues(ctx context.Context, now event.Time) error {
	rules := newRules(r.cfg.TTL)
	if len(rules) == 0 {
		return nil
	}
	scans, err := r.history.scansOf(ctx, rules)
	if err != nil {
		return err
	}
	for _, age := range rules.ages() {
		until, err := r.history.positionAtTime(ctx, now-micros(age))
		if err != nil {
			return err
		}
		if err := r.expireAge(ctx, expirySearch{rules, scans, age, until}); err != nil {
			return err
		}
	}
	return nil
}

// An expirySearch looks for values, of all rules with one age, set up to a position.
type expirySearch struct {
	rules ttlRules
	scans []ttlScan // one for each rule
	age   time.Duration
	until event.ID
}

// from returns the position to search from.
func (x *expirySearch) from() event.ID {
	from := x.until
	for i := range x.rules {
		if x.rules[i].Age == x.age {
			from = min(from, x.scans[i].position)
		}
	}
	return from
}

// wants reports whether an event may be a value of the search.
func (x *expirySearch) wants(id event.ID, user, path string) bool {
	i := x.rules.indexOf(user, path)
	return i >= 0 && x.rules[i].Age == x.age && id > x.scans[i].position
}

// noteScanned records that all values up to a position were looked at, and returns the
// topics for which the position is higher than before.
func (x *expirySearch) noteScanned(at event.ID) (topics []event.Topic) {
	for i := range x.rules {
		if x.rules[i].Age == x.age && x.scans[i].position < at {
			x.scans[i].position = at
			topics = append(topics, x.scans[i].topic)
		}
	}
	return topics
}

func (r *Retainer) expireAge(ctx context.Context, x expirySearch) error {
	for from := x.from(); from < x.until; {
		began := time.Now()
		var old []Expiry
		err := r.history.file.View(ctx, func(tx *sql.Tx) (err error) {
			old, from, err = r.history.findExpired(ctx, tx, from, &x)
			return err
		})
		if err != nil {
			return err
		}
		if err := r.history.committer.Expire(ctx, old, x.noteScanned(from), from); err != nil {
			return err
		}
		if err := r.Throttle(ctx, time.Since(began)); err != nil {
			return err
		}
	}
	return nil
}

// expireValues and expireEvents bound the values that one transaction expires, and the
// events that one looks at.
const (
	expireValues = 256
	expireEvents = 4096
)

// An Expiry is a value that may have expired: that of the event, if it is still the last
// one of its storage.
type Expiry struct {
	Storage int64
	ID      event.ID
	Draft   event.Draft
	Hash    event.Hash
}

// findExpired returns some of the values of x that were set after a position and not
// since, and the position up to which it has looked.
func (h *History) findExpired(ctx context.Context, tx *sql.Tx, after event.ID, x *expirySearch) (old []Expiry, next event.ID, err error) {
	last, err := tx.PrepareContext(ctx, rows.LastPostingQuery)
	if err != nil {
		return nil, after, err
	}
	defer last.Close()
	line, err := tx.PrepareContext(ctx, `SELECT line FROM event WHERE id = ?`)
	if err != nil {
		return nil, after, err
	}
	defer line.Close()
	rows, err := tx.QueryContext(ctx, `SELECT e.id, e.storage, s.user, s.path FROM event e CROSS JOIN storage s ON s.id = e.storage
		WHERE e.id > ? AND e.id <= ? ORDER BY e.id LIMIT ?`, after, x.until, expireEvents)
	if err != nil {
		return nil, after, err
	}
	defer rows.Close()
	n := 0
	for ; rows.Next() && len(old) < expireValues; n++ {
		var v Expiry
		var user, path string
		if err := rows.Scan(&v.ID, &v.Storage, &user, &path); err != nil {
			return nil, after, err
		}
		if after = v.ID; !x.wants(v.ID, user, path) {
			continue
		}
		if ok, err := v.load(ctx, last, line); err != nil {
			return nil, after, err
		} else if ok {
			old = append(old, v)
		}
	}
	if n < expireEvents && len(old) < expireValues {
		after = x.until
	}
	return old, after, rows.Err()
}

// load reads the event of v and makes the draft of the DEL for it. ok is false if v is
// not, or no longer, a value.
func (v *Expiry) load(ctx context.Context, last, line *sql.Stmt) (ok bool, err error) {
	if at, err := rows.LastInPosting(last.QueryRowContext(ctx, v.Storage)); err != nil || at > v.ID {
		return false, err // others are not values either, but cost more to recognize
	}
	var b []byte
	if err := line.QueryRowContext(ctx, v.ID).Scan(&b); err != nil {
		return false, err
	}
	ev, err := rows.ParseStored(v.ID, b)
	if err != nil || ev.Type != event.Put {
		return false, err
	}
	v.Draft = event.Expiry(&ev)
	v.Hash = v.Draft.Hash()
	return true, nil
}
