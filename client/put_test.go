package client

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"

	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/internal/wire"
)

func drafts(storage string, keys ...string) (ds []event.Draft) {
	of, _ := event.ParseStorage(storage)
	for _, key := range keys {
		ds = append(ds, event.Draft{User: of.User, Path: of.Path, Type: event.Put, Key: key, Value: []byte(`{"a":1}`)})
	}
	return ds
}

func put(t testing.TB, c *Client, storage string, keys ...string) []event.Receipt {
	t.Helper()
	receipts, err := c.Put(t.Context(), drafts(storage, keys...))
	if err != nil {
		t.Fatal(err)
	}
	return receipts
}

func TestPut(t *testing.T) {
	f := newFixture(t)
	c := newTestClient(t, nil, hasty(f.http.URL))
	first := put(t, c, "alice/x", "a", "b", "a")
	if first[0].Duplicate || first[1].Duplicate || !first[2].Duplicate || first[2].ID != first[0].ID {
		t.Errorf("receipts %+v", first)
	}
	again := put(t, c, "alice/x", "b", "c")
	if !again[0].Duplicate || again[0].ID != first[1].ID || again[1].Duplicate {
		t.Errorf("receipts %+v", again)
	}
	for i, ev := range f.truth("*", "", "") {
		want := []*event.Event{&first[0].Event, &first[1].Event, &again[1].Event}[i]
		if string(want.Line()) != ev.line {
			t.Errorf("receipt\n%s\nwant\n%s", want.Line(), ev.line)
		}
	}
	c.Put(t.Context(), drafts("alice/x", ""))
	if keyless := put(t, c, "alice/x", ""); !keyless[0].Duplicate {
		t.Error("a draft without a key was taken twice")
	}
	if got, err := c.Put(t.Context(), nil); err != nil || len(got) != 0 {
		t.Errorf("no drafts: %v, %v", got, err)
	}
}

// However a response is lost, the same drafts are sent again and appended once.
func TestPutAnswerLost(t *testing.T) {
	noLeaks(t)
	f := newFixture(t)
	lose := map[string]func(w http.ResponseWriter, answer []byte){
		"all of it": func(http.ResponseWriter, []byte) { panic(http.ErrAbortHandler) },
		"half of it": func(w http.ResponseWriter, answer []byte) {
			_, _ = w.Write(answer[:len(answer)*2/3])
			_ = http.NewResponseController(w).Flush()
			panic(http.ErrAbortHandler)
		},
		"half of it, whole": func(w http.ResponseWriter, answer []byte) { _, _ = w.Write(answer[:len(answer)/2]) },
		"503": func(w http.ResponseWriter, _ []byte) {
			w.Header().Set("Retry-After", "0")
			wire.Errorf(503, "unknown; retry with the same key").Write(w)
		},
	}
	for name, how := range lose {
		t.Run(name, func(t *testing.T) {
			f.through(nil)
			before := len(f.truth("*", "", ""))
			var n atomic.Int64
			f.through(func(h http.Handler) http.Handler {
				return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					if n.Add(1) > 1 {
						h.ServeHTTP(w, r)
						return
					}
					rec := httptest.NewRecorder()
					h.ServeHTTP(rec, r)
					for name, values := range rec.Header() {
						w.Header()[name] = values
					}
					how(w, rec.Body.Bytes())
				})
			})
			c := newTestClient(t, nil, hasty(f.http.URL)) // this is its first request
			receipts := put(t, c, "alice/x", name+"1", name+"2")
			if n.Load() != 2 || len(receipts) != 2 {
				t.Errorf("%d requests, %d receipts", n.Load(), len(receipts))
			}
			if got := len(f.truth("*", "", "")); got != before+2 {
				t.Errorf("the log has %d events, want %d", got, before+2)
			}
		})
	}
}

// A server's response to an append is checked against the drafts.
func TestPutForged(t *testing.T) {
	f := newFixture(t)
	c := newTestClient(t, nil, hasty(f.http.URL))
	for _, answer := range []string{
		"{}\n", "x\n", `{"status":201,"id":"0000000000001","time":"2026-01-01T00:00:00.000000Z","hash":"` + event.Hash{}.String() + "\"}\n",
		string(make([]byte, 1<<17)),
	} {
		f.through(func(http.Handler) http.Handler {
			return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set(wire.HeaderLog, f.db.Log())
				w.Header().Set("Content-Type", wire.NDJSON)
				_, _ = w.Write([]byte(answer))
			})
		})
		var protocol *ProtocolError
		if _, err := c.Put(t.Context(), drafts("alice/x", "k")); !errors.As(err, &protocol) {
			t.Errorf("answer %.40q: put = %v, want a ProtocolError", answer, err)
		}
	}
}
