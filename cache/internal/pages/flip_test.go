package pages

import (
	"bytes"
	"context"
	"database/sql"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"testing"

	"github.com/rstream-dev/rstream/cache/internal/dbfile"
	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/internal/longtest"
	"github.com/rstream-dev/rstream/window"
)

// madePage returns a page as its row has it.
func madePage(first event.ID, count int) *page {
	p := &openPage{}
	for i := range count {
		ev := madeEvent(first+event.ID(i*i), int64(i%5+1), 40)
		p.addEvent(&incoming{ev.ID, int64(i%5 + 1), ev.Line()})
	}
	p.key, p.index = 1, encodeIndex(p.entries, p.linesSum)
	return &p.page
}

// eachFlip calls fn with b after each of its bits was flipped, one at a time.
func eachFlip(b []byte, fn func(bit int)) {
	for bit := range 8 * len(b) {
		b[bit/8] ^= 1 << (bit % 8)
		fn(bit)
		b[bit/8] ^= 1 << (bit % 8)
	}
}

// No bit of a page can change unnoticed.
func TestFlippedPage(t *testing.T) {
	p := madePage(4000, 12)
	numbers := binary.BigEndian.AppendUint64(nil, uint64(p.first()))
	numbers = binary.BigEndian.AppendUint64(numbers, uint64(p.last()))
	numbers = binary.BigEndian.AppendUint64(numbers, uint64(len(p.entries)))
	decode := func() error {
		q := page{index: p.index, lines: p.lines}
		return q.decode(event.ID(binary.BigEndian.Uint64(numbers)), event.ID(binary.BigEndian.Uint64(numbers[8:])),
			int64(binary.BigEndian.Uint64(numbers[16:])))
	}
	if err := decode(); err != nil {
		t.Fatal(err)
	}
	for name, part := range map[string][]byte{"numbers": numbers, "index": p.index, "lines": p.lines} {
		eachFlip(part, func(bit int) {
			if decode() == nil {
				t.Errorf("bit %d of the %s is not noticed", bit, name)
			}
		})
		if len(part) > len(numbers) {
			p := *p
			q := page{index: p.index, lines: p.lines[:len(p.lines)-1]}
			if q.decode(p.first(), p.last(), int64(len(p.entries))) == nil {
				t.Error("a page without its last byte is not noticed")
			}
		}
	}
}

// madePosting returns the chunks of a posting.
func madePosting(key octetKey, chunks int) (b []byte, members, count int64) {
	sum := key.sum()
	var all []placedEvent
	for i := range chunks {
		var entries []placedEvent
		for j := 1; j < 6; j++ {
			id := event.ID(key.block*event.BlockSize) + event.ID(1+100*i+j*j)
			entries = append(entries, placedEvent{key.octet<<octetBits + int64(j), Posted{id, Locator{Page: int64(7 + i*j), Offset: uint16(200 * j), Length: 199, Sum: uint32(id) * 0x9E3779B9}}})
			count++
		}
		b, sum = appendChunk(b, key.block, entries, sum)
		all = append(all, entries...)
	}
	return b, membersOf(all), count
}

// No bit of a posting can change unnoticed, and none of its chunks be left out.
func TestFlippedPosting(t *testing.T) {
	key := octetKey{octet: 3, block: 2}
	chunks, members, count := madePosting(key, 3)
	if p, err := decodePosting(key, members, count, chunks); err != nil || len(p.entries) != 15 {
		t.Fatalf("%v", err)
	}
	eachFlip(chunks, func(bit int) {
		if _, err := decodePosting(key, members, count, chunks); err == nil {
			t.Errorf("bit %d is not noticed", bit)
		}
	})
	for n := range chunks {
		if _, err := decodePosting(key, members, count, chunks[:n]); err == nil {
			t.Errorf("a posting that is cut after %d bytes is not noticed", n)
		}
	}
	for bit := range 63 {
		for _, other := range []octetKey{{key.octet ^ 1<<bit, key.block}, {key.octet, key.block ^ 1<<bit}} {
			if _, err := decodePosting(other, members, count, chunks); err == nil {
				t.Errorf("it is taken for the posting %v", other)
			}
		}
		if _, err := decodePosting(key, members, count^1<<bit, chunks); err == nil {
			t.Errorf("bit %d of the count is not noticed", bit)
		}
		if _, err := decodePosting(key, members^1<<bit, count, chunks); err == nil {
			t.Errorf("bit %d of the members is not noticed", bit)
		}
	}
}

