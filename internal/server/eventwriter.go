package server

import (
	"errors"
	"net/http"

	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/internal/wire"
)

// An eventWriter writes events while they are read, as one JSON object or as NDJSON. It
// writes many at a time.
type eventWriter struct {
	w      http.ResponseWriter
	form   wire.Form
	before string                                 // the start of the JSON object, up to its events
	line   func(ev *event.Event, b []byte) []byte // appends an event
	begun  bool                                   // something was written: too late for another response
	some   bool                                   // before was written
	count  int                                    // number of events
	buf    []byte
}

// writeEvents sends the events that read adds to out. If read fails after the response has
// begun, it aborts the connection, so that no client takes a part for the whole.
func (s *Server) writeEvents(r *http.Request, out *eventWriter, read func() error) *wire.Error {
	rec := recorderOf(out.w)
	defer rec.limitWrites(nil)()
	err := read()
	switch {
	case err == nil:
		out.endBody()
	case errors.Is(err, errWrite):
	case errors.Is(err, errUnauthorized):
		if !out.begun {
			return tokenProblem(out.w.Header(), rec.grant.Err())
		}
		panic(http.ErrAbortHandler)
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

// eventPiece is how many bytes are collected before they are written.
const eventPiece = 64 << 10

func (o *eventWriter) writeEvent(ev *event.Event) error {
	o.separate()
	o.count++
	o.buf = o.line(ev, o.buf)
	if o.form != wire.Page {
		o.buf = append(o.buf, '\n')
	}
	if len(o.buf) < eventPiece {
		return nil
	}
	if err := recorderOf(o.w).checkGrant(); err != nil {
		return err
	}
	return o.flushEvents()
}

// separate writes the text before an event in a JSON object.
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
	_ = o.flushEvents() // fails only if the client is gone
	recorderOf(o.w).delivered(o.count)
}
