package bench

import (
	"fmt"
	"io"
	"net/http"
	"strconv"
)

// What the handlers of Nothing are, in results.
const (
	doNothing   = "do-nothing handler"
	memoryToSSE = "memory to SSE"
	shellLoop   = "shell loop"
)

// Nothing returns a handler that does as little as possible: it answers each POST with
// a line, and GET /?events=N streams events from memory. Events posted below /broadcast
// go to every reader of /broadcast/events.
func Nothing() http.Handler {
	line := Input{User: "bench", Run: "limit"}.Events(1)[0].Line()
	mux := http.NewServeMux()
	mux.HandleFunc("POST /", func(w http.ResponseWriter, r *http.Request) {
		if _, err := io.Copy(io.Discard, r.Body); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		w.WriteHeader(http.StatusCreated)
		_, _ = w.Write(line) // the client may have disconnected
	})
	mux.HandleFunc("GET /", streamNothing)
	b := &broadcaster{subs: make(map[*outgoing]struct{})}
	mux.HandleFunc("POST /broadcast/{path...}", b.handlePost)
	mux.HandleFunc("GET /broadcast/events", b.handleStream)
	return mux
}

func streamNothing(w http.ResponseWriter, r *http.Request) {
	n, err := strconv.Atoi(r.FormValue("events"))
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	frames := streamOf(1000)
	w.Header().Set("Content-Type", "text/event-stream")
	for ; n >= 1000; n -= 1000 {
		if _, err := w.Write(frames); err != nil {
			return
		}
	}
	_, _ = w.Write(streamOf(n)) // the client may have disconnected
}

// streamOf returns the first n events of an input as an event stream.
func streamOf(n int) (frames []byte) {
	for _, ev := range (Input{User: "bench", Run: "limit"}).Events(n) {
		frames = fmt.Appendf(frames, "id: %s.00000\nevent: PUT\ndata: %s\n\n", ev.ID, ev.Line())
	}
	return frames
}
