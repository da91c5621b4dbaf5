package oldrows

import (
	"bytes"
	"database/sql"
	"errors"
	"os"
	"testing"

	"github.com/rstream-dev/rstream/cache/internal/dbfile"
)

// A file that SQLite cannot read to the end, or whose rows are out of order, stays as it
// is, for the version that wrote it.
func TestDamagedFileStays(t *testing.T) {
	for name, damage := range map[string]func(t *testing.T, path string){
		"leaf of events":   func(t *testing.T, path string) { overwritePage(t, path, "event") },
		"leaf of postings": func(t *testing.T, path string) { overwritePage(t, path, "posting") },
		"overflow": func(t *testing.T, path string) {
			pageNo := queryInt(t, path, `SELECT pageno FROM dbstat WHERE name = 'event' AND pagetype = 'overflow' AND path LIKE '%+000001' LIMIT 1`)
			writeAt(t, path, (pageNo-1)*4096, bytes.Repeat([]byte{0xff}, 4096))
		},
		"negative id": func(t *testing.T, path string) {
			queryInt(t, path, `INSERT INTO event (id, storage, line) VALUES (-5, 1, '') RETURNING id`)
		},
	} {
		t.Run(name, func(t *testing.T) {
			f := writeOld(t, schemas, dbfile.Client, madeRows(newRand(t), 1500, 1500))
			damage(t, f.path)
			if file, err := f.open(nil); !errors.Is(err, dbfile.ErrCorrupt) {
				t.Fatalf("%v, %v", file, err)
			}
			if v := queryInt(t, f.path, `PRAGMA user_version`); v != schemas {
				t.Errorf("the schema is %d", v)
			}
		})
	}
}

// overwritePage overwrites a leaf of a table in its middle.
func overwritePage(t *testing.T, path, table string) {
	t.Helper()
	pageNo := queryInt(t, path, `SELECT pageno FROM dbstat WHERE name = '`+table+`' AND pagetype = 'leaf' ORDER BY path LIMIT 1 OFFSET 1`)
	writeAt(t, path, (pageNo-1)*4096, bytes.Repeat([]byte{0xff}, 4096))
}

// Postings that SQLite cannot read to the end, or whose keys are out of order, stay as they are,
// for the version that wrote them. Joined all the same, they are neither lost nor joined twice,
// and joining ends.
func TestDamagedPostingsStay(t *testing.T) {
	for name, damage := range map[string]func(t *testing.T, path string){
		"leaf":    func(t *testing.T, path string) { overwritePage(t, path, "page_posting") },
		"storage": func(t *testing.T, path string) { flipKey(t, path, 3) },
		"block":   func(t *testing.T, path string) { flipKey(t, path, 2) },
		"block of the last, in order": func(t *testing.T, path string) {
			queryInt(t, path, `UPDATE page_posting AS p SET block = block + 64 WHERE storage = 9
				AND block = (SELECT max(block) FROM page_posting WHERE storage = p.storage) RETURNING block`)
		},
	} {
		t.Run(name, func(t *testing.T) {
			f := writeOld(t, schemas, dbfile.Client, spreadRows(t, 1800, 18))
			f.check(t)
			f.split(t)
			damage(t, f.path)
			if _, err := f.open(nil); !errors.Is(err, dbfile.ErrCorrupt) {
				t.Fatal(err)
			}
			if v := queryInt(t, f.path, `PRAGMA user_version`); v != 8 {
				t.Errorf("the schema is %d", v)
			}
			for range 2 {
				if _, err := dbfile.Open(t.Context(), f.path, dbfile.Options{MoveEvents: Move}); !errors.Is(err, dbfile.ErrCorrupt) {
					t.Fatal(err)
				}
			}
		})
	}
}

// flipKey flips a bit of the byte that is so far before the chunks of a posting in its row: 3 are
// the storage, 2 the block and 1 the number of events.
func flipKey(t *testing.T, path string, before int) {
	t.Helper()
	db, err := sql.Open("sqlite", path)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	var chunks []byte
	err = db.QueryRow(`SELECT chunks FROM page_posting p WHERE storage BETWEEN 9 AND 16 AND block = 2 AND count BETWEEN 2 AND 99
		AND EXISTS (SELECT 1 FROM page_posting WHERE storage = p.storage AND block = 3) ORDER BY length(chunks) LIMIT 1`).Scan(&chunks)
	if err := errors.Join(err, db.Close()); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for at, next := 0, 0; next >= 0; at += len(chunks) { // one is in the row, others in places that SQLite has left
		if next = bytes.Index(b[at:], chunks); next >= 0 {
			at += next
			writeAt(t, path, int64(at-before), []byte{b[at-before] ^ 64})
		}
	}
}

func writeAt(t *testing.T, path string, at int64, b []byte) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	_, err = f.WriteAt(b, at)
	if err := errors.Join(err, f.Close()); err != nil {
		t.Fatal(err)
	}
}

func queryInt(t *testing.T, path, query string) (n int64) {
	t.Helper()
	db, err := sql.Open("sqlite", path)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if err := db.QueryRow(query).Scan(&n); err != nil {
		t.Fatal(err)
	}
	return n
}

// Rows that are out of order, which Check would have found, are not lost either.
func TestMoveOutOfOrder(t *testing.T) {
	f := writeOld(t, schemas, dbfile.Client, madeRows(newRand(t), 100, 1))
	queryInt(t, f.path, `INSERT INTO event (id, storage, line) VALUES (-5, 1, '') RETURNING id`)
	file, err := dbfile.Open(t.Context(), f.path, dbfile.Options{MoveEvents: Move})
	if !errors.Is(err, dbfile.ErrCorrupt) {
		t.Fatalf("%v, %v", file, err)
	}
	if n := queryInt(t, f.path, `SELECT count(*) FROM old_event`); n != 101 {
		t.Errorf("%d rows are left", n)
	}
}
