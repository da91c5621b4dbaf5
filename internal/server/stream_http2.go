package server

import (
	"net/http"
	"sync/atomic"
	"time"
)

// A patientStream is the response to an HTTP/2 request. Its write timeout restarts with each
// piece that the reader has room for. One connection carries many responses, so the timeout
// of the connection, see Patient, does not notice one that stalls.
type patientStream struct {
	http.ResponseWriter
	rc       *http.ResponseController
	patience time.Duration
	last     atomic.Int64 // Unix nanoseconds after which nothing is written, 0 for no such time
	limited  atomic.Bool  // a write timeout was set
}

// patientWriter returns w with a write timeout for each piece, if r came over HTTP/2.
func (s *Server) patientWriter(w http.ResponseWriter, r *http.Request) http.ResponseWriter {
	if r.ProtoMajor < 2 {
		return w
	}
	return &patientStream{ResponseWriter: w, rc: http.NewResponseController(w), patience: s.cfg.WriteTimeout}
}

// streamPiece is how many bytes are written within one write timeout.
const streamPiece = 4 << 10

func (p *patientStream) Write(b []byte) (n int, err error) {
	for {
		if err := p.extend(); err != nil {
			return n, err
		}
		k, err := p.ResponseWriter.Write(b[n:min(n+streamPiece, len(b))])
		if n += k; err != nil {
			return n, err
		}
		if n == len(b) {
			return n, p.relax()
		}
	}
}

// FlushError implements the interface of http.ResponseController.
func (p *patientStream) FlushError() error {
	if err := p.extend(); err != nil {
		return err
	}
	if err := p.rc.Flush(); err != nil {
		return err
	}
	return p.relax()
}

// end restarts the write timeout for what net/http has not sent yet, even of a response that is aborted.
// If the client has reset the stream before a timeout was set, net/http has made one since, which
// would keep the whole connection in memory for as long as it runs: end removes it.
func (p *patientStream) end(r *http.Request) {
	switch {
	case !p.limited.Load():
	case r.Context().Err() != nil:
		_ = p.rc.SetWriteDeadline(time.Time{}) // an error only means that the response has ended
	default:
		_ = p.extend() // a stream that is reset just now is kept no longer than that
	}
}

// extend restarts the write timeout.
func (p *patientStream) extend() error { return p.setDeadline(time.Now().Add(p.patience)) }

// relax moves the write timeout far away. Over HTTP/2 it ends a response even if nothing waits to be sent.
// It is not removed: net/http stops the timeout of a response that has ended, but would make another
// one if it had none, and reset a stream that is long gone.
func (p *patientStream) relax() error { return p.setDeadline(time.Now().Add(farExpiry)) }

// setDeadline sets a write deadline, or that of SetWriteDeadline if that is earlier.
func (p *patientStream) setDeadline(t time.Time) error {
	p.limited.Store(true)
	for {
		deadline, last := t, p.last.Load()
		if last != 0 && last < t.UnixNano() {
			deadline = time.Unix(0, last)
		}
		if err := p.rc.SetWriteDeadline(deadline); err != nil || p.last.Load() == last {
			return err
		} // else it was set meanwhile, and the deadline with it
	}
}

// SetWriteDeadline sets a time after which nothing is written, however fast the reader is.
func (p *patientStream) SetWriteDeadline(t time.Time) error {
	if t.IsZero() {
		p.last.Store(0)
		return p.relax()
	}
	p.limited.Store(true)
	p.last.Store(t.UnixNano())
	return p.rc.SetWriteDeadline(t)
}

// Unwrap implements the interface of http.ResponseController.
func (p *patientStream) Unwrap() http.ResponseWriter { return p.ResponseWriter }
