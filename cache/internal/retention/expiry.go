package retention

import (
	"context"
	"database/sql"
	"errors"
	"maps"
	"slices"
	"time"

	"github.com/rstream-dev/rstream/cache/internal/pages"
	"github.com/rstream-dev/rstream/cache/internal/rows"
	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/window"
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
		until, err := r.positionAtTime(ctx, now-micros(age))
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
		next := from
		err := r.history.file.View(ctx, func(tx *sql.Tx) (err error) {
			search := valueSearch{expirySearch: &x, ctx: ctx, tx: tx, skip: r.skipDamage, next: from}
			err = search.findOld()
			old, next = search.old, search.next
			return err
		})
		if err != nil {
			return err
		}
		from = next
		if err := r.committer.Expire(ctx, old, x.noteScanned(from), from); err != nil {
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

// A valueSearch finds expired values, some events at a time.
type valueSearch struct {
	*expirySearch
	ctx  context.Context
	tx   *sql.Tx
	skip pages.Skip
	next event.ID // the position up to which it has looked
	old  []Expiry
}

// findOld finds some of the values that were set after next and not since.
func (x *valueSearch) findOld() error {
	values, end, err := x.readIndex()
	if err != nil {
		return err
	}
	if values, err = x.lastOnes(values); err != nil {
		return err
	}
	switch err := x.readValues(values); {
	case err == nil:
		x.next = end
	case !errors.Is(err, errBatchFull):
		return err
	}
	return nil
}

// A possibleValue is an event that may be a value, and its storage.
type possibleValue struct {
	storage int64
	pages.Posted
}

var errBatchFull = errors.New("enough was read")

// readIndex returns some events of storages that x wants, and the position up to which it
// has looked.
func (x *valueSearch) readIndex() (values []possibleValue, end event.ID, err error) {
	names := map[int64]event.Storage{}
	n, end := 0, x.until
	q := pages.Query{Span: window.Span{From: x.next, To: x.until}, MaxText: -1, Skip: x.skip}
	err = pages.Scan(x.ctx, x.tx, q, func(l pages.Line) error {
		values = append(values, possibleValue{l.Storage, pages.Posted{ID: l.ID}})
		names[l.Storage] = event.Storage{}
		if n++; n == expireEvents {
			end = l.ID
			return errBatchFull
		}
		return nil
	})
	if err != nil && !errors.Is(err, errBatchFull) {
		return nil, 0, err
	}
	err = rows.NamesOf(x.ctx, x.tx, slices.Sorted(maps.Keys(names)), func(storage int64, name event.Storage) { names[storage] = name })
	values = slices.DeleteFunc(values, func(v possibleValue) bool {
		name := names[v.storage]
		return !x.wants(v.ID, name.User, name.Path)
	})
	return values, end, err
}

// lastOnes returns those of values that are the last of their storage, as far as postings
// tell: others are not values either, but cost more to recognize.
func (x *valueSearch) lastOnes(values []possibleValue) (last []possibleValue, err error) {
	storages := make([]int64, len(values))
	for i := range values {
		storages[i] = values[i].storage
	}
	slices.Sort(storages)
	storages = slices.Compact(storages)
	posted, err := pages.LastPosted(x.ctx, x.tx, storages, window.Span{To: event.MaxID}, x.skip)
	if err != nil {
		return nil, err
	}
	newest := make(map[int64]pages.Posted, len(storages))
	for i, p := range posted {
		newest[storages[i]] = p
	}
	for _, v := range values {
		p := newest[v.storage]
		if p.ID > v.ID {
			continue
		}
		if p.ID == v.ID {
			v.Posted = p
		}
		last = append(last, v)
	}
	return last, nil
}

// readValues reads the lines of values, and adds those that have expired. It returns
// errBatchFull if there are too many.
func (x *valueSearch) readValues(values []possibleValue) error {
	places := make([]pages.Posted, len(values))
	for i := range values {
		places[i] = values[i].Posted
	}
	return pages.CutLines(x.ctx, x.tx, places, func(i int, line []byte) (err error) {
		if len(x.old) == expireValues {
			return errBatchFull
		}
		x.next = places[i].ID
		if line == nil {
			line, err = pages.ReadLine(x.ctx, x.tx, &places[i])
		}
		var damage *pages.DamageError
		if errors.As(err, &damage) {
			return x.skip(damage)
		}
		if err != nil {
			return err
		}
		return x.skip.Pass(x.addValue(values[i].storage, places[i], line))
	})
}

// addValue adds an event if it is a value, with the draft of the DEL for it.
func (x *valueSearch) addValue(storage int64, at pages.Posted, line []byte) error {
	ev, err := rows.ParsePosted(at, line)
	if err != nil || ev.Type != event.Put {
		return err
	}
	d := event.Expiry(&ev)
	x.old = append(x.old, Expiry{Storage: storage, ID: at.ID, Draft: d, Hash: d.Hash()})
	return nil
}
