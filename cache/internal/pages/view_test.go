package pages

import (
	"bytes"
	"cmp"
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"github.com/rstream-dev/rstream/event"
)

// A viewRow is a row of the view events.
type viewRow struct {
	Position   int64
	ID, Time   string
	User, Path string
	Type, Key  string
	Hash       string
	Value      *string
	Page       int64
}

func (r viewRow) String() string {
	value := "none"
	if r.Value != nil {
		value = *r.Value
	}
	return fmt.Sprintf("%d|%s|%s|%s|%s|%s|%s|%s|%.1000s|%d", r.Position, r.ID, r.Time, r.User, r.Path, r.Type, r.Key, r.Hash, value, r.Page)
}

// viewQuery selects rows as arrays of JSON, which every reader of SQLite prints alike.
const viewQuery = `SELECT json_array(position, id, time, user, path, type, key, hash, value || '', page) FROM events %s ORDER BY position`

// A sqliteReader runs a query on a file and returns the lines of its answer.
type sqliteReader func(path, query string) (lines []string, err error)

// sqliteReaders are the SQLites of this machine, ours first.
func sqliteReaders(t *testing.T) map[string]sqliteReader {
	t.Helper()
	readers := map[string]sqliteReader{"ours": readOurs}
	for name, args := range map[string][]string{
		"sqlite3": {"-readonly", "-batch"},
		"python3": {"-S", "-c", `import sqlite3, sys
for row in sqlite3.connect("file:" + sys.argv[1] + "?mode=ro", uri=True).execute(sys.argv[2]): print(row[0])`},
	} {
		run := func(path, query string) ([]string, error) {
			cmd := exec.Command(name, append(slices.Clone(args), path, query)...)
			var errs bytes.Buffer
			cmd.Stderr = &errs
			cmd.Env = append(os.Environ(), "PYTHONIOENCODING=utf-8")
			out, err := cmd.Output()
			if err != nil {
				return nil, fmt.Errorf("%w: %s", err, &errs)
			}
			return strings.Split(strings.TrimSuffix(string(out), "\n"), "\n"), nil
		}
		if canRead(t, name, run) {
			readers[name] = run
		}
	}
	if len(readers) == 1 && os.Getenv("CI") != "" {
		t.Fatal("there is no SQLite but ours: install sqlite3")
	}
	return readers
}

// canRead reports whether a SQLite knows the operators that the view has: since 3.38.
func canRead(t *testing.T, name string, run sqliteReader) bool {
	lines, err := run(":memory:", `SELECT sqlite_version() || ' ' || ('{"a":1}' ->> '$.a')`)
	t.Logf("%s: %v, %v", name, lines, err)
	return err == nil
}

func readOurs(path, query string) (lines []string, err error) {
	db, err := sql.Open("sqlite", path)
	if err != nil {
		return nil, err
	}
	defer db.Close()
	rows, err := db.Query(query)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		var s string
		if err := rows.Scan(&s); err != nil {
			return nil, err
		}
		lines = append(lines, s)
	}
	return lines, rows.Err()
}

func parseViewRow(t *testing.T, line string) (r viewRow) {
	t.Helper()
	var id, tm, user, path, typ, key, hash *string
	var position *int64
	fields := []any{&position, &id, &tm, &user, &path, &typ, &key, &hash, &r.Value, &r.Page}
	d := json.NewDecoder(strings.NewReader(line))
	if err := d.Decode(&fields); err != nil {
		t.Fatalf("%.200s: %v", line, err)
	}
	if position == nil {
		return r
	}
	r.Position = *position
	r.ID, r.Time, r.User, r.Path, r.Type, r.Key, r.Hash = *id, *tm, *user, *path, *typ, *key, *hash
	return r
}

// oddValues are values that a program which parses and prints JSON would change.
var oddValues = []string{`0`, `-0`, `-0.0`, `1.0`, `1e400`, `-1E-400`, `0.1000`, `1.0e+05`, `18446744073709551616`, `123456789012345678901234567890.5`,
	`"\u00e9\/\ud800\u0000"`, `"é ∞ 🙂"`, `"a,\n b]\\\""`, `{"a":1,"a":2,"":[1.50,{}]}`, `[]`, `[[],{},null,true,false]`, `null`,
	strings.Repeat("[", event.MaxDepth) + strings.Repeat("]", event.MaxDepth)}

