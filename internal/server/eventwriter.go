package server

import (
	"errors"
	"net/http"

	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/internal/wire"
)

// An eventWriter writes events as one JSON object or as NDJSON, many at a time, as
// they are read.
type eventWriter struct {
	w      http.ResponseWriter
	form   wire.Form
	before string                                 // the beginning of the JSON object, up to its events
	line   func(ev *event.Event, b []byte) []byte // appends an event
	begun  bool                                   // something was written: it is too late for another answer
	some   bool                                   // there was an event
	count  int                                    // of events
	buf    []byte
}

// writeEvents answers with what read adds to out. If it cannot be read to its end, the
// connection is cut, so that nobody takes the part for the whole.
func (s *Server) writeEvents(r *http.Request, out *eventWriter, read func() error) *wire.Error {
	err := read()
	switch {
	case err == nil:
		out.endBody()
	case errors.Is(err, errWrite):
	case !out.begun:
		return s.readProblem(r, err)
	default:
		s.internalProblem(r, err)
		panic(http.ErrAbortHandler)
	}
	return nil
}

func (o *eventWriter) beginBody() {
	o.begun = true
	h := o.w.Header()
	h.Set("Cache-Control", "no-store")
	h.Set("Content-Type", wire.NDJSON)
	if o.form == wire.Page {
		h.Set("Content-Type", wire.JSON)
	}
}

// eventPiece is how much is gathered before it is written.
const eventPiece = 64 << 10

func (o *eventWriter) addEvent(ev *event.Event) error {
	o.separate()
	o.count++
	o.buf = o.line(ev, o.buf)
	if o.form != wire.Page {
		o.buf = append(o.buf, '\n')
	}
	if len(o.buf) < eventPiece {
		return nil
	}
	return o.flushEvents()
}

// separate writes what stands before an event of a JSON object.
func (o *eventWriter) separate() {
	switch {
	case o.form != wire.Page:
	case o.some:
		o.buf = append(o.buf, ',')
	default:
		o.buf = append(o.buf, o.before...)
	}
	o.some = true
}

func (o *eventWriter) flushEvents() error {
	if !o.begun {
		o.beginBody()
	}
	_, err := o.w.Write(o.buf)
	o.buf = o.buf[:0]
	if err != nil {
		return errors.Join(errWrite, err)
	}
	return nil
}

func (o *eventWriter) endBody() {
	if !o.some {
		o.separate()
	}
	if o.form == wire.Page {
		o.buf = append(o.buf, "]}\n"...)
	}
	if !o.begun {
		wire.SetEvents(o.w.Header(), o.count)
	}
	_ = o.flushEvents() // the client may have gone
	recorderOf(o.w).delivered(o.count)
}
