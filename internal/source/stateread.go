package source

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"github.com/rstream-dev/rstream/internal/wire"
)

// A stateReader reads the events of a state, the member "events" of an object, as they
// arrive. That the object ends shows that none is missing.
type stateReader struct {
	body   *cappedBody
	dec    *json.Decoder
	inside bool // the list of events
}

func newStateReader(body io.Reader) *stateReader {
	b := &cappedBody{r: body}
	return &stateReader{body: b, dec: json.NewDecoder(b)}
}

// errStateForm means that an answer is no state, or has an event that is too large.
var errStateForm = errors.New("not an object with a list of events")

// decoderAhead is more bytes than a decoder reads after the end of a value.
const decoderAhead = 64 << 10

// next returns the line of the next event, and io.EOF after the last one.
func (r *stateReader) next() (line json.RawMessage, err error) {
	for {
		r.body.left = wire.MaxLine + decoderAhead
		if r.inside && r.dec.More() {
			return line, r.nameEnd(r.dec.Decode(&line))
		}
		token, err := r.dec.Token()
		switch {
		case err != nil:
			return nil, r.nameEnd(err)
		case r.inside: // the end of the list
			if token, err = r.dec.Token(); err != nil || token != json.Delim('}') {
				return nil, r.nameEnd(errors.Join(errStateForm, err))
			}
			return nil, io.EOF
		case token == json.Delim('{'):
			continue
		case token == "events":
			if token, err = r.dec.Token(); err != nil || token != json.Delim('[') {
				return nil, r.nameEnd(errors.Join(errStateForm, err))
			}
			r.inside = true
		default:
			var other json.RawMessage
			if _, isName := token.(string); !isName {
				return nil, errStateForm
			}
			if err := r.dec.Decode(&other); err != nil {
				return nil, r.nameEnd(errors.Join(errStateForm, err))
			}
		}
	}
}

// nameEnd distinguishes an answer that was cut off from one that is wrong.
func (r *stateReader) nameEnd(err error) error {
	var syntax *json.SyntaxError
	switch {
	case err == nil:
		return nil
	case r.body.err != nil && !errors.Is(r.body.err, io.EOF):
		return r.body.err
	case errors.As(err, &syntax):
		return errStateForm
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return io.ErrUnexpectedEOF
	}
	return err
}

// A cappedBody returns at most left bytes, and keeps the error that ended it.
type cappedBody struct {
	r    io.Reader
	left int
	err  error
}

func (b *cappedBody) Read(p []byte) (int, error) {
	if b.left == 0 {
		return 0, fmt.Errorf("%w: over %d bytes", errStateForm, wire.MaxLine)
	}
	n, err := b.r.Read(p[:min(len(p), b.left)])
	b.left -= n
	if err != nil {
		b.err = err
	}
	return n, err
}
