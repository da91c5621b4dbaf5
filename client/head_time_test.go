package client

import (
	"testing"

	"github.com/rstream-dev/rstream/event"
)

func TestHeadTime(t *testing.T) {
	f := newFixture(t)
	c := newTestClient(t, nil, hasty(f.http.URL))
	if at, ok, err := c.HeadTime(t.Context()); ok || err != nil {
		t.Errorf("an empty log: %s, %v, %v", at, ok, err)
	}
	f.put("alice/x", 3)
	evs, _, err := f.db.Read(t.Context(), []event.Topic{event.All}, 2, 3, 1)
	if err != nil {
		t.Fatal(err)
	}
	if at, ok, err := c.HeadTime(t.Context()); at != evs[0].Time || !ok || err != nil {
		t.Errorf("%s, %v, %v, want %s", at, ok, err, evs[0].Time)
	}
}
