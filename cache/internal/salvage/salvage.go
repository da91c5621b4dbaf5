package salvage

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"math"
	"os"
	"slices"
	"time"

	"github.com/rstream-dev/rstream/cache/internal/pages"
	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/window"
)

// A File is a file whose readable events were found.
type File struct {
	im     *image
	trees  *forest
	stamps [2]stamp

	Log, Role string // empty if they cannot be read
	// Missing has the ranges of events that should be in the file and cannot be read, as
	// far as the log's window, postings and the index of pages tell.
	Missing window.Spans
	// Doubtful has ranges of which nobody can say whether events are missing.
	Doubtful window.Spans
	// Storages are those with missing events, as far as they are known.
	Storages []event.Storage
	// Notes says in sentences which parts of the file are damaged.
	Notes []string

	refs    []ref
	damaged map[int64]damagedPage // by key
	keys    map[int64]bool        // of pages that were read whole
	lost    map[int64]bool        // numbers of storages with missing events
	pages   map[place][]pages.RawLine
}

// A ref is an event and where its line is.
type ref struct {
	id    event.ID
	page  uint32
	at    uint16
	index uint16 // of the line in its page; rowIndex for a row of an earlier version
}

const rowIndex = math.MaxUint16

func (r *ref) place() place { return place{int64(r.page), int(r.at)} }

// A damagedPage has lines that no checksum of the page proves.
type damagedPage struct {
	place
	lines []pages.RawLine
}

// A stamp changes when a file does.
type stamp struct {
	size int64
	time time.Time
}

func (f *File) stamp() (s [2]stamp) {
	for i, file := range []*os.File{f.im.main, f.im.log} {
		if file != nil {
			if info, err := file.Stat(); err == nil {
				s[i] = stamp{info.Size(), info.ModTime()}
			}
		}
	}
	return s
}

// Changed reports whether the file was written since it was opened.
func (f *File) Changed() bool { return f.stamp() != f.stamps }

// Open finds the events of a file, and calls searched with how many pages of the file it
// has looked at. It needs some 16 bytes of memory for each event. The end of ctx ends the
// search, and then reads of the File.
func Open(ctx context.Context, path string, searched func(done, total int64)) (_ *File, err error) {
	im, err := openImage(ctx, path)
	if err != nil {
		return nil, err
	}
	f := &File{im: im, damaged: map[int64]damagedPage{}, keys: map[int64]bool{}, lost: map[int64]bool{}, pages: map[place][]pages.RawLine{}}
	f.stamps = f.stamp()
	if f.trees, err = im.follow(); err == nil {
		err = f.findEvents(searched)
	}
	if err != nil {
		im.close()
		return nil, err
	}
	return f, nil
}

// Close closes the file.
func (f *File) Close() error { return f.im.close() }

// Count returns how many events were found.
func (f *File) Count() int { return len(f.refs) }

// Last returns the last event that was found, Beginning if there is none.
func (f *File) Last() event.ID {
	if len(f.refs) == 0 {
		return event.Beginning
	}
	return f.refs[len(f.refs)-1].id
}

// searchStep is how many pages are searched between two calls of searched.
const searchStep = 1024

func (f *File) findEvents(searched func(done, total int64)) error {
	for n := int64(1); n <= f.im.imagePages(); n++ {
		if n%searchStep == 1 {
			searched(n-1, f.im.imagePages())
		}
		if err := f.findIn(n); err != nil {
			return err
		}
	}
	f.sortRefs()
	for _, step := range []func() error{f.readAllPostings, f.chooseTwins, f.readStretches, f.readWindows, f.readStorages} {
		if err := step(); err != nil {
			return err
		}
	}
	f.addNotes()
	return nil
}

func (f *File) sortRefs() {
	slices.SortStableFunc(f.refs, func(a, b ref) int { return cmp.Compare(a.id, b.id) })
}

// has reports whether an event was found.
func (f *File) has(id event.ID) bool {
	_, ok := slices.BinarySearchFunc(f.refs, id, func(r ref, id event.ID) int { return cmp.Compare(r.id, id) })
	return ok
}

