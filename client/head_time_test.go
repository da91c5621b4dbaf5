package client

import (
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/internal/wire"
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

// TestReady: a server that cannot read its log is not ready, and neither is another program.
func TestReady(t *testing.T) {
	f := newFixture(t)
	if err := Ready(t.Context(), hasty(f.http.URL)); err != nil {
		t.Error(err)
	}
	for status, header := range map[int]string{http.StatusServiceUnavailable: wire.HeaderLog, http.StatusOK: "Server"} {
		other := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set(header, "K7Q2M4X9C0V3B8RT")
			w.WriteHeader(status)
		}))
		defer other.Close()
		if err := Ready(t.Context(), hasty(other.URL)); err == nil {
			t.Errorf("a server with status %d and %s is ready", status, header)
		}
	}
}
