package server

import (
	"errors"
	"io"
	"net/http"
	"os"
	"time"

	"github.com/rstream-dev/rstream/internal/wire"
)

// maxHolding is how many bytes of bodies are held at a time, beside the first freeBody
// of each: small appends are never sent away because large ones are under way. They are
// variables for the tests.
var (
	maxHolding int64 = 2 * wire.MaxBatch
	freeBody   int64 = 64 << 10
)

// errHolding means that a body would be one too many.
var errHolding = errors.New("too much is being sent at once")

// openBody returns the body of r, of most bytes at most.
func openBody(w http.ResponseWriter, r *http.Request, most int64) (io.Reader, *wire.Error) {
	if coding := r.Header.Get("Content-Encoding"); coding != "" && coding != "identity" {
		return nil, wire.Errorf(http.StatusUnsupportedMediaType, "content-encoding %.40q is not known; send the body as it is", coding)
	}
	if r.ContentLength > most { // before a client that waits for 100 Continue sends it
		return nil, bodyError(&http.MaxBytesError{Limit: most})
	}
	rec := recorderOf(w)
	if r.ContentLength > freeBody && rec.s.holding.Load()+r.ContentLength-freeBody > maxHolding {
		return nil, bodyError(errHolding)
	}
	// net/http's own writer learns of a body that is too large and closes the connection.
	return &heldBody{http.MaxBytesReader(rec.ResponseWriter, r.Body, most), rec, -freeBody}, nil
}

// A heldBody counts what is read of a body as held, until the answer begins: nobody could
// say when a client will have read that. One that goes over the limit fails, so that the
// others come to an end.
type heldBody struct {
	io.Reader
	rec  *recorder
	read int64 // beyond what is free
}

func (b *heldBody) Read(p []byte) (n int, err error) {
	n, err = b.Reader.Read(p)
	before := max(b.read, 0)
	b.read += int64(n)
	more := max(b.read, 0) - before
	b.rec.held += more
	if more > 0 && b.rec.s.holding.Add(more) > maxHolding {
		return 0, errHolding
	}
	return n, err
}

func readBody(w http.ResponseWriter, r *http.Request, most int64) ([]byte, *wire.Error) {
	body, problem := openBody(w, r, most)
	if problem != nil {
		return nil, problem
	}
	b, err := io.ReadAll(body)
	if err != nil {
		return nil, bodyError(err)
	}
	return b, nil
}

func bodyError(err error) *wire.Error {
	var large *http.MaxBytesError
	switch {
	case errors.As(err, &large):
		return wire.Errorf(http.StatusRequestEntityTooLarge, "body: is over %d bytes long", large.Limit)
	case errors.Is(err, os.ErrDeadlineExceeded):
		return wire.Errorf(http.StatusRequestTimeout, "body: did not arrive in time")
	case errors.Is(err, errHolding):
		e := wire.Errorf(http.StatusTooManyRequests, "body: %v; nothing was done, send it again", err)
		e.RetryAfter = time.Second
		return e
	}
	return wire.Errorf(http.StatusBadRequest, "body: %v", err)
}
