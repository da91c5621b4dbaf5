package cache

import (
	"cmp"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/rstream-dev/rstream/cache/internal/dbfile"
	"github.com/rstream-dev/rstream/cache/internal/pages"
	"github.com/rstream-dev/rstream/cache/internal/rows"
	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/window"
)

// A FaultKind says what is damaged. Kinds are never renamed.
type FaultKind string

// The kinds of faults.
const (
	FaultStructure FaultKind = "structure" // SQLite cannot read a part of the file
	FaultPage      FaultKind = "page"      // of events
	FaultPosting   FaultKind = "posting"   // list of a storage's events in a block
	FaultMissing   FaultKind = "missing"   // events that a server's file should have
	FaultTwin      FaultKind = "twin"      // an event that is stored twice
	FaultState     FaultKind = "state"     // a kept state
	FaultDigest    FaultKind = "digest"    // a kept leaf of a digest
	FaultRow       FaultKind = "row"       // a small one: of a window, a cursor, a consumer, a source, a doubt, a bound, a kept state or the log
)

// A Fault is a damaged part of a file.
type Fault struct {
	Kind     FaultKind
	Span     window.Span     // the events that are affected, or among which they are; empty if that is not known
	Storages []event.Storage // of the affected events, as far as they are known
	Text     string
}

// Soundness says what CheckContents has checked and found sound, but for the faults.
type Soundness struct {
	Pages, Postings, Events, States, Digests int
}

// CheckContents checks all pages, lines with their hashes, postings, kept states and kept
// digests of the file, and its structure, and calls fn with each fault. It asks no server,
// and holds no transaction for long, except for SQLite's own check of a table: the file may
// be served and written meanwhile.
func (db *DB) CheckContents(ctx context.Context, fn func(Fault) error) (s Soundness, err error) {
	c := contentChecker{db: db, fn: fn}
	for _, step := range []func(context.Context) error{c.checkStructure, c.checkRows, c.checkAllPages, c.checkPostings, c.reportFaults, c.findMissing, c.checkStates, c.checkDigests} {
		if err := c.noteStructure(step(ctx)); err != nil {
			return c.sound, fmt.Errorf("check %s: %w", db.file.Path, err)
		}
		if c.logDamaged {
			break // it says what should be there
		}
	}
	c.sound.Pages, c.sound.Postings, c.sound.Events = c.pages.Pages, c.pages.Postings, c.pages.Events
	return c.sound, nil
}

// A contentChecker runs CheckContents.
type contentChecker struct {
	db      *DB
	fn      func(Fault) error
	pages   pages.Checking
	names   *rows.Names
	faults  []pageFault // not reported yet
	damaged window.Spans
	broken  map[string]bool // what SQLite has said

	logDamaged bool // the row of the log is
	sound      Soundness
}

// A pageFault is a fault of a page, or of a posting if page is 0.
type pageFault struct {
	Fault
	page     int64
	storage  int64 // of a posting, the first of its storages,
	storages int   // of which there are so many
}

// noteStructure reports what SQLite cannot read, once, and returns other errors.
func (c *contentChecker) noteStructure(err error) error {
	if !errors.Is(err, ErrCorrupt) {
		return err
	}
	if c.broken[err.Error()] {
		return nil
	}
	if c.broken == nil {
		c.broken = map[string]bool{}
	}
	c.broken[err.Error()] = true
	return c.fn(Fault{Kind: FaultStructure, Text: err.Error()})
}

func (c *contentChecker) checkStructure(ctx context.Context) error {
	tables, err := c.db.file.Tables(ctx)
	for i, name := range tables {
		c.db.file.Report(Progress{Step: StepStructure, Done: int64(i), Total: int64(len(tables))})
		if err == nil {
			err = c.noteStructure(c.db.file.CheckTable(ctx, name))
		}
	}
	return err
}

