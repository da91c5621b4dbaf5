package doctor

import (
	"errors"
	"io"
	"net/http"
	"net/url"
	"time"
)

// Bounds of one answer.
const (
	maxBody  = 64 << 10 // bytes of a body that is no stream
	maxReads = 20_000   // reads that are kept
)

// A read is bytes that arrived together.
type read struct {
	At    time.Duration
	Bytes int
}

// An ending is why a transcript ends.
type ending int

const (
	enough  ending = iota // we had listened as long as we wanted
	full                  // more bytes than are read
	clean                 // the server ended it
	dropped               // the connection broke
)

// A Transcript is one request and all that came back. Durations are counted from the
// request.
type Transcript struct {
	Began     time.Time
	URL       *url.URL      // of the answer: that of the last redirect
	Hops      []string      // where it was redirected to
	Address   string        // of the connection; empty if there was none
	Connected time.Duration // when there was a connection
	Answered  time.Duration // when its head had come
	Err       error         // why there is no answer

	Proto    string
	Status   int
	Header   http.Header
	Chunked  bool
	Length   int64 // as the head says, -1 if it does not
	TLSUntil time.Time

	IsStream bool
	Body     []byte // how the body begins, if it is no stream
	Reads    []read
	Silence  time.Duration // the longest
	Last     time.Duration // when the last byte came, or the head
	Ended    time.Duration
	End      ending
	Cause    error // of a drop

	Text   Text
	Frames []Frame

	most int64 // bytes of a stream that are read
}

// since counts from the request.
func (t *Transcript) since() time.Duration { return time.Since(t.Began) }

// record reads a stream until it ends, stop says that it is enough, or ctx of the
// request is done. It returns what the scanner found.
func (t *Transcript) record(body io.Reader, done func() bool, stop func(*Transcript, []Frame) bool) {
	s := newScanner()
	buf := make([]byte, 32<<10)
	t.Last = t.Answered
	for empty := 0; ; {
		n, err := body.Read(buf)
		now := t.since()
		if n > 0 {
			empty = 0
			t.heard(now, n)
			s.write(buf[:n], now)
		} else if empty++; err == nil && empty > 100 {
			err = io.ErrNoProgress
		}
		if t.over(err, done) || s.text.Bytes > t.most || stop != nil && stop(t, s.frames) {
			break
		}
	}
	t.Ended = t.since()
	if t.End == enough && s.text.Bytes > t.most {
		t.End = full
	}
	t.Silence = max(t.Silence, t.Ended-t.Last)
	t.Text, t.Frames = s.end()
}

// heard keeps that n bytes came.
func (t *Transcript) heard(at time.Duration, n int) {
	t.Silence = max(t.Silence, at-t.Last)
	t.Last = at
	if len(t.Reads) < maxReads {
		t.Reads = append(t.Reads, read{at, n})
	}
}

// over sorts the error of a read.
func (t *Transcript) over(err error, done func() bool) bool {
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

// events returns the frames that clients dispatch.
func (t *Transcript) events() (evs []Frame) {
	for _, f := range t.Frames {
		if f.IsEvent() {
			evs = append(evs, f)
		}
	}
	return evs
}

// A burst is the frames that arrived together.
type burst struct {
	At     time.Duration // when it began
	Before time.Duration // the silence before it
	Frames []Frame
}

// A burst has no silence longer than together in it, and lasts no longer than wave: the
// frames of a busy stream follow each other for ever.
const (
	together = 50 * time.Millisecond
	wave     = 250 * time.Millisecond
)

// bursts returns the frames by when they arrived.
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
