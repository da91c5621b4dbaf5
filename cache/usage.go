package cache

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"github.com/rstream-dev/rstream/cache/internal/dbfile"
	"github.com/rstream-dev/rstream/cache/internal/pages"
	"github.com/rstream-dev/rstream/cache/internal/rows"
	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/window"
)

// Usage returns how much the file holds of the storages of topic that follow after, in the
// order of their names. Events up to position until count: in a copy those that are held, in
// a server's file all that it has, including the state below its horizon. A storage without
// events is left out.
//
// A list has at most limit storages and about a megabyte, and Usage ends it after a while. It
// may then be empty and still not be the end. Damaged events do not end it: they are reported
// by the list.
func (db *DB) Usage(ctx context.Context, topic event.Topic, after event.Storage, until event.ID, limit int) (list event.UsageList, err error) {
	r := usageReader{db: db, topic: topic, until: until, limit: limit, list: &list}
	r.from, _ = topic.StorageRange()
	if n := after.Next(); after != (event.Storage{}) && n.Compare(r.from) > 0 {
		r.from = n
	}
	if err = db.file.View(ctx, func(tx *sql.Tx) error { return r.prepare(ctx, tx) }); err == nil {
		err = r.readAll(ctx)
	}
	if err != nil {
		return event.UsageList{}, fmt.Errorf("usage of %s: %w", topic, err)
	}
	return list, nil
}

// maxUsageEvents is about how many events the postings have that one transaction of a
// usageReader reads. It is a variable for the tests.
var maxUsageEvents = 1 << 20

// A usageReader reads the usages of storages, in one transaction after another.
type usageReader struct {
	db    *DB
	topic event.Topic
	until event.ID
	limit int
	list  *event.UsageList
	bytes int // of list, approximately

	windows []rows.Window
	posted  event.ID // events up to here are found by their postings
	open    map[int64]*usage

	from  event.Storage // where the next transaction begins
	begun usage         // the events of that storage up to done
	done  event.ID
	ended bool
}

// A usage collects the events of a storage.
type usage struct {
	event.Usage
	last pages.Posted
	long []int64 // pages that have one line each
}

// prepare reads which events are held and, on a server, counts those that have no postings
// yet. A block may be sealed between two transactions, so the list keeps to what had postings
// at its beginning.
func (r *usageReader) prepare(ctx context.Context, tx *sql.Tx) (err error) {
	if r.windows, err = rows.LoadWindows(tx); err != nil {
		return err
	}
	if r.db.file.Role == Client {
		r.posted = r.until
		return nil
	}
	for i := range r.windows {
		r.until = min(r.until, r.windows[i].Held().To) // the head
	}
	if err := dbfile.ScanLog(ctx, tx, `indexed`, &r.posted); err != nil {
		return err
	}
	r.posted = min(r.posted, r.until)
	r.open = map[int64]*usage{}
	q := pages.Query{Span: window.Span{From: r.posted, To: r.until}, Dense: r.db.file.IsDense(), MaxText: maxOpenText, Skip: r.noteDamage}
	return pages.Scan(ctx, tx, q, func(l pages.Line) error {
		u := r.open[l.Storage]
		if u == nil {
			u = &usage{}
			r.open[l.Storage] = u
		}
		u.addEvent(l.Posted(), l.Len())
		return nil
	})
}

// maxOpenText is the length of the longest line that is read although only its length
// matters. Longer ones are alone in their pages.
const maxOpenText = 16 << 10

// noteDamage notes damage of which it is not known whose events it concerns.
func (r *usageReader) noteDamage(*pages.DamageError) error {
	r.list.Damaged = true
	return nil
}

// readAll reads until the list is long enough or a while has passed.
func (r *usageReader) readAll(ctx context.Context) error {
	for began := time.Now(); ; {
		if err := r.db.file.View(ctx, func(tx *sql.Tx) error { return r.step(ctx, tx) }); err != nil {
			return err
		}
		isLong := len(r.list.Usages) >= r.limit || r.bytes >= maxReadBytes
		isLate := time.Since(began) > maxReadTime && r.list.Next != (event.Storage{})
		if r.ended || isLong || isLate {
			break
		}
	}
	if r.ended {
		r.list.Next = event.Storage{}
	}
	return nil
}

// step reads some storages in one transaction.
func (r *usageReader) step(ctx context.Context, tx *sql.Tx) error {
	storages, err := rows.StoragesFrom(ctx, tx, r.topic, r.from)
	if err != nil {
		return err
	}
	isEnd := len(storages) < rows.StorageChunk
	if most := r.limit - len(r.list.Usages); len(storages) > most {
		storages, isEnd = storages[:most], false
	}
	usages := make([]usage, len(storages))
	if r.done > 0 && len(storages) > 0 && storages[0].Storage == r.from {
		usages[0] = r.begun
	} else {
		r.done = 0 // the storage is gone
	}
	whole, err := r.readPostings(ctx, tx, storages, usages)
	if err != nil {
		return err
	}
	for i := range whole {
		usages[i].addOpen(r.open[storages[i].ID])
	}
	if err := finishUsages(ctx, tx, storages[:whole], usages[:whole]); err != nil {
		return err
	}
	for i := range whole {
		u := usages[i].Usage
		if u.User, u.Path = storages[i].User, storages[i].Path; u.Count > 0 || u.Damaged {
			r.list.Usages = append(r.list.Usages, u)
			r.bytes += usageBytes + len(u.User) + len(u.Path)
		}
		r.list.Next = storages[i].Storage
		r.from = r.list.Next.Next()
	}
	r.ended = isEnd && whole == len(storages)
	if whole < len(storages) {
		r.from, r.begun = storages[whole].Storage, usages[whole]
	}
	return nil
}

