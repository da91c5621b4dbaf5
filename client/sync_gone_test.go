package client

import (
	"errors"
	"testing"

	"github.com/rstream-dev/rstream/cache"
	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/window"
)

// History that is gone from the server is no gap for those who hold it, whether or not the range is
// compared.
func TestSyncGoneAndHeld(t *testing.T) {
	f := newFixture(t)
	f.putSome(steady(), event.BlockSize+500)
	topic := mustTopic(t, "alice/posts")
	c := newTestClient(t, f.newCache(), hasty(f.http.URL))
	if _, err := c.Sync(t.Context(), topic, SyncOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := f.db.RetainOnce(t.Context(), cache.Retention{MaxBytes: 1}); err != nil {
		t.Fatal(err)
	}
	f.putSome(steady(), 10)
	whole := window.Span{To: f.db.Head()}
	for _, unproven := range []bool{true, false} {
		s, err := c.Sync(t.Context(), topic, SyncOptions{Unproven: unproven})
		if err != nil || unproven && s.Span != whole {
			t.Errorf("unproven %t: %+v, %v", unproven, s, err)
		}
	}
	at := c.momentAt(10)
	for _, unproven := range []bool{true, false} {
		s, err := c.Sync(t.Context(), topic, SyncOptions{Range: Range{Until: &at}, Unproven: unproven})
		if want := (window.Span{To: 10}); err != nil || s.Span != want {
			t.Errorf("until 10, unproven %t: %+v, %v", unproven, s, err)
		}
	}
	stranger := newTestClient(t, f.newCache(), hasty(f.http.URL))
	if _, err := stranger.Sync(t.Context(), topic, SyncOptions{Unproven: true}); !errors.As(err, new(*GapError)) {
		t.Errorf("of one who holds nothing: %v", err)
	}
}
