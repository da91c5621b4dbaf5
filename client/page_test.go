package client

import (
	"io"
	"testing"

	"github.com/rstream-dev/rstream/event"
)

// madeLines are the lines of the first events of a made-up log.
type madeLines struct{ n, most event.ID }

func (l *madeLines) Next() ([]byte, error) {
	if l.n == l.most {
		return nil, io.EOF
	}
	l.n++
	d := event.Draft{User: "alice", Path: "x", Type: event.Put, Key: l.n.String(), Value: []byte("1")}
	ev := event.New(l.n, 1, d, d.Hash())
	return ev.Line(), nil
}

// However many events a server sends in answer to one request, the events of a page are
// bounded in bytes. The next request is for the rest.
func TestPagesAreBounded(t *testing.T) {
	defer func(most int) { maxPageBytes = most }(maxPageBytes)
	maxPageBytes = 10_000
	c := newTestClient(t, nil, hasty("http://127.0.0.1:1"))
	lines := &madeLines{most: 1000}
	p, err := c.parsePage("http://127.0.0.1:1", []event.Topic{event.All}, lines, event.Beginning, event.Point{ID: event.MaxID})
	if err != nil || p.size < 10_000 || p.size > 11_000 || lines.n == lines.most {
		t.Errorf("a page has %d bytes, %d lines were read, %v", p.size, lines.n, err)
	}
	if last := event.ID(len(p.events)); p.next.ID != last || last != lines.n {
		t.Errorf("the page has %d events and ends at %s, %d lines were read", len(p.events), p.next.ID, lines.n)
	}
}