// A flippedFile is a file whose bytes are changed one at a time.
type flippedFile struct {
	path     string
	file     *os.File
	db       *sql.DB
	evs      []event.Event
	storages []int64
	span     window.Span
	random   *rand.Rand
}

// newFlippedFile returns a file with pages that overlap, dropped lines and a long line.
func newFlippedFile(t *testing.T) *flippedFile {
	h := openTables(t)
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	f := &flippedFile{path: h.file.Path, random: rand.New(rand.NewPCG(seed, 0))}
	for i := range 2 {
		evs, storages := madeEvents(event.ID(4092+i), 2, 4, 2, 1)
		h.mustStore(t, evs, storages)
		h.mustDrop(t, evs[1:2], storages[1:])
		f.evs, f.storages = append(append(f.evs, evs[0]), evs[2:]...), append(append(f.storages, storages[0]), storages[2:]...)
	}
	long := madeEvent(5000, 1, 5000)
	h.mustStore(t, []event.Event{long}, []int64{1})
	f.evs, f.storages = append(f.evs, long), append(f.storages, 1)
	h.mustCheck(t, allPosted)
	f.span = window.Span{From: 4093, To: 4097}
	if err := errors.Join(h.file.Close(), vacuum(f.path)); err != nil {
		t.Fatal(err)
	}
	var err error
	if f.file, err = os.OpenFile(f.path, os.O_RDWR, 0); err != nil {
		t.Fatal(err)
	}
	if f.db, err = sql.Open("sqlite", "file:"+f.path+"?immutable=1"); err != nil {
		t.Fatal(err)
	}
	f.db.SetMaxOpenConns(1)
	t.Cleanup(func() { f.file.Close(); f.db.Close() })
	return f
}

// vacuum removes from a file what was there before, and its write-ahead log.
func vacuum(path string) error {
	db, err := sql.Open("sqlite", "file:"+path)
	if err != nil {
		return err
	}
	_, err = db.Exec(`PRAGMA secure_delete=1; VACUUM`)
	return errors.Join(err, db.Close())
}

// read runs fn on the file as it is now.
func (f *flippedFile) read(fn func(tx *sql.Tx) error) error {
	if _, err := f.db.Exec(`PRAGMA shrink_memory`); err != nil { // forgets what was read before
		return err
	}
	tx, err := f.db.Begin()
	if err != nil {
		return err
	}
	defer tx.Rollback()
	return fn(tx)
}

// expected returns the lines of a span and a storage, or of all.
func (f *flippedFile) expected(span window.Span, storage int64) map[event.ID][]byte {
	want := map[event.ID][]byte{}
	for i := range f.evs {
		if id := f.evs[i].ID; span.From < id && id <= span.To && (storage == 0 || storage == f.storages[i]) {
			want[id] = f.evs[i].Line()
		}
	}
	return want
}

// A verdict says what came of reading a file in which a bit was flipped.
type verdict struct {
	wrong string // a line that was never stored
	less  string // a read that left out a line and did not say so
	said  bool   // some read returned an error
}

// judge compares what a read has found with what it should have.
func (v *verdict) judge(read string, want, got map[event.ID][]byte, err error) {
	for id, line := range got {
		if !bytes.Equal(want[id], line) {
			v.wrong = fmt.Sprintf("%s: event %s is %.60q", read, id, line)
		}
	}
	if err == nil && len(got) < len(want) {
		v.less = fmt.Sprintf("%s: %d lines of %d", read, len(got), len(want))
	}
	v.said = v.said || err != nil
}

// judgeAll reads the file in every way that there is.
func (f *flippedFile) judgeAll() (v verdict) {
	ctx := context.Background()
	err := f.read(func(tx *sql.Tx) error {
		for _, span := range []window.Span{everything, f.span} {
			got := map[event.ID][]byte{}
			err := Scan(ctx, tx, Query{Span: span}, func(l Line) error { got[l.ID] = l.Text; return nil })
			v.judge("scan", f.expected(span, 0), got, err)
		}
		for storage := range int64(2) {
			got := map[event.ID][]byte{}
			posted, err := ReadPostingsOf(ctx, tx, []int64{storage + 1}, everything)
			if err == nil {
				err = ReadLines(ctx, tx, posted, func(i int, line []byte) error { got[posted[i].ID] = line; return nil })
			}
			v.judge("lines", f.expected(everything, storage+1), got, err)
		}
		for _, i := range []int{0, f.random.IntN(len(f.evs)), len(f.evs) - 1} {
			got := map[event.ID][]byte{}
			id := f.evs[i].ID
			line, _, err := Find(ctx, tx, id)
			if line != nil {
				got[id] = line
			}
			v.judge("find", f.expected(window.Span{From: id - 1, To: id}, 0), got, err)
		}
		return nil
	})
	v.said = v.said || err != nil
	return v
}

