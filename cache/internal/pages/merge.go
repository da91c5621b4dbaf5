package pages

import (
	"container/heap"
	"errors"
	"fmt"

	"github.com/rstream-dev/rstream/event"
)

// A merger puts the events of pages that overlap in order.
type merger struct {
	query *Query
	read  *pageReader
	fn    func(Line) error
	pages pageHeap
	at    event.ID // of the last event
	last  event.ID // of the pages
}

// A reader stands at an entry of a page.
type reader struct {
	page *page
	next int
}

func (r *reader) entry() *entry { return &r.page.entries[r.next] }

// A pageHeap has the reader with the least id first.
type pageHeap []*reader

func (h pageHeap) Len() int           { return len(h) }
func (h pageHeap) Less(i, j int) bool { return h[i].entry().id < h[j].entry().id }
func (h pageHeap) Swap(i, j int)      { h[i], h[j] = h[j], h[i] }
func (h *pageHeap) Push(r any)        { *h = append(*h, r.(*reader)) }

// second returns the least id but that of the first reader.
func (h pageHeap) second() event.ID {
	id := event.MaxID + 1
	for i := 1; i < min(len(h), 3); i++ {
		id = min(id, h[i].entry().id)
	}
	return id
}

func (h *pageHeap) Pop() any {
	last := len(*h) - 1
	r := (*h)[last]
	*h = (*h)[:last]
	return r
}

// addPage adds a page. Those that are added later do not begin before it.
func (m *merger) addPage(p *page) {
	r := &reader{page: p}
	if r.skip(m.query.Span.From) {
		heap.Push(&m.pages, r)
		m.last = max(m.last, p.last())
	} else {
		m.endPage(p)
	}
}

// endPage is called with a page that was read to its end.
func (m *merger) endPage(p *page) {
	if m.query.Reuse {
		m.read.giveBack(p)
	}
}

// skip moves r to the first live entry from where it stands that is after a position.
func (r *reader) skip(after event.ID) bool {
	for ; r.next < len(r.page.entries); r.next++ {
		if e := r.entry(); !e.dead && e.id > after {
			return true
		}
	}
	return false
}

// mergeBefore visits the events before id.
func (m *merger) mergeBefore(id event.ID) error {
	for len(m.pages) > 0 && m.pages[0].entry().id < id {
		r, until := m.pages[0], min(id, m.pages.second())
		for more := true; more; {
			if err := m.visit(r.page, r.entry()); err != nil {
				return err
			}
			r.next++
			more = r.skip(m.query.Span.From) && r.entry().id < until
		}
		if r.next < len(r.page.entries) {
			heap.Fix(&m.pages, 0)
		} else {
			heap.Pop(&m.pages)
			m.endPage(r.page)
		}
	}
	return nil
}

// mergeToDamage visits the events before a damaged page, if none of the pages before reaches into
// it, and returns the damage.
func (m *merger) mergeToDamage(damage error) error {
	var e *DamageError
	if errors.As(damage, &e) && m.last < e.ID {
		if err := m.mergeBefore(e.ID); err != nil {
			return err
		}
	}
	return damage
}

func (m *merger) finish() error {
	if err := m.mergeBefore(event.MaxID + 1); err != nil {
		return err
	}
	if m.query.Dense && m.at < m.query.Span.To {
		return m.query.Skip.Pass(missing(0, m.at+1))
	}
	return nil
}

func missing(key int64, id event.ID) error {
	return pageDamage(key, id, id, "event %s is missing", id)
}

func (m *merger) visit(p *page, e *entry) error {
	if m.query.Dense && e.id > m.at+1 && m.at < m.query.Span.To {
		if err := m.query.Skip.Pass(missing(p.key, m.at+1)); err != nil {
			return err
		}
	}
	switch {
	case e.id > m.query.Span.To:
		return errDone
	case e.id == m.at:
		return m.query.Skip.Pass(&DamageError{Page: p.key, ID: e.id, Last: e.id, Block: e.id.Block(), Twin: true,
			Reason: fmt.Sprintf("event %s is stored twice", e.id)})
	}
	m.at = e.id
	if m.query.Want != nil && !m.query.Want(e.storage) {
		return nil
	}
	return m.fn(Line{e.id, e.storage, p.line(e), p, e})
}
