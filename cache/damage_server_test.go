package cache

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/rstream-dev/rstream/cache/internal/snapshot"
	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/internal/longtest"
	"github.com/rstream-dev/rstream/internal/pagetest"
	"github.com/rstream-dev/rstream/window"
)

// damagePage flips a bit of the page that contains an event, and returns the page's ids.
func damagePage(t *testing.T, db *DB, id event.ID, column string) (span window.Span) {
	t.Helper()
	err := db.file.Update(t.Context(), func(tx *sql.Tx) error {
		var key int64
		var b []byte
		err := tx.QueryRow(`SELECT key, first - 1, last, `+column+` FROM page WHERE first <= ? AND last >= ?`, int64(id), int64(id)).
			Scan(&key, &span.From, &span.To, &b)
		if err != nil {
			return err
		}
		b[len(b)/2] ^= 4
		_, err = tx.Exec(`UPDATE page SET `+column+` = ? WHERE key = ?`, b, key)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return span
}

// A server with a damaged page starts, appends, seals and retains. Reads that need the page
// fail, and all others are right: no line is silently missing.
func TestServerPastDamage(t *testing.T) {
	cases := []struct {
		name, column string
		id           event.ID
	}{
		{"lines of a sealed block", "lines", 3000},
		{"index of the open block", "entries", 2*event.BlockSize + 300},
		{"index of a sealed block", "entries", 3000},
		{"lines of the open block", "lines", 2*event.BlockSize + 300},
		{"lines at the end of a block", "lines", event.BlockSize},
		{"index at the end of a block", "entries", event.BlockSize},
	}
	first := rand.IntN(len(cases)) // by default, the cases take turns
	for i := range longtest.Size(1, len(cases)) {
		c := cases[(first+i)%len(cases)]
		t.Run(c.name, func(t *testing.T) { testServerPastDamage(t, c.id, c.column) })
	}
}

func testServerPastDamage(t *testing.T, id event.ID, column string) {
	setState(t)
	snapshot.FewStorages = 10
	ctx := t.Context()
	path := filepath.Join(t.TempDir(), "log.db")
	db := mustOpen(t, path, Config{Role: Server})
	var evs []event.Event
	appendSome := func(n int) {
		t.Helper()
		for ; n > 0; n -= 500 {
			var ds []event.Draft
			for i := range 500 {
				ds = append(ds, draft("alice", fmt.Sprint("p/", (len(evs)+i)%50), fmt.Sprint(len(evs)+i)))
			}
			for _, r := range mustAppend(t, db, ds...) {
				evs = append(evs, r.Event)
			}
		}
	}
	appendSome(2*event.BlockSize + 1500)
	hurt := damagePage(t, db, id, column)
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	db = mustOpen(t, path, Config{Role: Server})
	defer func() { db.Close() }()
	evs = append(evs, appendRepeated(t, db, evs[hurt.From:hurt.To])...)
	appendSome(event.BlockSize)
	checkPastDamage(t, db, evs, hurt)
	if err := db.Snapshots().SealStates(ctx, event.All); err != nil && !errors.Is(err, ErrCorrupt) {
		t.Errorf("seal: %v", err)
	}
	var damaged []error
	cfg := Retention{MaxBytes: 1, Damaged: func(err error) { damaged = append(damaged, err) }}
	if err := db.RetainOnce(ctx, cfg); err != nil {
		t.Fatalf("retain: %v", err)
	}
	if len(damaged) == 0 || !errors.Is(damaged[0], ErrCorrupt) {
		t.Errorf("retention reports %v", damaged)
	}
	if at, err := db.Horizon(ctx); err != nil || at != 3*event.BlockSize {
		t.Errorf("the horizon is %s, %v", at, err)
	}
	appendSome(event.BlockSize)
	if err := db.RetainOnce(ctx, cfg); err != nil {
		t.Fatalf("retain again: %v", err)
	}
	horizon := event.ID(4 * event.BlockSize)
	checkState(t, db, evs, event.All, db.Head())
	checkState(t, db, evs, event.All, horizon)
	checkIDs(t, "what is above the horizon", readAll(t, db, topics(t, "*"), window.Span{From: horizon, To: db.Head()}, 5000), ids(evs[horizon:]))
}

// appendRepeated appends the events of a damaged page again, and returns those that the log
// does not know: none.
func appendRepeated(t *testing.T, db *DB, evs []event.Event) (fresh []event.Event) {
	t.Helper()
	for i := range evs {
		d := evs[i].Draft
		switch r := mustAppend(t, db, d)[0]; {
		case !r.Duplicate:
			fresh = append(fresh, r.Event)
		case r.ID != evs[i].ID || r.Hash != evs[i].Hash:
			t.Errorf("event %s again is %s", evs[i].ID, r.ID)
		}
	}
	if len(fresh) > 0 {
		t.Errorf("%d of %d events were appended again", len(fresh), len(evs))
	}
	return fresh
}

// checkPastDamage checks reads of a log with a damaged page.
func checkPastDamage(t *testing.T, db *DB, evs []event.Event, hurt window.Span) {
	t.Helper()
	ctx := context.Background()
	head := db.Head()
	for _, span := range []window.Span{{To: hurt.From}, {From: hurt.To, To: head}} {
		for _, name := range []string{"*", "alice/p/7"} {
			ts := topics(t, name)
			checkIDs(t, name+" of "+span.String(), readAll(t, db, ts, span, 5000), ids(among(evs, ts[0], span)))
		}
	}
	if _, err := readSpan(ctx, db, event.All, hurt); !errors.Is(err, ErrCorrupt) {
		t.Errorf("all of %s: %v", hurt, err)
	}
	for i := rand.IntN(longtest.Size(5, 1)); i < 50; i += longtest.Size(5, 1) { // by default, a fifth of the storages
		topic := topics(t, fmt.Sprint("alice/p/", i))[0]
		for _, span := range []window.Span{hurt, {To: head}} {
			got, err := readSpan(ctx, db, topic, span)
			want := ids(among(evs, topic, span))
			switch {
			case err == nil && !slices.Equal(got, want):
				t.Errorf("%s of %s: %d events, want %d or an error", topic, span, len(got), len(want))
			case err != nil && !errors.Is(err, ErrCorrupt):
				t.Errorf("%s of %s: %v", topic, span, err)
			}
		}
	}
	checkState(t, db, evs, event.All, head)
	checkState(t, db, evs, event.All, hurt.From)
	checkState(t, db, evs, topics(t, "alice/p/7")[0], head)
	for _, at := range []event.ID{hurt.To, hurt.To + 60} {
		var lines []string
		err := db.State(ctx, event.All, at, func(ev *event.Event) error { lines = append(lines, string(ev.Line())); return nil })
		if err == nil && !slices.Equal(lines, fold(evs, event.All, at)) || err != nil && !errors.Is(err, ErrCorrupt) {
			t.Errorf("the state at %s has %d lines, %v", at, len(lines), err)
		}
	}
}

// readSpan returns the ids of the events of a topic.
func readSpan(ctx context.Context, db *DB, topic event.Topic, span window.Span) (got []event.ID, err error) {
	for at := span.From; at < span.To; {
		some, next, err := db.Read(ctx, []event.Topic{topic}, at, span.To, 1000)
		if err != nil {
			return got, err
		}
		got, at = append(got, ids(some)...), next
	}
	return got, nil
}

// damagePostings flips a bit of the postings that the storage of an event shares, and returns how
// many storages these are of.
func damagePostings(t *testing.T, db *DB, ev *event.Event) (storages int) {
	t.Helper()
	err := db.file.Update(t.Context(), func(tx *sql.Tx) error {
		storage, err := db.tables.StorageID(tx, ev.User, ev.Path)
		if err != nil {
			return err
		}
		octet := (storage - 1) / 8
		var chunks []byte
		err = tx.QueryRow(`SELECT chunks FROM page_posting WHERE octet = ? AND block = ?`, octet, int64(ev.ID.Block())).Scan(&chunks)
		if err != nil {
			return err
		}
		chunks[len(chunks)/2] ^= 4
		if _, err := tx.Exec(`UPDATE page_posting SET chunks = ? WHERE octet = ? AND block = ?`, chunks, octet, int64(ev.ID.Block())); err != nil {
			return err
		}
		return tx.QueryRow(`SELECT count(*) FROM storage WHERE id > ? AND id <= ?`, octet*8, octet*8+8).Scan(&storages)
	})
	if err != nil {
		t.Fatal(err)
	}
	return storages
}

// A block of values has so many storages.
const blockStorages = 40

// appendBlock appends a block of values, and returns the last one of each storage.
func appendBlock(t *testing.T, db *DB) (evs, last []event.Event) {
	t.Helper()
	var ds []event.Draft
	for i := range event.BlockSize {
		ds = append(ds, draft("alice", fmt.Sprint("p/", i%blockStorages), fmt.Sprint(i)))
	}
	for _, r := range mustAppend(t, db, ds...) {
		evs = append(evs, r.Event)
	}
	return evs, evs[len(evs)-blockStorages:]
}

// An append that a damaged posting prevents says so, and the appends that follow read pages by
// their index as before: without it, each of them may have to read the whole log.
func TestAppendAfterDamagedPosting(t *testing.T) {
	db := openServer(t)
	_, last := appendBlock(t, db)
	damagePostings(t, db, &last[0])
	d := draft("alice", last[0].Path, "moved")
	_, err := db.AppendFrom(t.Context(), &SourceMove{Name: "s", New: []byte("1"), If: []event.ID{last[0].ID}}, []event.Draft{d})
	if !errors.Is(err, ErrCorrupt) {
		t.Fatalf("an append after the last event of a storage whose posting is damaged: %v", err)
	}
	if db.tables.Pages.IsIndexAvoided() {
		t.Error("the index of pages is not used any more, and is sound")
	}
	mustAppend(t, db, d)
}

// A damaged posting keeps from expiring only the values of the storages that it may be of. All
// other values expire, the horizon moves, and the writer reads pages by their index as before.
func TestExpiryPastDamagedPosting(t *testing.T) {
	clock := newClock()
	db := mustOpen(t, filepath.Join(t.TempDir(), "log.db"), Config{Role: Server, Now: clock.now})
	defer db.Close()
	_, last := appendBlock(t, db)
	damaged := damagePostings(t, db, &last[0])
	clock.add(2 * time.Hour)
	mustAppend(t, db, draft("alice", "q", "now"))
	before := db.Head()
	cfg := Retention{History: time.Hour, TTL: []TTL{{event.All, time.Hour}}}
	for range 2 { // the second time there is nothing left to do
		if err := db.RetainOnce(t.Context(), cfg); err != nil {
			t.Fatal(err)
		}
	}
	if n := int(db.Head() - before); damaged < 2 || n != blockStorages-damaged {
		t.Errorf("%d values have expired, want all %d but the %d of the damaged posting", n, blockStorages, damaged)
	}
	if at, err := db.Horizon(t.Context()); err != nil || at != event.BlockSize {
		t.Errorf("the horizon is %s, %v, want %s", at, err, event.ID(event.BlockSize))
	}
	if db.tables.Pages.IsIndexAvoided() {
		t.Error("the index of pages is not used any more, and is sound")
	}
}

// A line that is not that of its event, in a page that is as it was written, is damage like any
// other: the log opens, knows the appends of all other events, and retention goes past it.
func TestServerPastLineOfAnother(t *testing.T) {
	const age = time.Hour
	for name, id := range map[string]event.ID{
		"the first of a block":       1,
		"one in a block":             1000,
		"the value of a storage":     event.BlockSize - 7,
		"the last of a block":        event.BlockSize,
		"one of the open block":      event.BlockSize + 20,
		"the last of the open block": event.BlockSize + 50,
	} {
		t.Run(name, func(t *testing.T) {
			clock := newClock()
			path := filepath.Join(t.TempDir(), "log.db")
			db := mustOpen(t, path, Config{Role: Server, Now: clock.now})
			defer func() { db.Close() }()
			evs, _ := appendBlock(t, db)
			for _, r := range mustAppend(t, db, drafts("alice", "open", "k", 50)...) {
				evs = append(evs, r.Event)
			}
			err := db.file.Update(t.Context(), func(tx *sql.Tx) error {
				other := event.New(id+5, evs[id-1].Time, evs[id-1].Draft, evs[id-1].Hash)
				return pagetest.SetLine(tx, id, other.Line())
			})
			if err != nil {
				t.Fatal(err)
			}
			db.Close()
			db = mustOpen(t, path, Config{Role: Server, Now: clock.now})
			appendRepeated(t, db, evs[max(id, 3)-3:min(int(id)+3, len(evs))])
			clock.add(2 * age)
			mustAppend(t, db, drafts("alice", "q", "k", event.BlockSize)...)
			clock.add(2 * age)
			mustAppend(t, db, draft("alice", "q", "now"))
			before := db.Head()
			var damaged []error
			cfg := Retention{History: age, TTL: []TTL{{event.All, age}}, Damaged: func(err error) { damaged = append(damaged, err) }}
			for range 2 { // the second time there is nothing left to do
				if err := db.RetainOnce(t.Context(), cfg); err != nil {
					t.Fatalf("retain: %v", err)
				}
			}
			if len(damaged) == 0 || !errors.Is(damaged[0], ErrCorrupt) {
				t.Errorf("retention reports %v", damaged)
			}
			if at, err := db.Horizon(t.Context()); err != nil || at != 2*event.BlockSize {
				t.Errorf("the horizon is %s, %v, want %s", at, err, event.ID(2*event.BlockSize))
			}
			if n, want := int(db.Head()-before), blockStorages+1; n < want-1 || n > want {
				t.Errorf("%d values have expired, want %d, or one less if its line is that of another", n, want)
			}
			cfg = Retention{MaxBytes: 1}
			mustAppend(t, db, drafts("alice", "q", "more", event.BlockSize)...)
			if err := db.RetainOnce(t.Context(), cfg); err != nil {
				t.Fatalf("retain again: %v", err)
			}
			if at, err := db.Horizon(t.Context()); err != nil || at != 3*event.BlockSize {
				t.Errorf("the horizon of a log that may have no bytes is %s, %v", at, err)
			}
		})
	}
}
