package doctor

import (
	"errors"
	"io"
	"net/http"
	"net/url"
	"time"
)

// Bounds on one response.
const (
	maxBody  = 64 << 10 // bytes of a body that is not a stream
	maxReads = 20_000   // reads that are kept
)

// A read records bytes that arrived together.
type read struct {
	At    time.Duration
	Bytes int
}

// An ending is the reason why a transcript ends.
type ending int

const (
	enough  ending = iota // doctor stopped listening
	full                  // the limit of bytes was reached
	clean                 // the server ended the stream
	dropped               // the connection broke
)

// A Transcript records one request and its response. Durations are relative to the start
// of the request.
type Transcript struct {
	Began     time.Time
	URL       *url.URL      // after redirects
	Hops      []string      // the redirects
	Address   string        // of the connection to the host of URL; empty if there was none
	Connected time.Duration // when that connection was made
	Answered  time.Duration // when the response head came
	Err       error         // why there is no response

	Proto    string
	Status   int
	Header   http.Header
	Chunked  bool
	Length   int64 // of the body as declared in the head, or -1
	TLSUntil time.Time

	IsStream bool
	Body     []byte // the first bytes of the body, if it is not a stream
	Reads    []read
	Silence  time.Duration // the longest one
	Last     time.Duration // when the last byte came, or else the head
	Ended    time.Duration
	End      ending
	Cause    error // why the connection broke

	Text   Text
	Frames []Frame

	most int64 // bytes of a stream to read
}

// elapsed returns the time since the start of the request.
func (t *Transcript) elapsed() time.Duration { return time.Since(t.Began) }

// record reads a stream until it ends, stop returns true, or the request is done.
func (t *Transcript) record(body io.Reader, done func() bool, stop func(*Transcript, []Frame) bool) {
	s := newScanner()
	buf := make([]byte, 32<<10)
	t.Last = t.Answered
	for empty := 0; ; {
		n, err := body.Read(buf)
		now := t.elapsed()
		if n > 0 {
			empty = 0
			t.heard(now, n)
			s.scanBytes(buf[:n], now)
		} else if empty++; err == nil && empty > 100 {
			err = io.ErrNoProgress
		}
		if t.endsStream(err, done) || s.text.Bytes > t.most || stop != nil && stop(t, s.frames) {
			break
		}
	}
	t.Ended = t.elapsed()
	if t.End == enough && s.text.Bytes > t.most {
		t.End = full
	}
	t.Silence = max(t.Silence, t.Ended-t.Last)
	t.Text, t.Frames = s.finishScan()
}

// heard records that n bytes arrived.
func (t *Transcript) heard(at time.Duration, n int) {
	t.Silence = max(t.Silence, at-t.Last)
	t.Last = at
	if len(t.Reads) < maxReads {
		t.Reads = append(t.Reads, read{at, n})
	}
}

// endsStream reports whether the error of a read ends the stream, and records why.
func (t *Transcript) endsStream(err error, done func() bool) bool {
	switch {
	case err == nil:
		return false
	case done():
		t.End = enough
	case errors.Is(err, io.EOF):
		t.End = clean
	default:
		t.End, t.Cause = dropped, err
	}
	return true
}

// dispatched returns the frames that clients dispatch.
func (t *Transcript) dispatched() (evs []Frame) {
	for _, f := range t.Frames {
		if f.IsEvent() {
			evs = append(evs, f)
		}
	}
	return evs
}

// A burst is a group of frames that arrived together.
type burst struct {
	At     time.Duration // when it began
	Before time.Duration // the silence before it
	Frames []Frame
}

// A burst contains no silence longer than together. It lasts at most wave, because the
// frames of a busy stream never pause.
const (
	together = 50 * time.Millisecond
	wave     = 250 * time.Millisecond
)

// bursts groups the frames by their time of arrival.
func (t *Transcript) bursts() (all []burst) {
	last := t.Answered
	for _, f := range t.Frames {
		if len(all) == 0 || f.At-last > together || f.At-all[len(all)-1].At > wave {
			all = append(all, burst{At: f.At, Before: f.At - last})
		}
		b := &all[len(all)-1]
		b.Frames = append(b.Frames, f)
		last = f.At
	}
	return all
}
