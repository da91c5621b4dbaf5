package cache

import (
	"bytes"
	"context"
	"database/sql"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/internal/longtest"
	"github.com/rstream-dev/rstream/internal/pagetest"
)

// flipped are the tables and indexes in which bits are flipped.
var flipped = []string{"page", "page_posting", "page_stretch", "window", "log", "log_copy", "snapshot", "cursor", "doubt"}

// spotsOf returns the used bytes of the leaves of some tables.
func spotsOf(t *testing.T, w *wreck, tables ...string) map[string][]pagetest.Spot {
	t.Helper()
	pool, err := sql.Open("sqlite", "file:"+w.write(t, w.bytes)+"?immutable=1")
	if err != nil {
		t.Fatal(err)
	}
	defer pool.Close()
	spots := map[string][]pagetest.Spot{}
	for _, table := range tables {
		if spots[table], err = pagetest.Spots(pool, w.bytes, table); err != nil {
			t.Fatalf("table %s: %v", table, err)
		}
	}
	return spots
}

// checked reports whether a checksum covers the byte.
func checked(s pagetest.Spot) bool { return s.Column && s.Table != "page_stretch" }

// A judgement is the result of reading a file in which a bit was flipped.
type judgement struct {
	wrong  []string // lines that were never stored
	silent []string // reads that left out lines and did not say so
	said   bool     // a read returned an error, or a part is no longer held
}

// judge compares the lines that a read found with those it should find. stored are all lines:
// a stored line in place of a newer one is not wrong, but the newer one was left out.
func (j *judgement) judge(what string, stored, want, got map[event.ID]string, err error) {
	some := 0
	for id, line := range got {
		if stored[id] != line {
			j.wrong = append(j.wrong, fmt.Sprintf("%s: event %s is %.80q", what, id, line))
		}
		if want[id] == line {
			some++
		}
	}
	if err == nil && some < len(want) {
		j.silent = append(j.silent, fmt.Sprintf("%s: %d lines of %d", what, some, len(want)))
	}
	j.said = j.said || err != nil
}

// read reads a file in every possible way.
func (w *wreck) read(db *DB, backup string) (j judgement) {
	ctx := context.Background()
	for _, name := range []string{"*", "alice", "bob/x/1$"} {
		topic, err := event.ParseTopic(name)
		if err != nil {
			panic(err)
		}
		held, err := db.Held(ctx, topic)
		j.said = j.said || err != nil
		want, last := map[event.ID]string{}, map[event.Storage]event.ID{}
		for id, at := range w.storages {
			if topic.Matches(at.User, at.Path) && w.held.Contains(spanOf(id)) {
				want[id] = w.lines[id]
				last[at] = max(last[at], id)
			}
		}
		if name == "*" && w.role == Client {
			continue // it holds three users, and not all
		}
		if len(held.Intersect(w.held)) != len(w.held) || held.Count() < w.held.Count() {
			j.said = true // status, log and export name the rest as not held
		}
		got := map[event.ID]string{}
		for _, span := range held.Intersect(w.held) {
			if eachErr := db.Each(ctx, []event.Topic{topic}, span, func(ev *event.Event) error { got[ev.ID] = string(ev.Line()); return nil }); eachErr != nil {
				err = eachErr
			}
		}
		if j.said {
			j.judge("read "+name, w.lines, nil, got, err)
		} else {
			j.judge("read "+name, w.lines, want, got, err)
		}
		span := w.held[0]
		lines, next, err := db.AppendLines(ctx, nil, []event.Topic{topic}, span.From, span.To, 500)
		got = map[event.ID]string{}
		some := map[event.ID]string{}
		for line := range bytes.Lines(lines) {
			if s, err := event.Skim(line); err == nil {
				got[s.ID] = string(bytes.TrimSuffix(line, []byte("\n")))
			}
		}
		for id, line := range want {
			if span.From < id && id <= next {
				some[id] = line
			}
		}
		j.judge("lines of "+name, w.lines, some, got, err)
		got, some = map[event.ID]string{}, map[event.ID]string{}
		for _, id := range last {
			some[id] = want[id]
		}
		end := w.held[len(w.held)-1].To
		err = db.State(ctx, topic, end, func(ev *event.Event) error {
			if w.held.Contains(spanOf(ev.ID)) {
				got[ev.ID] = string(ev.Line())
			}
			return nil
		})
		j.judge("state of "+name, w.lines, some, got, err)
		_, err = db.Leaves(ctx, topic, span)
		j.said = j.said || err != nil
	}
	if db.Role() == Server {
		err := db.BackupTo(ctx, backup)
		if err == nil && len(j.silent) > 0 {
			j.silent = append(j.silent, "backup")
		}
		j.said = j.said || err != nil
		os.Remove(backup)
	}
	return j
}

