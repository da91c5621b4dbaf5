package client

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/internal/longtest"
	"github.com/rstream-dev/rstream/window"
)

// A server that lies about a range is refused, proves nothing and removes no held event.
// An honest server is accepted afterwards.
func TestLyingWindows(t *testing.T) {
	longtest.Require(t)
	noLeaks(t)
	f := newFixture(t)
	const n = 30
	f.put("alice/x", n)
	topic := mustTopic(t, "alice")
	at := event.At(event.CursorOf(20, f.db.Log()))
	head := f.db.Head().String()
	digest := strings.Repeat("a", 64)
	for name, tc := range map[string]struct {
		from, to string // from is replaced by to in the response
		ask      asking
		want     any
	}{
		"one event too many":   {`"count":30`, `"count":31`, syncs(topic), new(*MismatchError)},
		"one too few":          {`"count":30`, `"count":29`, syncs(topic), new(*MismatchError)},
		"none at all":          {`"count":30`, `"count":0`, syncs(topic), new(*MismatchError)},
		"another digest":       {`"digest":"`, `"digest":"` + digest + `","was":"`, syncs(topic), new(*MismatchError)},
		"a digest of nothing":  {`"digest":"`, `"digest":"abc","was":"`, syncs(topic), new(*ProtocolError)},
		"ends before it began": {`"from":"0000000000000`, `"from":"00000000000ZZ`, syncs(topic), new(*ProtocolError)},
		"begins later":         {`"from":"0000000000005`, `"from":"0000000000006`, syncsFrom(topic, 5, 0), new(*ProtocolError)},
		"ends earlier":         {`"to":"0000000000009`, `"to":"0000000000008`, syncsFrom(topic, 5, 9), new(*ProtocolError)},
		"ends beyond the head": {`"to":"` + head, `"to":"000000000ZZZZ`, syncs(topic), new(*ProtocolError)},
		"no object":            {`{`, `[`, syncs(topic), new(*ProtocolError)},
		"at: around another":   {`"to":"` + head, `"to":"0000000000009`, syncsAt(topic, at), new(*ProtocolError)},
		"at: begins later":     {`"from":"0000000000000`, `"from":"000000000000R`, syncsAt(topic, at), new(*ProtocolError)},
		"at: too many":         {`"count":30`, `"count":31`, syncsAt(topic, at), new(*MismatchError)},
	} {
		t.Run(name, func(t *testing.T) {
			db := f.newCache()
			c := newTestClient(t, db, hasty(f.http.URL))
			f.through(lyingAbout("/windows", tc.from, tc.to))
			err := tc.ask(t.Context(), c)
			if !errors.As(err, tc.want) {
				t.Errorf("ends with %v, want a %T", err, tc.want)
			}
			windows, err := db.Windows(t.Context())
			for _, w := range windows {
				if w.Proven || w.State == window.Pending {
					t.Errorf("left behind: %+v", w)
				}
			}
			if err != nil {
				t.Error(err)
			}
			f.through(nil)
			s, err := c.Sync(t.Context(), topic, SyncOptions{})
			if err != nil || s.Held != n {
				t.Fatalf("then %+v, %v", s, err)
			}
			sameEvents(t, "then", held(t, db, topic, s), f.truth("alice", "", ""))
		})
	}
}

// An asking is one way of requesting a range.
type asking func(context.Context, *Client) error

func syncs(topic event.Topic) asking { return syncsFrom(topic, 0, 0) }

func syncsFrom(topic event.Topic, from, to event.ID) asking {
	return func(ctx context.Context, c *Client) error {
		r := Range{Since: c.momentAt(from)}
		if to > 0 {
			until := c.momentAt(to)
			r.Until = &until
		}
		_, err := c.Sync(ctx, topic, SyncOptions{Range: r})
		return err
	}
}

func syncsAt(topic event.Topic, at event.Moment) asking {
	return func(ctx context.Context, c *Client) error {
		_, err := syncAt(ctx, c, topic, at)
		return err
	}
}

// lyingAbout changes the answers about path.
func lyingAbout(path, from, to string) func(http.Handler) http.Handler {
	return func(h http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path != path {
				h.ServeHTTP(w, r)
				return
			}
			answer := httptest.NewRecorder()
			h.ServeHTTP(answer, r)
			copyHeader(w.Header(), answer.Header())
			w.WriteHeader(answer.Code)
			fmt.Fprint(w, strings.Replace(answer.Body.String(), from, to, 1))
		})
	}
}
