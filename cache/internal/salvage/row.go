package salvage

import (
	"encoding/binary"
	"errors"
	"math"
)

// The kinds of a b-tree's pages.
const (
	indexInner = 0x02
	tableInner = 0x05
	indexLeaf  = 0x0A
	tableLeaf  = 0x0D
)

var errRow = errors.New("the row cannot be read")

// maxRow bounds the length of a row: a line has at most a megabyte or so.
const maxRow = 1 << 25

// A tablePage is a page of a b-tree.
type tablePage struct {
	im    *image
	bytes []byte
	head  int // where its header is
	kind  byte
	cells []int // offsets of its cells
}

// readTablePage returns a page; ok is false if it is not one of a b-tree, or its header or
// one of its pointers is damaged.
func (im *image) readTablePage(n int64) (p tablePage, ok bool, err error) {
	p.im = im
	if p.bytes, err = im.page(n); err != nil {
		return p, false, err
	}
	if n == 1 {
		p.head = 100
	}
	return p, p.readHeader(), nil
}

func (p *tablePage) readHeader() bool {
	p.kind = p.bytes[p.head]
	size := 8
	switch p.kind {
	case indexInner, tableInner:
		size = 12
	case indexLeaf, tableLeaf:
	default:
		return false
	}
	count, begin := int(p.u16(p.head+3)), p.head+size
	if begin+2*count > len(p.bytes) {
		return false
	}
	for i := range count {
		at := int(p.u16(begin + 2*i))
		if at < begin+2*count || at >= len(p.bytes) {
			return false
		}
		p.cells = append(p.cells, at)
	}
	return true
}

func (p *tablePage) u16(at int) uint16 { return binary.BigEndian.Uint16(p.bytes[at:]) }

// children returns the pages that an inner page leads to.
func (p *tablePage) children() (pages []int64) {
	for _, at := range append(p.cells[:len(p.cells):len(p.cells)], p.head+8) {
		if at+4 <= len(p.bytes) {
			pages = append(pages, int64(binary.BigEndian.Uint32(p.bytes[at:])))
		}
	}
	return pages
}

// A row is a row of a table, or of an index, which has no id.
type row struct {
	id     int64
	values []value
}

// A value is a column: a number, or bytes if it is a blob or text.
type value struct {
	number int64
	bytes  []byte
	kind   valueKind
}

type valueKind byte

const (
	isNull valueKind = iota
	isNumber
	isBlob
	isText
	isOther
)

// readRow reads the row at an offset.
func (p *tablePage) readRow(at int) (r row, err error) {
	d := decoder{b: p.bytes[at:]}
	most := (len(p.bytes)-12)*64/255 - 23
	switch p.kind {
	case tableInner:
		return r, errRow // has no rows
	case indexInner:
		d.skipBytes(4)
	case tableLeaf:
		most = len(p.bytes) - 35
	}
	size := d.varint()
	if p.kind == tableLeaf {
		r.id = int64(d.varint())
	}
	if d.bad || size > maxRow {
		return r, errRow
	}
	payload, err := p.im.readPayload(&d, int(size), most)
	if err != nil {
		return r, err
	}
	r.values, err = decodeRecord(payload)
	return r, err
}

// readPayload reads the payload of a row, most of whose bytes stay in its page at most.
func (im *image) readPayload(d *decoder, size, most int) ([]byte, error) {
	pageSize := int(im.pageSize)
	local := localPayload(size, most, pageSize)
	b := d.take(local)
	if d.bad || local == size {
		if d.bad {
			return nil, errRow
		}
		return b, nil
	}
	next := d.take(4)
	if d.bad {
		return nil, errRow
	}
	payload := append(make([]byte, 0, min(size, 1<<14)), b...) // a damaged row may have any size
	for len(payload) < size {
		n := int64(binary.BigEndian.Uint32(next))
		if n < 2 || n > im.last {
			return nil, errRow
		}
		page, err := im.page(n)
		if err != nil {
			return nil, err
		}
		next = page[:4]
		payload = append(payload, page[4:4+min(pageSize-4, size-len(payload))]...)
	}
	return payload, nil
}

// localPayload returns how many bytes of a row's payload are in its page, most at most; the rest
// is in overflow pages.
func localPayload(size, most, pageSize int) int {
	if size <= most {
		return size
	}
	least := (pageSize-12)*32/255 - 23
	if local := least + (size-least)%(pageSize-4); local <= most {
		return local
	}
	return least
}

// isFilledTo reports whether a row of a leaf ends where a page of a size ends. SQLite fills its
// pages from there.
func (p *tablePage) isFilledTo(pageSize int) bool {
	for _, at := range p.cells {
		d := decoder{b: p.bytes[at:]}
		size := d.varint()
		d.varint()
		if d.bad || size > maxRow {
			continue
		}
		local := localPayload(int(size), pageSize-35, pageSize)
		end := len(p.bytes) - len(d.b) + local
		if local < int(size) {
			end += 4 // the number of the first overflow page
		}
		if end == pageSize {
			return true
		}
	}
	return false
}

func decodeRecord(b []byte) (values []value, err error) {
	d := decoder{b: b}
	size := d.varint()
	if d.bad || size > uint64(len(b)) || size < uint64(len(b)-len(d.b)) {
		return nil, errRow
	}
	head := decoder{b: b[len(b)-len(d.b) : size]}
	body := decoder{b: b[size:]}
	for len(head.b) > 0 {
		values = append(values, body.value(head.varint()))
		if head.bad || body.bad || len(values) > 64 {
			return nil, errRow
		}
	}
	return values, nil
}

// A decoder reads what SQLite writes; the first thing that is wrong sticks.
type decoder struct {
	b   []byte
	bad bool
}

func (d *decoder) take(n int) []byte {
	if n < 0 || n > len(d.b) {
		d.bad = true
		return nil
	}
	b := d.b[:n:n]
	d.b = d.b[n:]
	return b
}

func (d *decoder) skipBytes(n int) { d.take(n) }

// varint reads an integer of up to nine bytes, the highest bits first.
func (d *decoder) varint() (v uint64) {
	for i := range 9 {
		b := d.take(1)
		if d.bad {
			return 0
		}
		if i == 8 {
			return v<<8 | uint64(b[0])
		}
		v = v<<7 | uint64(b[0]&0x7f)
		if b[0] < 0x80 {
			return v
		}
	}
	return v
}

func (d *decoder) value(kind uint64) value {
	switch {
	case kind == 0:
		return value{}
	case kind <= 6:
		b := d.take([]int{0, 1, 2, 3, 4, 6, 8}[kind])
		if d.bad {
			return value{}
		}
		v := int64(int8(b[0]))
		for _, c := range b[1:] {
			v = v<<8 | int64(c)
		}
		return value{number: v, kind: isNumber}
	case kind == 7:
		d.skipBytes(8)
		return value{kind: isOther}
	case kind <= 9:
		return value{number: int64(kind - 8), kind: isNumber}
	case kind < 12 || kind > math.MaxInt32:
		d.bad = true
		return value{}
	case kind%2 == 0:
		return value{bytes: d.take(int(kind-12) / 2), kind: isBlob}
	}
	return value{bytes: d.take(int(kind-13) / 2), kind: isText}
}

// matches reports whether a row has columns of these kinds.
func (r *row) matches(kinds ...valueKind) bool {
	if len(r.values) != len(kinds) {
		return false
	}
	for i, kind := range kinds {
		if r.values[i].kind != kind {
			return false
		}
	}
	return true
}
