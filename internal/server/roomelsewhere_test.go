package server

import (
	"io"
	"net/http"
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

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// TestRoomHung: the room of a server that is stopped ends, so that its reader asks again.
func TestRoomHung(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		transport := roundTripper(func(r *http.Request) (*http.Response, error) {
			body, stopped := io.Pipe()
			go func() {
				for range 10 {
					_, _ = stopped.Write(wire.AppendPreamble(nil, time.Second))
					time.Sleep(15 * time.Second)
				}
			}()
			return &http.Response{StatusCode: http.StatusOK, Header: http.Header{"Content-Type": {wire.SSE}, wire.HeaderLog: {logName}}, Body: body, Request: r}, nil
		})
		s, stop := serve(t, newLog(), Config{Peers: []Peer{{URL: "http://peer", HTTP: &http.Client{Transport: transport}}}})
		defer stop()
		began := time.Now()
		fs, closer := s.stream(wire.PathRoom + "a")
		defer closer.Close()
		for err := error(nil); err == nil; {
			_, err = fs.next()
		}
		if got := time.Since(began); got != 9*15*time.Second+relaySilence {
			t.Errorf("the room ended after %s", got)
		}
	})
}