// oddEvents returns events with odd values and names, and a DEL.
func oddEvents() (evs []event.Event, storages []int64) {
	ids := []event.ID{1, 2, 31, 32, 33, 1000, 1 << 20, 1<<40 + 5, 1<<62 + 7, event.MaxID - 40}
	for i, value := range oddValues {
		id := ids[min(i, len(ids)-1)] + event.ID(max(0, i-len(ids)+1))
		d := event.Draft{User: `al"i\ce`, Path: "é/" + fmt.Sprint(i), Type: event.Put, Key: `k,]"\` + fmt.Sprint(i), Value: []byte(value)}
		evs, storages = append(evs, event.New(id, event.Time(1e15+int64(i)), d, d.Hash())), append(storages, int64(i+1))
	}
	d := event.Draft{User: "alice", Path: "gone", Type: event.Del, Key: "k"}
	return append(evs, event.New(event.MaxID, event.Time(2e15), d, d.Hash())), append(storages, 99)
}

// The view says what the lines say, to a SQLite that is not ours, too, and byte by byte.
func TestView(t *testing.T) {
	h := openTables(t)
	evs, storages := oddEvents()
	h.mustStore(t, evs, storages)
	more, of := madeEvents(100_000, 3, 300, 7, 50)
	h.mustStore(t, more, of)
	long := []event.Event{madeEvent(200_000, 1, 100_000)}
	h.mustStore(t, long, []int64{1})
	evs = append(evs, long...)
	var dropped []event.Event
	var droppedOf []int64
	for i := range more {
		if i%3 == 0 || i < 10 || i > 295 { // the first and the last of pages among them
			dropped, droppedOf = append(dropped, more[i]), append(droppedOf, of[i])
		} else {
			evs = append(evs, more[i])
		}
	}
	h.mustDrop(t, dropped, droppedOf)
	slices.SortFunc(evs, func(a, b event.Event) int { return cmp.Compare(a.ID, b.ID) })

	pages := map[event.ID]int64{}
	h.view(t, func(tx *sql.Tx) error {
		return Scan(context.Background(), tx, Query{Span: everything}, func(l Line) error { pages[l.ID] = l.page.key; return nil })
	})
	want := make([]viewRow, 0, len(evs))
	for i := range evs {
		ev := &evs[i]
		r := viewRow{int64(ev.ID), ev.ID.String(), ev.Time.String(), ev.User, ev.Path, string(ev.Type), ev.Key, ev.Hash.String(), nil, pages[ev.ID]}
		if ev.Type == event.Put {
			value := string(ev.Value)
			r.Value = &value
		}
		want = append(want, r)
	}
	h.checkView(t, "", want)
	last := want[len(want)-1].Page
	h.checkView(t, fmt.Sprint("WHERE page >= ", last), slices.DeleteFunc(slices.Clone(want), func(r viewRow) bool { return r.Page < last }))

	// A page that is not JSON any more is a row without an event, and hides no other.
	h.update(t, func(tx *sql.Tx) error {
		_, err := tx.Exec(`UPDATE page SET lines = substr(lines, 2) WHERE key = ?`, last)
		return err
	})
	want = slices.DeleteFunc(want, func(r viewRow) bool { return r.Page == last })
	h.checkView(t, "", append([]viewRow{{Page: last}}, want...))
}

func (h *handle) checkView(t *testing.T, where string, want []viewRow) {
	t.Helper()
	for name, read := range sqliteReaders(t) {
		lines, err := read(h.file.Path, fmt.Sprintf(viewQuery, where))
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if len(lines) != len(want) {
			t.Errorf("%s has %d rows, want %d", name, len(lines), len(want))
			continue
		}
		for i, line := range lines {
			if got := parseViewRow(t, line); got.String() != want[i].String() {
				t.Errorf("%s: row %d is\n%s, want\n%s", name, i, got, want[i])
			}
		}
	}
}