// findIn finds the events in a page of the file.
func (f *File) findIn(n int64) error {
	if unused, err := f.trees.isUnused(n); err != nil || unused {
		return err
	}
	of := f.trees.owners[n]
	if of != nobody && of != inPages && of != inOldEvents {
		return nil
	}
	p, ok, err := f.im.readTablePage(n)
	if err != nil {
		return err
	}
	if !ok {
		return f.scanTablePage(&p, n)
	}
	if p.kind != tableLeaf {
		return nil
	}
	for _, at := range p.cells {
		r, err := p.readRow(at)
		if err == errRow {
			continue // the index of pages has it
		}
		if err != nil {
			return err
		}
		f.takeRow(&r, place{n, at}, of)
	}
	return nil
}

// scanTablePage finds pages of events in a page whose header is damaged. It looks at each byte:
// a row begins with characters that no line has in it, so nobody's value is taken for one.
func (f *File) scanTablePage(p *tablePage, n int64) error {
	p.kind = tableLeaf
	for at := range len(p.bytes) - 32 {
		r, err := p.readRow(at)
		if err == errRow {
			continue
		}
		if err != nil {
			return err
		}
		if raw, ok := rawPage(&r); ok && pages.IsIndex(raw.First, raw.Count, raw.Index) {
			f.takePage(raw, place{n, at})
		}
	}
	return nil
}

// rawPage returns the page of events that a row is.
func rawPage(r *row) (p *pages.RawPage, ok bool) {
	if !r.matches(isNull, isNumber, isNumber, isNumber, isBlob, isBlob) {
		return nil, false
	}
	v := r.values
	return &pages.RawPage{Key: r.id, First: event.ID(v[1].number), Last: event.ID(v[2].number), Count: v[3].number,
		Index: v[4].bytes, Lines: v[5].bytes}, true
}

func (f *File) takeRow(r *row, at place, of owner) {
	if raw, ok := rawPage(r); ok && of != inOldEvents {
		f.takePage(raw, at)
		return
	}
	// An imported event, which nobody has proven, looks the same.
	if of != inOldEvents && (of != nobody || !f.trees.whole(inCandidates)) || !r.matches(isNull, isNumber, isText) {
		return
	}
	if ev, err := event.ParseLine(r.values[2].bytes); err == nil && ev.ID == event.ID(r.id) {
		f.addFoundRef(ev.ID, at, rowIndex)
	}
}

func (f *File) addFoundRef(id event.ID, at place, index int) {
	f.refs = append(f.refs, ref{id, uint32(at.page), uint16(at.at), uint16(index)})
}

func (f *File) takePage(raw *pages.RawPage, at place) {
	lines, err := raw.Read()
	whole := err == nil
	for i := range lines {
		if !lines[i].Proven {
			whole = false
		} else if ev, ok := parseRaw(&lines[i]); ok {
			f.addFoundRef(ev.ID, at, i)
		} else {
			whole = false
		}
	}
	if whole {
		f.keys[raw.Key] = true
	} else {
		f.damaged[raw.Key] = damagedPage{at, lines}
	}
}

// parseRaw parses a line whose hash is right.
func parseRaw(l *pages.RawLine) (ev event.Event, ok bool) {
	ev, err := event.ParseLine(l.Text)
	return ev, err == nil && (l.ID == 0 || l.ID == ev.ID)
}

// readAllPostings reads which events should be there, and finds lines in damaged pages by the
// checksums that postings have of them.
func (f *File) readAllPostings() error {
	found := f.refs
	err := f.trees.each(inPostings, func(r *row, _ place) error {
		posted, storages, err := readPosting(r)
		if err != nil {
			f.trees.cut[inPostings] = true
			return nil
		}
		for i := range posted {
			e := &posted[i]
			if !f.has(e.ID) && !f.rescue(e, &found) {
				f.miss(e.ID)
				f.lost[storages[i]] = true
			}
		}
		return nil
	})
	f.refs = found
	f.sortRefs()
	return err
}

