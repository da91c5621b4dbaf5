package server

import (
	"errors"
	"io"
	"net/http"
	"os"
	"time"

	"github.com/rstream-dev/rstream/internal/wire"
)

// maxHolding is how many bytes of request bodies are in memory at a time, not counting the
// first freeBody bytes of each, so that large appends never cause small ones to be refused.
// They are variables for the tests.
var (
	maxHolding int64 = 2 * wire.MaxBatch
	freeBody   int64 = 64 << 10
)

// errHolding reports that a body exceeds maxHolding.
var errHolding = errors.New("too many large requests at once")

// openBody returns the body of r, which may have at most most bytes.
func openBody(w http.ResponseWriter, r *http.Request, most int64) (io.Reader, *wire.Error) {
	if coding := r.Header.Get("Content-Encoding"); coding != "" && coding != "identity" {
		return nil, wire.Errorf(http.StatusUnsupportedMediaType, "Content-Encoding %.40q is not supported; send the body unencoded", coding)
	}
	if r.ContentLength > most { // before a client sends it that waits for 100 Continue
		return nil, bodyError(&http.MaxBytesError{Limit: most})
	}
	rec := recorderOf(w)
	if r.ContentLength > freeBody && rec.s.holding.Load()+r.ContentLength-freeBody > maxHolding {
		return nil, bodyError(errHolding)
	}
	// net/http's own writer must see a body that is too large, to close the connection.
	return &heldBody{http.MaxBytesReader(rec.ResponseWriter, r.Body, most), rec, -freeBody}, nil
}

// A heldBody counts the bytes read of a body as held until the response begins, since a
// client may take any time to read that. A body that exceeds the limit fails, so that
// the others can finish.
type heldBody struct {
	io.Reader
	rec  *recorder
	read int64 // bytes beyond freeBody
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
		return wire.Errorf(http.StatusRequestEntityTooLarge, "body is longer than %d bytes", large.Limit)
	case errors.Is(err, os.ErrDeadlineExceeded):
		return wire.Errorf(http.StatusRequestTimeout, "body did not arrive in time")
	case errors.Is(err, errHolding):
		e := wire.Errorf(http.StatusTooManyRequests, "body: %v; the request had no effect, send it again", err)
		e.RetryAfter = time.Second
		return e
	}
	return wire.Errorf(http.StatusBadRequest, "body: %v", err)
}
