package salvage

import (
	"encoding/binary"
	"slices"
)

// An owner is the table or index that a page belongs to.
type owner byte

const (
	nobody owner = iota // no tree leads there
	inSchema
	inPages
	inStretches
	inPostings
	inOldEvents
	inCandidates
	inLogs
	inLogCopies
	inWindows
	inStorages
	inFollowed
	inOthers
)

// owners are those of the names in a schema. Rows of events that are being upgraded are in
// old_event.
var owners = map[string]owner{
	"page": inPages, "page_stretch": inStretches, "page_posting": inPostings, "old_page_posting": inPostings, "event": inOldEvents, "old_event": inOldEvents,
	"candidate": inCandidates, "log": inLogs, "log_copy": inLogCopies, "window": inWindows, "storage": inStorages, "followed": inFollowed,
}

// A forest is the trees of a file, as far as they can be followed.
type forest struct {
	im     *image
	owners []owner          // of each page
	there  map[owner]bool   // the schema names it
	cut    map[owner]bool   // a page of it cannot be read
	free   map[int64]bool   // pages that the list of free pages names
	mapped map[int64][]byte // pages of the pointer map that were read
}

func (im *image) follow() (*forest, error) {
	f := &forest{im: im, owners: make([]owner, im.imagePages()+1), there: map[owner]bool{}, cut: map[owner]bool{}, mapped: map[int64][]byte{}}
	if err := f.walk(1, inSchema); err != nil {
		return nil, err
	}
	type root struct {
		page int64
		of   owner
	}
	var roots []root
	err := f.each(inSchema, func(r *row, _ place) error {
		if !r.matches(isText, isText, isText, isNumber, isText) && !r.matches(isText, isText, isText, isNumber, isNull) || r.values[3].number == 0 {
			return nil
		}
		of, ok := owners[string(r.values[1].bytes)]
		if !ok {
			of = inOthers
		}
		f.there[of] = true
		roots = append(roots, root{r.values[3].number, of})
		return nil
	})
	for _, r := range roots {
		if err == nil {
			err = f.walk(r.page, r.of)
		}
	}
	if err == nil {
		err = f.readFree()
	}
	return f, err
}

// walk finds the pages of a tree.
func (f *forest) walk(root int64, of owner) error {
	for todo := []int64{root}; len(todo) > 0; {
		n := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		if n < 1 || n > f.im.last || f.owners[n] != nobody {
			f.cut[of] = true
			continue
		}
		p, ok, err := f.im.readTablePage(n)
		if err != nil {
			return err
		}
		if !ok {
			f.cut[of] = true
			continue
		}
		f.owners[n] = of
		if p.kind == tableInner || p.kind == indexInner {
			todo = append(todo, p.children()...)
		}
	}
	return nil
}

// whole reports whether all pages of a tree were found.
func (f *forest) whole(of owner) bool { return f.there[of] && !f.cut[of] && !f.cut[inSchema] }

// A place is where a row is.
type place struct {
	page int64
	at   int
}

// each calls fn with the rows of a tree that can be read.
func (f *forest) each(of owner, fn func(r *row, at place) error) error {
	for n := range f.owners {
		if f.owners[n] != of {
			continue
		}
		p, _, err := f.im.readTablePage(int64(n))
		if err != nil {
			return err
		}
		if p.kind == tableInner {
			continue
		}
		for _, at := range p.cells {
			r, err := p.readRow(at)
			if err == errRow {
				f.cut[of] = true
				continue
			}
			if err == nil {
				err = fn(&r, place{int64(n), at})
			}
			if err != nil {
				return err
			}
		}
	}
	return nil
}

// readFree reads the list of free pages; free is nil if it is damaged.
func (f *forest) readFree() error {
	first, err := f.im.page(1)
	if err != nil {
		return err
	}
	next, count := int64(binary.BigEndian.Uint32(first[32:])), int64(binary.BigEndian.Uint32(first[36:]))
	free := map[int64]bool{}
	for next != 0 {
		if next > f.im.last || free[next] {
			return nil
		}
		free[next] = true
		trunk, err := f.im.page(next)
		if err != nil {
			return err
		}
		next = int64(binary.BigEndian.Uint32(trunk))
		n := int64(binary.BigEndian.Uint32(trunk[4:]))
		if n > (f.im.pageSize-8)/4 {
			return nil
		}
		for i := range n {
			free[int64(binary.BigEndian.Uint32(trunk[8+4*i:]))] = true
		}
	}
	if int64(len(free)) == count {
		f.free = free
	}
	return nil
}

// mapSpan is how many pages apart the pages of the pointer map are, which begin at page 2.
func (im *image) mapSpan() int64 { return im.pageSize/5 + 1 }

// isMap reports whether a page belongs to the pointer map.
func (im *image) isMap(n int64) bool { return n >= 2 && (n-2)%im.mapSpan() == 0 }

// The kinds of pages in a pointer map.
const (
	mapsFree     = 2
	mapsOverflow = 3 // or 4
)

// mappedKind returns the kind of a page in the pointer map.
func (f *forest) mappedKind(n int64) (byte, error) {
	at := n - (n-2)%f.im.mapSpan()
	b := f.mapped[at]
	if b == nil {
		var err error
		if b, err = f.im.page(at); err != nil {
			return 0, err
		}
		f.mapped[at] = b
	}
	return b[5*(n-at-1)], nil
}

// isUnused reports whether a page has no rows: it is free by all lists that can be read, or
// the rest of a long row.
func (f *forest) isUnused(n int64) (bool, error) {
	if n > f.im.last {
		return false, nil // loose
	}
	if f.owners[n] != nobody || n == 1 {
		return false, nil
	}
	if f.im.isMap(n) {
		return true, nil
	}
	kind, err := f.mappedKind(n)
	return kind == mapsOverflow || kind == mapsOverflow+1 || kind == mapsFree && (f.free == nil || f.free[n]), err
}

// trees returns the trees of events, of which a page cannot be found.
func (f *forest) cutTrees() (names []string) {
	for name, of := range owners {
		if f.cut[of] {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}
