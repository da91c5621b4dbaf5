package client

import (
	"context"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/rstream-dev/rstream/cache"
	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/internal/sse"
	"github.com/rstream-dev/rstream/internal/wire"
	"github.com/rstream-dev/rstream/window"
)

// A namedStore is a store that has only a name.
type namedStore struct{ store }

func (namedStore) Newest(context.Context) (cache.Newest, error) { return cache.Newest{}, nil }

func (namedStore) Log() string { return stubLog }

func stubClient(t testing.TB, s stub) *Client {
	return newTestClient(t, namedStore{}, Config{Servers: []string{"http://a"}, HTTP: &http.Client{Transport: s}})
}

func goodLine(id event.ID, storage string) string {
	user, path, _ := strings.Cut(storage, "/")
	d := event.Draft{User: user, Path: path, Type: event.Put, Key: "k", Value: []byte(`{"a":"b"}`)}
	ev := event.New(id, 1, d, d.Hash())
	return string(ev.Line())
}

// checkEvent fails if a reader must not receive ev.
func checkEvent(t *testing.T, ev *event.Event, topic event.Topic) {
	if ev.Draft.Hash() != ev.Hash || ev.Draft.Check() != nil || !topic.Matches(ev.User, ev.Path) {
		t.Errorf("accepted %s", ev.Line())
	}
}

// For any frame, an accepted event was requested, is valid, has its own id and does not
// precede earlier events.
func FuzzReceive(f *testing.F) {
	id := event.ID(9).String()
	f.Add(id, "PUT", goodLine(9, "alice/x"), true)
	f.Add(id+".01234", "PUT", goodLine(9, "alice/x"), true)
	f.Add(id+".ZZZZZ", "PUT", goodLine(9, "alice/x"), true)
	f.Add(id, "DEL", goodLine(9, "alice/x"), true)
	f.Add(id, "PUT", goodLine(9, "bob/x"), true)
	f.Add(event.ID(3).String(), "PUT", goodLine(3, "alice/x"), true)
	f.Add(id, "live", "{}", true)
	f.Add("", "", "", false)
	topic := mustTopic(f, "alice")
	f.Fuzz(func(t *testing.T, cursor, kind, data string, has bool) {
		r := receiver{c: stubClient(t, nil), base: "http://a", topics: []event.Topic{topic}, at: 5}
		fr := sse.Frame{Cursor: cursor, Type: kind}
		if has {
			fr.Data = []byte(data)
		}
		got, err := r.readFrame(fr)
		if err != nil {
			if !permanent(err) {
				t.Errorf("%v would be tried again", err)
			}
			return
		}
		if got.isPos {
			return
		}
		checkEvent(t, &got.ev, topic)
		if at, err := event.ParseCursor(cursor); err != nil || at.ID != got.ev.ID || got.at != at.Point() || got.at.ID < r.at || string(got.ev.Line()) != data {
			t.Errorf("accepted %s as %s", got.ev.Line(), cursor)
		}
	})
}

// For any page, the events used from it belong to the topic, are in order and lie within
// the requested range.
func FuzzPage(f *testing.F) {
	next := event.ID(20).String()
	f.Add(next, goodLine(6, "alice/x")+"\n"+goodLine(8, "alice/y")+"\n", false)
	f.Add(next, goodLine(6, "alice/x")+"\n"+goodLine(8, "alice/y")[:40], true)
	f.Add(next, goodLine(8, "alice/x")+"\n"+goodLine(6, "alice/y")+"\n", false)
	f.Add(event.ID(7).String(), goodLine(8, "alice/x"), false)
	f.Add(next+".K7Q2M.3F9ZQ1", goodLine(6, "alice/x")+"\n", false)
	f.Add("", "", false)
	topic := mustTopic(f, "alice")
	span := window.Span{From: 5, To: 20}
	f.Fuzz(func(t *testing.T, next, body string, cut bool) {
		c := stubClient(t, func(r *http.Request) (*http.Response, error) {
			var src io.Reader = strings.NewReader(body)
			if cut {
				src = io.MultiReader(src, errReader{})
			}
			return answer(r, 200, wire.NDJSON, io.NopCloser(src), wire.HeaderFrom, span.From.String(), wire.HeaderTo, span.To.String(), wire.HeaderNext, next), nil
		})
		p, err := c.readPage(c.requestPage(t.Context(), []event.Topic{topic}, nil, span))
		at := span.From
		for i := range p.events {
			ev := &p.events[i]
			checkEvent(t, ev, topic)
			if ev.ID <= at {
				t.Errorf("%s follows %s", ev.ID, at)
			}
			at = ev.ID
		}
		told, _ := event.ParseCursor(next)
		if p.next.ID < at || p.next.ID > span.To || err == nil && p.next != told.Point() || err != nil && p.next.ID != at {
			t.Errorf("the page goes up to %v (%v), the last event is %s", p.next, err, at)
		}
		if cut && err == nil && at != told.ID {
			t.Error("a page that was cut passes for a whole one")
		}
	})
}

type errReader struct{}

func (errReader) Read([]byte) (int, error) { return 0, io.ErrUnexpectedEOF }
