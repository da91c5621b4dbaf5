package cache

import (
	"bytes"
	"context"
	"database/sql"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/internal/longtest"
)

// flipped are the tables and indexes in which bits are flipped.
var flipped = []string{"page", "page_posting", "page_stretch", "window"}

// A spot is a byte of a file that a table uses. It is in a column, or in SQLite's own
// structure.
type spot struct {
	table  string
	at     int
	column bool
}

// checked reports whether a checksum covers the byte.
func (s *spot) checked() bool { return s.column && (s.table == "page" || s.table == "page_posting") }

// spotsOf returns the used bytes of the leaves of the tables.
func spotsOf(t *testing.T, path string, b []byte) (spots map[string][]spot) {
	t.Helper()
	pool, err := sql.Open("sqlite", "file:"+path+"?immutable=1")
	if err != nil {
		t.Fatal(err)
	}
	defer pool.Close()
	spots = map[string][]spot{}
	for _, table := range flipped {
		rows, err := pool.Query(`SELECT pageno, pagetype FROM dbstat WHERE name = ? AND pagetype <> 'internal'`, table)
		if err != nil {
			t.Fatal(err)
		}
		for rows.Next() {
			var n int
			var kind string
			if err := rows.Scan(&n, &kind); err != nil {
				t.Fatal(err)
			}
			page := b[(n-1)*4096:][:4096]
			if kind == "overflow" {
				for i := range page {
					spots[table] = append(spots[table], spot{table, (n-1)*4096 + i, i >= 4})
				}
				continue
			}
			columns := columnBytes(page)
			for i := range page {
				if i < 8+2*int(binary.BigEndian.Uint16(page[3:])) || i >= int(binary.BigEndian.Uint16(page[5:])) {
					spots[table] = append(spots[table], spot{table, (n-1)*4096 + i, columns[i]})
				}
			}
		}
		if err := rows.Close(); err != nil || len(spots[table]) == 0 {
			t.Fatalf("table %s: %d bytes, %v", table, len(spots[table]), err)
		}
	}
	return spots
}

// columnBytes returns which bytes of a leaf are of columns.
func columnBytes(page []byte) map[int]bool {
	columns := map[int]bool{}
	varint := func(at int) (v, end int) {
		for ; page[at] >= 0x80; at++ {
			v = v<<7 | int(page[at]&0x7f)
		}
		return v<<7 | int(page[at]), at + 1
	}
	for i := range int(binary.BigEndian.Uint16(page[3:])) {
		at := int(binary.BigEndian.Uint16(page[8+2*i:]))
		size, at := varint(at)
		if page[0] == 0x0D {
			_, at = varint(at)
		}
		header, _ := varint(at)
		for j := at + header; j < min(at+size, 4096); j++ {
			columns[j] = true
		}
	}
	return columns
}

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
		for id, line := range w.lines {
			ev, err := event.ParseLine([]byte(line))
			if err != nil {
				panic(err)
			}
			if topic.Matches(ev.User, ev.Path) && w.held.Contains(spanOf(id)) {
				want[id] = line
				last[ev.Storage()] = max(last[ev.Storage()], id)
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
	for _, w := range wrecks() {
		spots := spotsOf(t, w.write(t, w.bytes), w.bytes)
		dir := t.TempDir()
		counts := map[string]int{}
		for i := range longtest.Size(len(flipped), 250) {
			at := spots[flipped[i%len(flipped)]]
			s := at[random.IntN(len(at))]
			bit := random.IntN(8)
			b := bytes.Clone(w.bytes)
			b[s.at] ^= 1 << bit
			path := filepath.Join(dir, "flipped.db")
			if err := os.WriteFile(path, b, 0o600); err != nil {
				t.Fatal(err)
			}
			for _, text := range w.tryFlipped(t, path, s, counts) {
				t.Errorf("%s, bit %d of byte %d of %s (in a column: %v): %s", w.name, bit, s.at, s.table, s.column, text)
			}
			removeFiles(path)
		}
		t.Logf("%s: %v", w.name, counts)
	}
}

func (w *wreck) tryFlipped(t *testing.T, path string, s spot, counts map[string]int) (bad []string) {
	ctx := context.Background()
	cfg := Config{Role: w.role}
	db, err := Open(ctx, path, cfg)
	if err != nil {
		if counts["not opened"]++; s.checked() {
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
	if s.checked() || !found {
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
			if counts["append refused"]++; s.checked() {
				bad = append(bad, fmt.Sprintf("append: %v", err))
			}
		}
	}
	return bad
}
