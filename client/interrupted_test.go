package client

import (
	"context"
	"errors"
	"testing"

	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/window"
)

func TestPullEndedByStream(t *testing.T) {
	db := newFixture(t).newCache()
	c := newTestClient(t, db, hasty("http://127.0.0.1:1"))
	topics := []event.Topic{event.All}
	lease, _, err := c.store.Claim(t.Context(), topics, window.Span{To: 100})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	of := &ProtocolError{"http://127.0.0.1:1", "sent a bad event on its stream"}
	cancel(of)
	if err := c.pullWindow(ctx, topics, lease, nil, func([]event.Event) error { return nil }); !errors.Is(err, of) {
		t.Errorf("pullWindow = %v, want the cause", err)
	}
	windows, err := db.Windows(t.Context())
	if err != nil || len(windows) != 1 || windows[0].State != window.Pulling || windows[0].Err != "" {
		t.Errorf("the windows are %+v, %v", windows, err)
	}
}

func TestGapInterrupted(t *testing.T) {
	c := newTestClient(t, newFixture(t).newCache(), hasty("http://127.0.0.1:1"))
	ctx, cancel := context.WithCancelCause(t.Context())
	stop := errors.New("stop")
	cancel(stop)
	gone := &GapError{After: 1, Oldest: 5}
	if _, err := c.heldGap(ctx, []event.Topic{event.All}, Range{Since: c.momentAt(1)}, gone); !errors.Is(err, stop) {
		t.Errorf("heldGap = %v, want %v", err, stop)
	}
	if _, err := c.heldGap(t.Context(), []event.Topic{event.All}, Range{Since: c.momentAt(1)}, gone); !errors.Is(err, gone) {
		t.Errorf("heldGap = %v, want %v", err, gone)
	}
}
