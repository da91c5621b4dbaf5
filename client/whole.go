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

// A ShortenedError says that an answer of the server came without its end, although the
// connection was not cut: something in between has taken part of it away. Nothing of
// that answer is used.
type ShortenedError struct {
	URL  string
	Got  int // events of the answer
	Want int // events that the server says it has; -1 if only its end is missing
}

func (e *ShortenedError) Error() string {
	what := "the answer has no end"
	if e.Want >= 0 {
		what = fmt.Sprintf("the answer has %d of %d events", e.Got, e.Want)
	}
	return fmt.Sprintf("read %s: %s: something between here and the server shortened it", host(e.URL), what)
}

// maxShortened is how many shortened answers, without progress, each server may give before it is
// given up. What shortens an answer now and then is worth a retry; what shortens all of
// them would keep a client waiting for ever.
const maxShortened = 5

// readObject reads the JSON object of a short answer, and returns it as it came.
func readObject(base, path string, body io.Reader, answer any) ([]byte, error) {
	b, err := io.ReadAll(io.LimitReader(body, maxAnswer))
	if err != nil {
		return nil, dropped(base, err)
	}
	err = json.Unmarshal(b, answer)
	switch {
	case err == nil:
		return b, nil
	case len(b) < maxAnswer && endsEarly(b):
		return nil, &ShortenedError{public(base), 0, -1}
	}
	return nil, &ProtocolError{base, fmt.Sprintf("answered %s with what is not its form: %v", path, err)}
}

// endsEarly reports whether b is only the beginning of a JSON value, or nothing at all.
func endsEarly(b []byte) bool {
	var value json.RawMessage
	err := json.NewDecoder(bytes.NewReader(b)).Decode(&value)
	return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF)
}

// A lineSource gives the lines of an answer's events, and io.EOF after the last. It knows
// whether that was the end which the server gave the answer.
type lineSource interface{ Next() ([]byte, error) }

// eventsOf returns the events of an answer as they come. It is for answers whose end
// cannot be cut off unseen: lines that the server has counted, and JSON objects. Other
// lines give errUncounted.
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

// errUncounted means that lines may have been cut off where nobody could see it.
var errUncounted = errors.New("the answer does not say how many events it has")

// countedLines are lines of which the header says how many there are.
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
		return nil, &ShortenedError{public(l.base), l.got, l.want} // in the middle of a line
	case err == nil:
		l.got++
		return line, nil
	case errors.Is(err, wire.ErrLineTooLong):
		return nil, badLine(l.base, err)
	case l.got == l.want: // if anything was cut off, it is only the end of the connection
		return nil, io.EOF
	case errors.Is(err, io.EOF):
		return nil, &ShortenedError{public(l.base), l.got, l.want}
	}
	return nil, dropped(l.base, err)
}

// objectLines are the lines in the member "events" of a JSON object, which is read as it
// comes. Its closing brackets are its end.
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

// Next returns the next event. It reads no more at a time than the longest line and
// what a decoder reads ahead.
func (o *objectLines) Next() ([]byte, error) {
	for {
		o.body.left = wire.MaxLine + readAhead
		line, err := o.next()
		switch {
		case errors.Is(err, errObjectEnd):
			return nil, io.EOF
		case err != nil:
			return nil, o.failure(err)
		case line != nil:
			return line, nil
		}
	}
}

// readAhead is more than a decoder reads of what follows a value.
const readAhead = 64 << 10

var (
	errObjectEnd  = errors.New("the object has ended")
	errObjectForm = errors.New("it is not an object with a list of events")
)

// next reads one step: a member that is no event gives nothing.
func (o *objectLines) next() (line json.RawMessage, err error) {
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
		return nil, o.end()
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

// end looks whether anything follows the object.
func (o *objectLines) end() error {
	_, err := o.dec.Token()
	switch {
	case errors.Is(err, io.EOF):
		return errObjectEnd
	case err == nil:
		return errObjectForm
	}
	return err
}

// failure tells an answer that was shortened from one that was cut and one that is none.
func (o *objectLines) failure(err error) error {
	var syntax *json.SyntaxError
	switch {
	case o.body.ended && (errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF)):
		return &ShortenedError{public(o.base), 0, -1}
	case errors.As(err, &syntax), errors.Is(err, errObjectForm):
		return &ProtocolError{o.base, fmt.Sprintf("answered with what is not a list of events: %v", err)}
	}
	return badLine(o.base, err)
}

// A boundedBody gives no more bytes than it is told to, and notes its end.
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