// readPosting reads the row of a posting, of this version or of an earlier one.
func readPosting(r *row) (posted []pages.Posted, storages []int64, err error) {
	v := r.values
	switch {
	case r.matches(isNumber, isNumber, isNumber, isNumber, isBlob):
		return (&pages.RawPosting{Octet: v[0].number, Block: uint64(v[1].number), Members: v[2].number, Count: v[3].number, Chunks: v[4].bytes}).Read()
	case r.matches(isNumber, isNumber, isNumber, isBlob):
		return (&pages.RawPosting{Octet: v[0].number, Block: uint64(v[1].number), Count: v[2].number, Chunks: v[3].bytes}).ReadOld()
	}
	return nil, nil, errRow
}

// rescue finds an event in a damaged page.
func (f *File) rescue(e *pages.Posted, found *[]ref) bool {
	p := f.damaged[e.Page]
	for i := range p.lines {
		if l := &p.lines[i]; e.Matches(l.Text) {
			if ev, ok := parseRaw(l); ok && ev.ID == e.ID {
				*found = append(*found, ref{ev.ID, uint32(p.page), uint16(p.at), uint16(i)})
				return true
			}
		}
	}
	return false
}

// miss records that an event is missing.
func (f *File) miss(id event.ID) {
	if n := len(f.Missing); n > 0 && f.Missing[n-1].To == id-1 {
		f.Missing[n-1].To = id
		return
	}
	f.Missing = append(f.Missing, window.Span{From: id - 1, To: id})
}

// chooseTwins leaves one line of each event: the one that a table leads to. If there are
// others like that, nobody knows which is right, and the event is missing.
func (f *File) chooseTwins() error {
	chosen := f.refs[:0:0]
	for i, j := 0, 0; i < len(f.refs); i = j {
		for j = i + 1; j < len(f.refs) && f.refs[j].id == f.refs[i].id; j++ {
		}
		one, ok, err := f.chooseTwin(f.refs[i:j])
		if err != nil {
			return err
		}
		if ok {
			chosen = append(chosen, one)
		} else {
			f.miss(one.id)
		}
	}
	f.refs = chosen
	return nil
}

func (f *File) chooseTwin(twins []ref) (one ref, ok bool, err error) {
	if len(twins) == 1 {
		return twins[0], true, nil
	}
	owned := slices.DeleteFunc(slices.Clone(twins), func(r ref) bool { return f.trees.owners[r.page] == nobody })
	if len(owned) > 0 {
		twins = owned
	}
	line, err := f.refLine(&twins[0])
	for i := 1; i < len(twins) && err == nil; i++ {
		var other []byte
		if other, err = f.refLine(&twins[i]); err == nil && !bytes.Equal(line, other) {
			return twins[0], false, nil
		}
	}
	return twins[0], true, err
}

// maxPages bounds how many pages of events are remembered.
const maxPages = 512

// refLine reads a line again.
func (f *File) refLine(r *ref) ([]byte, error) {
	at := r.place()
	lines, ok := f.pages[at]
	if !ok {
		p := tablePage{im: f.im, kind: tableLeaf}
		var err error
		if p.bytes, err = f.im.page(at.page); err != nil {
			return nil, err
		}
		row, err := p.readRow(at.at)
		if err != nil {
			return nil, err
		}
		if r.index == rowIndex {
			return row.values[2].bytes, nil
		}
		raw, ok := rawPage(&row)
		if !ok {
			return nil, errRow
		}
		lines, _ = raw.Read()
		if len(f.pages) >= maxPages {
			clear(f.pages)
		}
		if len(raw.Lines) <= len(p.bytes) {
			f.pages[at] = lines
		}
	}
	if int(r.index) >= len(lines) {
		return nil, errRow
	}
	return lines[r.index].Text, nil
}

// Each calls fn with the lines that were found, in the order of their ids.
func (f *File) Each(fn func(line []byte) error) error {
	for i := range f.refs {
		r := &f.refs[i]
		line, err := f.refLine(r)
		if err == nil {
			if ev, parsing := event.ParseLine(line); parsing != nil || ev.ID != r.id {
				err = fmt.Errorf("event %s was changed while the file was being read", r.id)
			}
		}
		if err == nil {
			err = fn(line)
		}
		if err != nil {
			return err
		}
	}
	return nil
}
