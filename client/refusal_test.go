package client

import (
	"bytes"
	"errors"
	"io"
	"net/http"
	"testing"

	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/internal/wire"
)

// refusing makes the log's server refuse appends with a status if their body contains a
// text.
func (f *fixture) refusing(status int, text string) {
	f.through(func(h http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			body, err := io.ReadAll(r.Body)
			if err != nil {
				f.t.Error(err)
			}
			if bytes.Contains(body, []byte(text)) {
				w.Header().Set(wire.HeaderLog, f.db.Log())
				wire.Errorf(status, "no").Write(w)
				return
			}
			r.Body = io.NopCloser(bytes.NewReader(body))
			h.ServeHTTP(w, r)
		})
	})
}

// Only drafts that are invalid in themselves are refused for good. Other refused drafts
// wait: another server, key or version may accept them.
func TestSendRefusedForNow(t *testing.T) {
	f := newFixture(t)
	for _, status := range []int{401, 403, 404, 405, 410, 415, 426, 507} {
		db := f.newCache()
		queue(t, db, "alice/x", "a", "b")
		f.refusing(status, "")
		var answer *StatusError
		sent, err := newTestClient(t, db, hasty(f.http.URL)).Send(t.Context(), nil)
		if !errors.As(err, &answer) || answer.Status != status || sent != (Sent{}) {
			t.Errorf("%d: Send = %+v, %v", status, sent, err)
		}
		queued, err := db.Outbox().List(t.Context(), 0, 10)
		if err != nil || len(queued) != 2 || queued[0].Refused != "" || queued[1].Refused != "" {
			t.Errorf("%d: the outbox has %+v, %v", status, queued, err)
		}
	}
}

// If some drafts are refused for good, the others keep their order.
func TestSendAroundRefused(t *testing.T) {
	for _, status := range []int{400, 413} {
		f := newFixture(t)
		db := f.newCache()
		queue(t, db, "alice/x", "a", "b", "bad1", "c", "bad2", "d", "e")
		f.refusing(status, "bad")
		sent, err := newTestClient(t, db, hasty(f.http.URL)).Send(t.Context(), nil)
		if err != nil || sent != (Sent{Sent: 5, Refused: 2}) {
			t.Errorf("%d: Send = %+v, %v", status, sent, err)
		}
		if keys := f.logKeys("*"); keys != "a b c d e " || outboxKeys(t, db) != "bad1 bad2 " {
			t.Errorf("%d: the log has %s, the outbox %s", status, keys, outboxKeys(t, db))
		}
	}
}

// The window around a position is the one that ends at or after it, never the one that
// begins there.
func TestWindowAroundItsEdge(t *testing.T) {
	cursor := func(id event.ID) event.Cursor { return event.CursorOf(id, otherLog) }
	at := func(n int64) *event.Time { time := event.Time(n); return &time }
	w := wire.Window{From: cursor(10), To: cursor(20), Start: at(100), End: at(200)}
	first := wire.Window{From: cursor(0), To: cursor(20), End: at(200)}
	moment := func(text string) event.Moment {
		m, err := event.ParseMoment(text)
		if err != nil {
			t.Fatal(err)
		}
		return m
	}
	timed := func(n int64) event.Moment { return moment(event.Time(n).String()) }
	for _, c := range []struct {
		name string
		w    wire.Window
		at   event.Moment
		same bool
		want bool
	}{
		{"where it begins", w, event.At(cursor(10)), false, false},
		{"where it begins, and that was asked", w, event.At(cursor(10)), true, true},
		{"just inside", w, event.At(cursor(11)), false, true},
		{"where it ends", w, event.At(cursor(20)), false, true},
		{"behind it", w, event.At(cursor(21)), false, false},
		{"at its first time", w, timed(100), false, false},
		{"at its first time, and that was asked", w, timed(100), true, true},
		{"just after", w, timed(101), false, true},
		{"before its last time", w, timed(199), false, true},
		{"at its last time", w, timed(200), false, false},
		{"now", w, event.Now, true, false},
		{"at the beginning", first, event.At(cursor(0)), false, false},
		{"before all events", first, timed(1), false, true},
	} {
		if got := coversMoment(&c.w, c.same, c.at); got != c.want {
			t.Errorf("%s: covers = %v, want %v", c.name, got, c.want)
		}
	}
}