// checks reports whether Check finds something.
func (f *flippedFile) checks() bool {
	found := false
	err := f.read(func(tx *sql.Tx) error {
		return Check(context.Background(), tx, allPosted, func(*DamageError) error { found = true; return nil })
	})
	return found || err != nil
}

// contents returns where the blobs of the tables are in the file.
func (f *flippedFile) contents(t *testing.T, file []byte) (at []int) {
	err := f.read(func(tx *sql.Tx) error {
		rows, err := tx.Query(`SELECT entries FROM page UNION ALL SELECT lines FROM page WHERE length(lines) < 4000
			UNION ALL SELECT chunks FROM page_posting`)
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			var b []byte
			if err := rows.Scan(&b); err != nil {
				return err
			}
			from := bytes.Index(file, b)
			if from < 0 || bytes.Contains(file[from+1:], b) {
				return fmt.Errorf("%.40q is in the file %d times", b, bytes.Count(file, b))
			}
			for i := range b {
				at = append(at, from+i)
			}
		}
		return rows.Err()
	})
	if err != nil {
		t.Fatal(err)
	}
	return at
}

// leaves returns where the used bytes of a table's, or an index's, leaves are in the file.
func (f *flippedFile) leaves(t *testing.T, file []byte, name string) (at []int) {
	err := f.read(func(tx *sql.Tx) error {
		rows, err := tx.Query(`SELECT pageno FROM dbstat WHERE name = ? AND pagetype = 'leaf'`, name)
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			var n int
			if err := rows.Scan(&n); err != nil {
				return err
			}
			leaf := file[(n-1)*dbfile.PageSize:][:dbfile.PageSize]
			for i := range leaf {
				if i < 8+2*int(binary.BigEndian.Uint16(leaf[3:])) || i >= int(binary.BigEndian.Uint16(leaf[5:])) {
					at = append(at, (n-1)*dbfile.PageSize+i)
				}
			}
		}
		return rows.Err()
	})
	if err != nil {
		t.Fatal(err)
	}
	return at
}

// flip flips a bit of a byte of the file for as long as fn runs.
func (f *flippedFile) flip(t *testing.T, at int, b byte, fn func()) {
	for _, b := range []byte{b ^ 1<<f.random.IntN(8), b} {
		if _, err := f.file.WriteAt([]byte{b}, int64(at)); err != nil {
			t.Fatal(err)
		}
		if fn != nil {
			fn()
			fn = nil
		}
	}
}

// Whatever byte of a file changes, no read returns a wrong line. What is in columns is
// not left out in silence either; where SQLite's own structure changes, Check finds it.
func TestFlippedFile(t *testing.T) {
	f := newFlippedFile(t)
	file, err := os.ReadFile(f.path)
	if err != nil {
		t.Fatal(err)
	}
	contents := f.contents(t, file)
	for _, name := range []string{"page", "page_posting", "page_stretch"} {
		flips, quiet := 0, 0
		for _, at := range f.leaves(t, file, name) {
			if f.random.IntN(longtest.Size(8, 3)) > 0 {
				continue
			}
			f.flip(t, at, file[at], func() {
				v, inColumn := f.judgeAll(), slices.Contains(contents, at)
				flips++
				switch {
				case v.wrong != "":
					t.Errorf("%s, byte %d: %s", name, at, v.wrong)
				case v.less != "" && (inColumn || !f.checks()):
					t.Errorf("%s, byte %d, in a column: %v: %s, in silence", name, at, inColumn, v.less)
				case v.less != "":
					quiet++
				case inColumn && !v.said:
					t.Errorf("%s, byte %d: nobody noticed", name, at)
				}
			})
		}
		t.Logf("%s: %d bytes, of which %d make a read leave out lines, which Check finds", name, flips, quiet)
	}
	if v := f.judgeAll(); v != (verdict{}) {
		t.Errorf("in the end: %v", v)
	}
}
