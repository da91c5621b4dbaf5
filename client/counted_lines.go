package client

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"

	"github.com/rstream-dev/rstream/internal/wire"
)

// A ShortenedError reports a response that came without its end, although the connection
// was not cut: something between the client and the server has removed a part. No event
// of the response is used.
type ShortenedError struct {
	URL  string
	Got  int // events received
	Want int // events that the server announced; -1 if it announces no number
}

func (e *ShortenedError) Error() string {
	what := "the answer has no end"
	if e.Want >= 0 {
		what = fmt.Sprintf("the answer has %d of %d events", e.Got, e.Want)
	}
	return fmt.Sprintf("read %s: %s: something between here and the server shortened it", hostOf(e.URL), what)
}

// maxShortened is how many shortened responses, without progress, each server may send
// before the client gives up. A proxy that shortens a response now and then is worth a
// retry; one that shortens all of them would keep a client waiting forever.
const maxShortened = 5

// readObject decodes a short response, a JSON object, into answer, which must be new: what the
// response lacks is left as it is. It also returns the body.
func readObject(base, path string, body io.Reader, answer any) ([]byte, error) {
	b, err := io.ReadAll(io.LimitReader(body, maxAnswer))
	if err != nil {
		return nil, droppedError(base, err)
	}
	err = json.Unmarshal(b, answer)
	switch {
	case err == nil:
		return b, nil
	case len(b) < maxAnswer && endsEarly(b):
		return nil, &ShortenedError{publicURL(base), 0, -1}
	}
	return nil, &ProtocolError{base, fmt.Sprintf("sent an invalid response to %s: %v", path, err)}
}

// endsEarly reports whether b is only the beginning of a JSON value, or empty.
func endsEarly(b []byte) bool {
	var value json.RawMessage
	err := json.NewDecoder(bytes.NewReader(b)).Decode(&value)
	return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF)
}

// A lineSource returns the lines of the events of a response, and io.EOF after the last.
// It returns another error if the response ends before the end that the server gave it.
type lineSource interface{ Next() ([]byte, error) }

// eventsOf returns the events of a response as they arrive. It accepts only responses
// whose end cannot be cut off unnoticed: JSON objects, and lines that the server has
// counted. For other lines it returns errUncounted.
func eventsOf(base string, resp *http.Response, accept string) (lineSource, error) {
	if accept == wire.JSON {
		return newObjectLines(base, resp.Body), nil
	}
	count, told, err := wire.EventsIn(resp.Header)
	switch {
	case err != nil:
		return nil, &ProtocolError{base, err.Error()}
	case !told:
		return nil, errUncounted
	}
	return &countedLines{base: base, lines: wire.NewLineReader(resp.Body, wire.MaxLine), want: count}, nil
}

// errUncounted reports that lines may have been cut off unnoticed.
var errUncounted = errors.New("the answer does not say how many events it has")

// countedLines are lines whose number the response header announces.
type countedLines struct {
	base      string
	lines     *wire.LineReader
	got, want int
}

func (l *countedLines) Next() ([]byte, error) {
	line, err := l.lines.Next()
	switch {
	case err == nil && l.got == l.want:
		return nil, &ProtocolError{l.base, fmt.Sprintf("sent more than the %d events that it announced", l.want)}
	case err == nil && l.lines.Open() && (l.got+1 < l.want || !json.Valid(line)):
		return nil, &ShortenedError{publicURL(l.base), l.got, l.want} // in the middle of a line
	case err == nil:
		l.got++
		return line, nil
	case errors.Is(err, wire.ErrLineTooLong):
		return nil, badLine(l.base, err)
	case l.got == l.want: // all events are here, even if the connection was cut
		return nil, io.EOF
	case errors.Is(err, io.EOF):
		return nil, &ShortenedError{publicURL(l.base), l.got, l.want}
	}
	return nil, droppedError(l.base, err)
}

// objectLines are the lines in the member "events" of a JSON object, which is read as it
// arrives. Its closing brackets are the end of the response.
type objectLines struct {
	base   string
	body   *boundedBody
	dec    *json.Decoder
	inside bool // the list of events
	after  bool
}

func newObjectLines(base string, body io.Reader) *objectLines {
	b := &boundedBody{r: body}
	return &objectLines{base: base, body: b, dec: json.NewDecoder(b)}
}

// Next returns the next event. It reads at most the longest line and readAhead at a time.
func (o *objectLines) Next() ([]byte, error) {
	for {
		o.body.left = wire.MaxLine + readAhead
		line, err := o.nextStep()
		switch {
		case errors.Is(err, errObjectEnd):
			return nil, io.EOF
		case err != nil:
			return nil, o.shortenedError(err)
		case line != nil:
			return line, nil
		}
	}
}

// readAhead is more bytes than a decoder reads after the end of a value.
const readAhead = 64 << 10

var (
	errObjectEnd  = errors.New("the object has ended")
	errObjectForm = errors.New("not an object with a list of events")
)

// nextStep reads one step. It returns a nil line for anything but an event.
func (o *objectLines) nextStep() (line json.RawMessage, err error) {
	if o.inside && o.dec.More() {
		err = o.dec.Decode(&line)
		return line, err
	}
	token, err := o.dec.Token()
	if err != nil {
		return nil, err
	}
	switch {
	case o.inside: // there are no more
		o.inside, o.after = false, true
		return nil, nil
	case token == json.Delim('{'):
		return nil, nil
	case token == json.Delim('}') && o.after:
		return nil, o.checkObjectEnd()
	case token == "events":
		if token, err = o.dec.Token(); err == nil && (o.after || token != json.Delim('[')) {
			err = errObjectForm
		}
		o.inside = true
		return nil, err
	}
	if _, isName := token.(string); !isName {
		return nil, errObjectForm
	}
	var other json.RawMessage
	return nil, o.dec.Decode(&other)
}

// checkObjectEnd returns errObjectEnd if nothing follows the object.
func (o *objectLines) checkObjectEnd() error {
	_, err := o.dec.Token()
	switch {
	case errors.Is(err, io.EOF):
		return errObjectEnd
	case err == nil:
		return errObjectForm
	}
	return err
}

// shortenedError returns the error for a response that was shortened, was cut or is invalid.
func (o *objectLines) shortenedError(err error) error {
	var syntax *json.SyntaxError
	switch {
	case o.body.ended && (errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF)):
		return &ShortenedError{publicURL(o.base), 0, -1}
	case errors.As(err, &syntax), errors.Is(err, errObjectForm):
		return &ProtocolError{o.base, fmt.Sprintf("sent an invalid list of events: %v", err)}
	}
	return badLine(o.base, err)
}

// A boundedBody returns at most left bytes, and records that the body has ended.
type boundedBody struct {
	r     io.Reader
	left  int
	ended bool
}

func (b *boundedBody) Read(p []byte) (int, error) {
	if b.left == 0 {
		return 0, fmt.Errorf("%w: over %d bytes", wire.ErrLineTooLong, wire.MaxLine)
	}
	n, err := b.r.Read(p[:min(len(p), b.left)])
	b.left -= n
	b.ended = b.ended || errors.Is(err, io.EOF)
	return n, err
}