func (c *contentChecker) checkAllPages(ctx context.Context) error {
	c.pages = pages.Checking{Storages: map[int64]map[int64]bool{}, Found: c.addFault}
	c.pages.Named = func(_ *sql.Tx, storage int64, user, path string) (bool, error) {
		name, ok, err := c.names.Of(storage)
		return ok && name == event.Storage{User: user, Path: path}, err
	}
	total := c.total(ctx, pages.CountAllPages)
	for done := false; !done; {
		c.db.file.Report(Progress{Step: StepPages, Done: int64(c.pages.Pages), Total: total})
		err := c.db.file.View(ctx, func(tx *sql.Tx) (err error) {
			var posted event.ID
			if err := dbfile.ScanLog(ctx, tx, `indexed`, &posted); err != nil {
				return err
			}
			c.names = rows.NewNames(ctx, tx)
			done, err = c.pages.CheckPages(ctx, tx, posted)
			return err
		})
		if errors.Is(err, ErrCorrupt) {
			done, err = c.skipPage(ctx, err)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// total counts the rows to check, 0 if it cannot be counted: a damaged file is checked
// as far as it can be read.
func (c *contentChecker) total(ctx context.Context, count func(context.Context, *sql.Tx) (int64, error)) (n int64) {
	err := c.db.file.View(ctx, func(tx *sql.Tx) (err error) {
		n, err = count(ctx, tx)
		return err
	})
	if err != nil {
		return 0
	}
	return n
}

// skipPage goes past a page that SQLite cannot read. If the index of pages cannot be read
// either, there is no way on.
func (c *contentChecker) skipPage(ctx context.Context, cause error) (done bool, err error) {
	if err := c.noteStructure(cause); err != nil {
		return false, err
	}
	var span window.Span
	var ok bool
	err = c.db.file.View(ctx, func(tx *sql.Tx) (err error) {
		span, ok, err = c.pages.SkipPage(ctx, tx)
		return err
	})
	if err == nil && ok {
		c.faults = append(c.faults, pageFault{Fault: Fault{Kind: FaultPage, Span: span, Text: "SQLite cannot read it"}})
	}
	return !ok, err
}

// addFault notes damage of a page or a posting.
func (c *contentChecker) addFault(damage *pages.DamageError) error {
	f := pageFault{Fault: Fault{Kind: FaultPage, Text: damage.Error()}, page: damage.Page, storage: damage.Storage, storages: damage.Storages}
	if damage.Storages > 0 { // each page with one of its events meets it
		same := func(other pageFault) bool { return other.storage == f.storage && other.Text == f.Text }
		if slices.ContainsFunc(c.faults, same) {
			return nil
		}
	}
	switch {
	case damage.Twin:
		f.Kind = FaultTwin
	case damage.Storage != 0:
		f.Kind, f.Span = FaultPosting, window.BlockSpan(damage.Block)
	}
	if damage.Page != 0 && damage.ID > event.Beginning && damage.Last >= damage.ID && damage.Last <= event.MaxID {
		f.Span = window.Span{From: damage.ID - 1, To: damage.Last}
	}
	c.faults = append(c.faults, f)
	return nil
}

func (c *contentChecker) checkPostings(ctx context.Context) error {
	total := c.total(ctx, pages.CountAllPostings)
	for done := false; !done; {
		c.db.file.Report(Progress{Step: StepPostings, Done: int64(c.pages.Postings), Total: total})
		err := c.db.file.View(ctx, func(tx *sql.Tx) (err error) {
			done, err = c.pages.CheckPostings(ctx, tx)
			return err
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// reportFaults reports the faults of pages and postings, with the names of their storages.
func (c *contentChecker) reportFaults(ctx context.Context) error {
	for i := range c.faults {
		f := &c.faults[i]
		numbers := slices.Sorted(maps.Keys(c.pages.Storages[f.page]))
		for i := range f.storages {
			numbers = append(numbers, f.storage+int64(i))
		}
		err := c.db.file.View(ctx, func(tx *sql.Tx) error {
			names := rows.NewNames(ctx, tx)
			for _, n := range numbers {
				name, ok, err := names.Of(n)
				if err != nil {
					return err
				}
				if ok {
					f.Storages = append(f.Storages, name)
				}
			}
			return nil
		})
		if err := c.noteStructure(err); err != nil {
			return err
		}
		slices.SortFunc(f.Storages, func(a, b event.Storage) int { return a.Compare(b) })
		c.damaged = append(c.damaged, f.Span)
		if err := c.fn(f.Fault); err != nil {
			return err
		}
	}
	c.damaged = window.Union(c.damaged...)
	return nil
}

// findMissing looks for events that are missing from a server's file, and for twins.
func (c *contentChecker) findMissing(ctx context.Context) error {
	at, end := event.Beginning, event.MaxID
	for at < end {
		var missing window.Spans
		var twins []event.ID
		err := c.db.file.View(ctx, func(tx *sql.Tx) error {
			missing, twins = nil, nil
			q := pages.Query{MaxText: -1, Dense: c.db.file.IsDense()}
			if q.Dense { // retention may have dropped what comes next
				log, err := rows.LogWindow(ctx, tx)
				if err != nil {
					return err
				}
				at, end = max(at, log.From), log.To
			}
			next, err := pages.StretchEnd(ctx, tx, at, pagesPerStep)
			if err != nil {
				return err
			}
			q.Span = window.Span{From: at, To: min(next, end)}
			last := at
			note := func(id event.ID) {
				if q.Dense && id > last+1 {
					missing = append(missing, window.Span{From: last, To: id - 1})
				}
				last = id
			}
			q.Skip = func(damage *pages.DamageError) error {
				if damage.Twin {
					twins = append(twins, damage.ID)
				}
				return nil
			}
			err = pages.Scan(ctx, tx, q, func(l pages.Line) error { note(l.ID); return nil })
			if err == nil {
				note(q.Span.To + 1)
				at = q.Span.To
			}
			return err
		})
		if err != nil {
			return err
		}
		if err := c.reportOrder(missing, twins); err != nil {
			return err
		}
	}
	return nil
}

// pagesPerStep is how many pages one transaction of checkOrder looks at.
const pagesPerStep = 256

func (c *contentChecker) reportOrder(missing window.Spans, twins []event.ID) error {
	for _, span := range missing {
		for _, gap := range c.damaged.Gaps(span) {
			if err := c.fn(Fault{Kind: FaultMissing, Span: gap, Text: "events are missing"}); err != nil {
				return err
			}
		}
	}
	for _, id := range twins {
		if err := c.fn(Fault{Kind: FaultTwin, Span: spanOf(id), Text: fmt.Sprintf("event %s is stored twice", id)}); err != nil {
			return err
		}
	}
	return nil
}

// checkRows checks the checksums of small rows.
func (c *contentChecker) checkRows(ctx context.Context) error {
	tables := dbfile.SummedTables
	for _, table := range dbfile.LaterTables {
		var summed bool
		err := c.db.file.ViewRow(ctx, `SELECT count(*) > 0 FROM pragma_table_info(?) WHERE name = 'sum'`, []any{table.Name()}, &summed)
		if err := c.noteStructure(err); err != nil {
			return err
		}
		if err == nil && summed {
			tables = append(tables[:len(tables):len(tables)], table)
		}
	}
	for _, table := range tables {
		var n int
		if err := c.db.file.ViewRow(ctx, `SELECT count(*) FROM `+table.Name()+` WHERE NOT `+table.Sound(), nil, &n); err != nil {
			if err := c.noteStructure(err); err != nil {
				return err
			}
			continue
		}
		if n > 0 {
			c.logDamaged = c.logDamaged || table.Name() == dbfile.LogTable.Name()
			f := Fault{Kind: FaultRow, Text: fmt.Sprintf("%d rows of the table %s have other checksums", n, table.Name())}
			if err := c.fn(f); err != nil {
				return err
			}
		}
	}
	return nil
}

func (c *contentChecker) checkStates(ctx context.Context) error {
	damaged, err := c.db.Snapshots().DamagedStates(ctx, false)
	if err != nil {
		return err
	}
	if err := c.db.file.ViewRow(ctx, `SELECT count(*) FROM snapshot WHERE whole`, nil, &c.sound.States); err != nil {
		return err
	}
	if damaged > 0 {
		return c.fn(Fault{Kind: FaultState, Text: fmt.Sprintf("%d of %d kept states are damaged", damaged, max(c.sound.States, damaged))})
	}
	return nil
}

// checkDigests computes the kept leaves of digests again. Those of damaged spans are
// left out, and those below the horizon of a log, whose events may have been dropped.
func (c *contentChecker) checkDigests(ctx context.Context) error {
	var after struct {
		topic string
		block int64
	}
	after.block = -1
	total := c.total(ctx, func(ctx context.Context, tx *sql.Tx) (n int64, err error) {
		err = tx.QueryRowContext(ctx, `SELECT count(*) FROM leaf`).Scan(&n)
		return n, err
	})
	for {
		c.db.file.Report(Progress{Step: StepDigests, Done: int64(c.sound.Digests), Total: total})
		var leaf window.Leaf
		var sum []byte
		var topic event.Topic
		var differs, passed bool
		before := after
		err := c.db.file.View(ctx, func(tx *sql.Tx) error {
			err := tx.QueryRowContext(ctx, `SELECT topic, block, count, sum FROM leaf WHERE (topic, block) > (?, ?) ORDER BY topic, block LIMIT 1`,
				after.topic, after.block).Scan(&after.topic, &after.block, &leaf.Count, &sum)
			if err != nil {
				return err
			}
			if cmp.Or(strings.Compare(after.topic, before.topic), cmp.Compare(after.block, before.block)) <= 0 {
				return dbfile.OutOfOrder("leaf")
			}
			leaf.Block = uint64(after.block)
			horizon, err := c.db.tables.HorizonIn(tx)
			if err != nil {
				return err
			}
			if passed = after.block >= 0 && isBelow(leaf.Block, horizon); passed {
				return nil
			}
			if topic, err = event.ParseTopic(after.topic); err != nil || copy(leaf.Sum[:], sum) != len(leaf.Sum) || after.block < 0 {
				differs = true
				return nil
			}
			if span := window.BlockSpan(leaf.Block); len(c.damaged.Intersect(window.Spans{span})) > 0 {
				return nil
			}
			now, err := makeLeaf(ctx, tx, topic, window.BlockSpan(leaf.Block))
			differs = now != leaf
			return err
		})
		if errors.Is(err, sql.ErrNoRows) {
			return nil
		}
		if err != nil {
			return err
		}
		if !passed {
			c.sound.Digests++
		}
		if differs {
			f := Fault{Kind: FaultDigest, Text: fmt.Sprintf("the digest kept of %.80q in block %d differs from its events", after.topic, after.block)}
			if after.block >= 0 && uint64(after.block) <= event.MaxID.Block() {
				f.Span = window.BlockSpan(uint64(after.block))
			}
			if err := c.fn(f); err != nil {
				return err
			}
		}
	}
}
