package client

import (
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/internal/wire"
)

// A draft whose first attempt was appended, and whose answer was lost, is not refused because a later
// attempt is: the right was taken away meanwhile. It waits.
func TestSendRefusedAfterUnknown(t *testing.T) {
	f := newFixture(t)
	db := f.newCache()
	queue(t, db, "alice/x", "a")
	var posts atomic.Int32
	f.through(func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.Method != http.MethodPost {
				next.ServeHTTP(w, r)
				return
			}
			body, _ := io.ReadAll(r.Body)
			r.Body = io.NopCloser(strings.NewReader(string(body)))
			if posts.Add(1) == 1 {
				next.ServeHTTP(httptest.NewRecorder(), r)
				panic(http.ErrAbortHandler)
			}
			topic := event.Exactly(event.Storage{User: "alice", Path: "x"})
			problem := wire.Errorf(http.StatusForbidden, "the token does not allow to append to %s", topic)
			problem.Topic = &topic
			w.Header().Set(wire.HeaderLog, f.db.Log())
			problem.Write(w)
		})
	})
	c := newTestClient(t, db, hasty(f.http.URL))
	sent, err := c.Send(t.Context(), nil)
	if !errors.As(err, new(*UnknownOutcomeError)) || sent != (Sent{}) {
		t.Errorf("Send = %+v, %v", sent, err)
	}
	queued, err := db.Outbox().List(t.Context(), 0, 10)
	if err != nil || len(queued) != 1 || queued[0].Refused != "" || f.logKeys("*") != "a " {
		t.Errorf("the outbox has %+v, %v; the log %q", queued, err, f.logKeys("*"))
	}
}
