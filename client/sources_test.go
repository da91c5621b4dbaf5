package client

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/rstream-dev/rstream/event"
)

// The client reads all that a relay says of its sources, and a server that is no relay has
// none.
func TestSources(t *testing.T) {
	ex := readWireExample(t, "sources.http")
	sources, err := ex.serve(t).Sources(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	b, err := json.Marshal(map[string][]Source{"sources": sources})
	if want := strings.TrimSpace(ex.answer); err != nil || string(b) != want {
		t.Errorf("%s, %v, want %s", b, err, want)
	}
	c := newTestClient(t, nil, hasty(newFixture(t).http.URL))
	if sources, err := c.Sources(t.Context()); len(sources) > 0 || err != nil {
		t.Errorf("no relay: %v, %v", sources, err)
	}
}

// The client reads where an event came from, if the server says so.
func TestOrigin(t *testing.T) {
	ex := readWireExample(t, "event-origin.http")
	c := ex.serve(t)
	for id, want := range map[event.ID]Origin{
		1: {ID: 1},
		3: {ID: 3, Source: "lab", Log: "9YWN24KDKEBDRCF9", Event: "0000000000018"},
	} {
		if got, ok, err := c.Origin(t.Context(), id); got != want || !ok || err != nil {
			t.Errorf("event %s is from %+v, %v, %v, want %+v", id, got, ok, err, want)
		}
	}
	if got, ok, err := c.Origin(t.Context(), 99); ok || err != nil {
		t.Errorf("event 99 is from %+v, %v", got, err)
	}
}
