package server

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/rstream-dev/rstream/internal/wire"
)

// Output is flushed although it ends with a write: its last part must not wait for the next output.
func TestFlushAfterLargeOutput(t *testing.T) {
	large := strings.Repeat("x", eventPiece)
	rec := httptest.NewRecorder()
	c := controlStream{w: rec, rc: http.NewResponseController(rec)}
	if err := c.gather("large", large); err != nil || len(c.buf) > 0 {
		t.Fatalf("%d bytes are not written, %v", len(c.buf), err)
	}
	if err := c.flush(); err != nil || !rec.Flushed || c.written.IsZero() {
		t.Errorf("a control stream is not flushed, %v", err)
	}
	rec.Flushed = false
	if err := c.flush(); err != nil || rec.Flushed {
		t.Errorf("a flush without output, %v", err)
	}

	rec = httptest.NewRecorder()
	rec.Header().Set("Content-Type", wire.SSE)
	s := New(newLog(), Config{})
	defer s.Stop()
	e := connection{s: s, w: rec, rc: http.NewResponseController(rec), to: &recorder{ResponseWriter: rec, s: s}}
	if err := e.gatherControl("large", large); err != nil || e.buf != nil {
		t.Fatalf("a large event is not written, %v", err)
	}
	if err := e.flushGathered(); err != nil || !rec.Flushed {
		t.Errorf("a stream is not flushed, %v", err)
	}
}
