package server

import (
	"io"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rstream-dev/rstream/internal/wire"
)

// TestRoomAway: a reader that has the room of another server gets no empty room while that is away,
// as long as it may return.
func TestRoomAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := newLog()
		log.put(t, "a", "p", 1)
		s, stop := serve(t, log, Config{Heartbeat: time.Hour})
		defer stop()
		const elsewhere = "0000000000001.ZZZZZ"
		ends := func(topic, id string, want bool) {
			t.Helper()
			fs, closer := s.stream(wire.PathRoom+topic, "Last-Event-ID", id)
			defer closer.Close()
			f, err := fs.nextBefore(time.Now().Add(time.Minute))
			if got := err == io.EOF; got != want || err == nil && f.event != wire.StateEvent {
				t.Errorf("the room %s after %s: %q, %v; want an end: %t", topic, id, f, err, want)
			}
		}
		ends("b", elsewhere, true)
		ends("a", elsewhere, false)
		ends("b", "letmein", false)
		// After a while, a server without nodes knows that the cursor is of an older log.
		time.Sleep(nodesReturn + time.Second)
		ends("b", elsewhere, false)
		_, looks := s.stream(wire.PathLooks + "?node=n")
		ends("b", elsewhere, true)
		looks.Close()
		ends("b", elsewhere, true)
	})
}