// A flipped bit of a page, a posting, an index or a window never leads to a wrong line. In a
// column of a page or a posting, no line is silently missing either, and a log still appends;
// elsewhere, CheckContents finds the faults that no read reported.
func TestFlippedBits(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	first := random.IntN(len(flipped))
	for _, w := range wrecks() {
		dir := t.TempDir()
		counts := map[string]int{}
		flips := longtest.Scale(len(flipped)/2, 45, 250) // by default, the tables take turns
		turns := slices.Concat(flipped[first:], flipped[:first])
		spots := spotsOf(t, w, turns[:min(flips, len(turns))]...)
		for i := range flips {
			at := spots[turns[i%len(turns)]]
			if len(at) == 0 {
				continue // a server's file has no windows
			}
			s := at[random.IntN(len(at))]
			bit := random.IntN(8)
			b := bytes.Clone(w.bytes)
			b[s.At] ^= 1 << bit
			path := filepath.Join(dir, "flipped.db")
			if err := os.WriteFile(path, b, 0o600); err != nil {
				t.Fatal(err)
			}
			for _, text := range w.tryFlipped(t, path, s, counts) {
				t.Errorf("%s, bit %d of byte %d of %s (in a column: %v): %s", w.name, bit, s.At, s.Table, s.Column, text)
			}
			removeFiles(path)
		}
		t.Logf("%s: %v", w.name, counts)
	}
}

func (w *wreck) tryFlipped(t *testing.T, path string, s pagetest.Spot, counts map[string]int) (bad []string) {
	ctx := context.Background()
	cfg := Config{Role: w.role}
	db, err := Open(ctx, path, cfg)
	if err != nil {
		if counts["not opened"]++; checked(s) {
			bad = append(bad, fmt.Sprintf("it is not opened: %v", err))
		}
		return bad
	}
	defer db.Close()
	j := w.read(db, path+".backup")
	found := false
	_, err = db.CheckContents(ctx, func(Fault) error { found = true; return nil })
	found = found || err != nil
	bad = append(bad, j.wrong...)
	if checked(s) || !found {
		bad = append(bad, j.silent...)
	}
	switch {
	case j.said:
		counts["said"]++
	case found:
		counts["found by a check alone"]++
	default:
		counts["without effect"]++
	}
	if w.role == Server {
		if _, err := db.Append(ctx, drafts("alice", "x/1", "appended", 3)); err != nil {
			if counts["append refused"]++; checked(s) {
				bad = append(bad, fmt.Sprintf("append: %v", err))
			}
		}
	}
	return bad
}

// A log whose index of pages is damaged opens, takes events and seals blocks.
func TestAppendPastIndex(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	flips := map[event.ID]int{70: 8, event.BlockSize - 3: 3} // four pages, and a block that the first append fills
	for n := range flips {
		path := filepath.Join(t.TempDir(), "log.db")
		db := mustOpen(t, path, Config{Role: Server})
		mustAppend(t, db, drafts("alice", "x", "first", int(n))...)
		db.Close()
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		w := &wreck{bytes: b}
		spots := slices.DeleteFunc(spotsOf(t, w, "page_stretch")["page_stretch"], func(s pagetest.Spot) bool { return !s.Column })
		for range longtest.Scale(flips[n], 25, 60) {
			s, bit := spots[random.IntN(len(spots))], random.IntN(8)
			bad := bytes.Clone(b)
			bad[s.At] ^= 1 << bit
			path := w.write(t, bad)
			for _, text := range []string{"a", "b"} {
				db, err := Open(t.Context(), path, Config{Role: Server})
				if err != nil {
					t.Errorf("bit %d of byte %d: %v", bit, s.At, err)
					continue
				}
				if _, err := db.Append(t.Context(), drafts("alice", "x", text, 4)); err != nil {
					t.Errorf("bit %d of byte %d: %v", bit, s.At, err)
				}
				db.Close()
			}
		}
	}
}
