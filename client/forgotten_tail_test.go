package client

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/rstream-dev/rstream/cache"
	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/window"
)

// forgetBehind waits until the first n events of topic are held, and forgets all but a hundred of
// them.
func forgetBehind(t *testing.T, db *cache.DB, topic event.Topic, n event.ID) {
	t.Helper()
	holds := func(span window.Span) bool {
		held, err := db.Held(t.Context(), topic)
		if err != nil {
			t.Fatal(err)
		}
		return held.Contains(span)
	}
	eventually(t, "holding all", func() bool { return holds(window.Span{To: n}) })
	// A window is cut only while nobody fills it.
	eventually(t, "forgetting", func() bool {
		_, err := db.Forget(t.Context(), topic, n-100)
		return err == nil
	})
	if holds(window.Span{To: n - 100}) {
		t.Error("the events are not forgotten")
	}
}

// Events that are forgotten before a slow tail has returned them are fetched again.
func TestForgottenBehindTail(t *testing.T) {
	const history, live = 2500, 10
	for name, opts := range map[string]TailOptions{"until live": {UntilLive: true}, "endless": {}} {
		t.Run(name, func(t *testing.T) {
			noLeaks(t)
			f := newFixture(t)
			f.put("alice/x", history)
			db := f.newCache()
			c := newTestClient(t, db, hasty(f.http.URL))
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute) // or it would wait for ever
			defer cancel()
			topic := mustTopic(t, "alice")
			want, forgotten := history, false
			if !opts.UntilLive {
				want += live
			}
			var got []string
			for b, err := range c.Batches(ctx, []event.Topic{topic}, opts) {
				if err != nil {
					t.Fatal(err)
				}
				for _, ev := range b.Events {
					got = append(got, string(ev.Line()))
				}
				if len(got) > 0 && !forgotten {
					if forgotten = true; b.Position > history-200 {
						t.Fatalf("the first events reach to %s", b.Position)
					}
					forgetBehind(t, db, topic, history)
					if !opts.UntilLive {
						f.put("alice/x", live)
					}
				}
				if len(got) == want {
					break
				}
			}
			sameEvents(t, "the tail", got, f.truth("alice", "", ""))
		})
	}
}

// A tail whose forgotten events are gone from the server, too, ends with the gap.
func TestForgottenBehindTailAndGone(t *testing.T) {
	noLeaks(t)
	f := newFixture(t)
	f.put("alice/x", event.BlockSize+10)
	db := f.newCache()
	c := newTestClient(t, db, hasty(f.http.URL))
	topic := mustTopic(t, "alice")
	var last error
	forgotten := false
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute) // or it would wait for ever
	defer cancel()
	for b, err := range c.Batches(ctx, []event.Topic{topic}, TailOptions{}) {
		if last = err; len(b.Events) > 0 && !forgotten {
			forgotten = true
			forgetBehind(t, db, topic, event.BlockSize+10)
			if err := f.db.RetainOnce(t.Context(), cache.Retention{Horizon: func() event.ID { return event.BlockSize }}); err != nil {
				t.Fatal(err)
			}
		}
	}
	var gap *GapError
	if !errors.As(last, &gap) || gap.Oldest != event.BlockSize {
		t.Errorf("the tail ends with %v", last)
	}
}