// usageBytes is about how long a usage is, without its names.
const usageBytes = 200

// readPostings adds the events of storages that have postings to usages. If there are too
// many, it stops: then only whole of the storages are complete, and the next one up to
// r.done.
func (r *usageReader) readPostings(ctx context.Context, tx *sql.Tx, storages []rows.StorageRow, usages []usage) (whole int, err error) {
	numbers, index := make([]int64, len(storages)), make(map[int64]int, len(storages))
	for i := range storages {
		numbers[i] = storages[i].ID
		index[storages[i].ID] = i
	}
	held := make([]window.Spans, len(storages))
	read, alone := 0, false
	visit := func(key pages.PostingKey, evs []pages.Posted) error {
		i := index[key.Storage]
		if alone && read >= maxUsageEvents {
			r.done = window.BlockSpan(key.Block).From
			return errEnough
		}
		if held[i] == nil {
			held[i] = r.heldOf(&storages[i])
		}
		usages[i].addPosted(evs, held[i])
		read += len(evs)
		return nil
	}
	skip := func(e *pages.DamageError) error {
		if i, ok := index[e.Storage]; ok {
			usages[i].Damaged = true
			return nil
		}
		return r.noteDamage(e)
	}
	for whole < len(storages) && (read < maxUsageEvents || whole == 0) {
		n, span := 1, window.Span{From: r.done, To: r.posted}
		if r.done == 0 {
			if n, err = usableTogether(ctx, tx, numbers[whole:], span); err != nil {
				return 0, err
			}
		}
		alone = n == 1
		err := pages.EachPosting(ctx, tx, numbers[whole:whole+n], span, skip, visit)
		if errors.Is(err, errEnough) {
			return whole, nil
		}
		if err != nil {
			return 0, err
		}
		whole, r.done = whole+n, 0
	}
	return whole, nil
}

// usableTogether returns how many of storages have few enough events to be read together: those
// that share postings are read once then.
func usableTogether(ctx context.Context, tx *sql.Tx, storages []int64, span window.Span) (n int, err error) {
	for n = len(storages); n > 1; n /= 2 {
		events, err := pages.CountShared(ctx, tx, storages[:n], span)
		if err != nil || events <= int64(maxUsageEvents) {
			return n, err
		}
	}
	return 1, nil
}

// heldOf returns the spans of which a storage's events count.
func (r *usageReader) heldOf(s *rows.StorageRow) window.Spans {
	if r.db.file.Role != Client {
		return window.Spans{{From: event.Beginning, To: r.until}}
	}
	spans := []window.Span{}
	for i := range r.windows {
		if w := &r.windows[i]; w.State != window.Pending && w.Topic.Matches(s.User, s.Path) {
			spans = append(spans, w.Held())
		}
	}
	return append(window.Spans{}, window.Union(spans...)...) // not nil, even if nothing is held
}

// addPosted adds the events that are held.
func (u *usage) addPosted(evs []pages.Posted, held window.Spans) {
	for i := range evs {
		e := &evs[i]
		for len(held) > 0 && held[0].To < e.ID {
			held = held[1:]
		}
		if len(held) == 0 {
			return
		}
		if e.ID > held[0].From {
			u.addEvent(*e, int(e.Length))
		}
	}
}

// addEvent adds an event whose line has a length, 0 if that is the length of its page.
func (u *usage) addEvent(at pages.Posted, length int) {
	if u.Count == 0 {
		u.First = at.ID
	}
	u.Count++
	u.Last, u.last = at.ID, at
	if length == 0 {
		u.long = append(u.long, at.Page)
	}
	u.Bytes += int64(length) + 1 // the line feed
}

// addOpen adds events that come after those of u.
func (u *usage) addOpen(open *usage) {
	if open == nil {
		return
	}
	if u.Count == 0 {
		u.First = open.First
	}
	u.Count += open.Count
	u.Bytes += open.Bytes
	u.Last, u.last = open.Last, open.last
	u.long = append(u.long, open.long...)
}

// finishUsages adds the lengths of long lines, and the times and types of the last events.
func finishUsages(ctx context.Context, tx *sql.Tx, storages []rows.StorageRow, usages []usage) error {
	var last []pages.Posted
	var of []*usage
	for i := range usages {
		u := &usages[i]
		if len(u.long) > 0 {
			n, err := pages.CountText(ctx, tx, u.long)
			if err != nil {
				return err
			}
			u.Bytes += n
		}
		if u.Count > 0 {
			last, of = append(last, u.last), append(of, u)
		}
	}
	return pages.CutLines(ctx, tx, last, func(i int, line []byte) (err error) {
		if line == nil {
			line, err = pages.ReadLine(ctx, tx, &last[i])
		}
		var ev event.Event
		if err == nil {
			ev, err = rows.ParseStored(last[i].ID, line)
		}
		if errors.Is(err, ErrCorrupt) {
			of[i].Damaged = true
			return nil
		}
		of[i].Time, of[i].Type = ev.Time, ev.Type
		return err
	})
}
