package server

import (
	"errors"
	"net/http"

	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/internal/wire"
)

// snapshot answers with the state of a topic at a moment, as the events that made
// it: GET /snapshot. It is written as it is read, so its size does not matter.
func (s *Server) snapshot(w http.ResponseWriter, r *http.Request) *wire.Error {
	w.Header().Add("Vary", "Accept")
	form, ok := wire.Negotiate(r.Header.Values("Accept"))
	if !ok || form == wire.Stream {
		return wire.Errorf(http.StatusNotAcceptable, "want to be asked for %s or %s", wire.JSON, wire.NDJSON)
	}
	q, err := wire.ParseSnapshot(r.URL.RawQuery)
	if err != nil {
		return wire.Errorf(http.StatusBadRequest, "%v", err)
	}
	head := s.log.Head()
	at, problem := s.position(r, q.At, head)
	if problem != nil {
		return problem
	}
	horizon, err := s.log.Horizon(r.Context())
	if err != nil {
		return s.failure(r, err)
	}
	if at < horizon {
		return gone(at, horizon)
	}
	w.Header().Set(wire.HeaderHead, head.String()) // To is never beyond it
	out := snapshotWriter{w: w, form: form, at: at}
	if r.Method == http.MethodHead {
		out.begin()
		return nil
	}
	err = s.log.StateAfter(r.Context(), q.Topic, at, q.After, out.add)
	switch {
	case err == nil:
		out.end()
	case errors.Is(err, errWrite):
	case !out.begun:
		return s.readProblem(r, err)
	default:
		s.failure(r, err)
		panic(http.ErrAbortHandler) // nobody must take the part for the whole
	}
	return nil
}

// A snapshotWriter writes events as one JSON object or as NDJSON, many at a time.
type snapshotWriter struct {
	w     http.ResponseWriter
	form  wire.Form
	at    event.ID
	begun bool // something was written: it is too late for another answer
	some  bool // there was an event
	buf   []byte
}

func (o *snapshotWriter) begin() {
	o.begun = true
	h := o.w.Header()
	h.Set(wire.HeaderTo, o.at.String())
	h.Set("Cache-Control", "no-store")
	h.Set("Content-Type", wire.NDJSON)
	if o.form == wire.Page {
		h.Set("Content-Type", wire.JSON)
	}
}

// snapshotPiece is how much is gathered before it is written.
const snapshotPiece = 64 << 10

func (o *snapshotWriter) add(ev *event.Event) error {
	o.separate()
	o.buf = ev.AppendLine(o.buf)
	if o.form != wire.Page {
		o.buf = append(o.buf, '\n')
	}
	if len(o.buf) < snapshotPiece {
		return nil
	}
	return o.flush()
}

// separate writes what stands before an event of a JSON object.
func (o *snapshotWriter) separate() {
	switch {
	case o.form != wire.Page:
	case o.some:
		o.buf = append(o.buf, ',')
	default:
		o.buf = append(append(append(o.buf, `{"at":"`...), o.at.String()...), `","events":[`...)
	}
	o.some = true
}

func (o *snapshotWriter) flush() error {
	if !o.begun {
		o.begin()
	}
	_, err := o.w.Write(o.buf)
	o.buf = o.buf[:0]
	if err != nil {
		return errors.Join(errWrite, err)
	}
	return nil
}

func (o *snapshotWriter) end() {
	if !o.some {
		o.separate()
	}
	if o.form == wire.Page {
		o.buf = append(o.buf, "]}\n"...)
	}
	_ = o.flush() // the client may have gone
}
