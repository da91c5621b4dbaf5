package doctor

import (
	"bytes"
	"crypto/sha256"
	"hash"
	"strconv"
	"time"
	"unicode/utf8"
)

// Bounds on the parts of a stream that are kept, whatever it sends.
const (
	maxLine   = 2 << 20 // bytes of a line that are parsed
	maxFrames = 5000    // frames that are kept; later ones are only counted
	maxHead   = 4 << 10 // bytes of an event's data that are kept
	maxID     = 4 << 10 // bytes of an id that are kept
	maxName   = 64      // bytes of other texts that are kept
)

// A Frame is a block of lines that a blank line ended, or a single comment or retry line,
// which need no blank line. Times are relative to the request.
type Frame struct {
	Start, At time.Duration // arrival of its first byte and of its blank line
	Pause     time.Duration // the longest silence within it
	ID        string        // its own id; HasID distinguishes an empty id from none
	HasID     bool
	Event     string
	Comment   string   // the last comment line
	Lines     int      // lines of data
	Size      int      // bytes of data
	Head      string   // the first bytes of the data
	Sum       [32]byte // SHA-256 of the data
	Retry     bool
}

// IsEvent reports whether clients dispatch the frame as an event.
func (f *Frame) IsEvent() bool { return f.Lines > 0 }

// A place counts lines with one property and remembers the first.
type place struct {
	Count int
	Line  int    // number of the first line, from 1
	Text  string // the first bytes of that line
}

func (p *place) addPlace(line int, text []byte) {
	if p.Count++; p.Count == 1 {
		p.Line = line
		p.Text = string(text[:min(len(text), maxName)])
	}
}

// A Text holds the facts about the bytes of a stream, without its frames.
type Text struct {
	Bytes      int64
	Lines      int
	Frames     int // all frames, including those that were not kept
	LF, CR     int // line ends of one character
	CRLF       int
	BOM        bool  // at the beginning, where it is allowed
	LateBOM    place // anywhere else
	BadUTF8    place
	NULs       place // ids that contain NUL, which clients ignore
	EmptyIDs   place
	LongIDs    place
	Unknown    place // fields that clients ignore
	Lookalike  place // misspelled fields
	Nameless   place // frames with an event name but no data
	BadRetry   place
	Retries    []time.Duration // the first few
	LongLine   int             // bytes of the longest line
	TooLong    bool            // a line was longer than maxLine
	Unfinished *Frame          // the last frame if no blank line ended it, or nil
}

// A scanner splits the bytes of a stream into frames. Its memory is bounded.
type scanner struct {
	text   Text
	frames []Frame

	line    []byte // the current line, up to maxLine bytes
	length  int    // the line's full length
	cr      bool   // the last byte was a CR
	begun   bool   // the first line was read
	frame   Frame
	open    bool // frame has a byte
	fields  bool // frame has a complete line
	sum     hash.Hash
	head    []byte        // of the frame's data
	arrived time.Duration // when the last bytes arrived
}

func newScanner() *scanner { return &scanner{sum: sha256.New()} }

// scanBytes scans bytes that arrived together.
func (s *scanner) scanBytes(b []byte, at time.Duration) {
	if len(b) == 0 {
		return
	}
	s.text.Bytes += int64(len(b))
	if s.inFrame() {
		s.frame.Pause = max(s.frame.Pause, at-s.arrived)
	}
	s.arrived = at
	if s.cr && b[0] == '\n' {
		s.text.CR--
		s.text.CRLF++
		b = b[1:]
	}
	s.cr = false
	for len(b) > 0 {
		i := bytes.IndexAny(b, "\r\n")
		if i < 0 {
			s.growLine(b)
			return
		}
		s.growLine(b[:i])
		b = s.scanLineEnd(b[i:])
		s.endLine()
	}
}

// inFrame reports whether a frame has begun but not ended.
func (s *scanner) inFrame() bool { return s.fields || s.length > 0 }

// scanLineEnd counts the line end at the start of b and returns the rest of b.
func (s *scanner) scanLineEnd(b []byte) []byte {
	switch {
	case b[0] == '\n':
		s.text.LF++
	case len(b) > 1 && b[1] == '\n':
		s.text.CRLF++
		return b[2:]
	default:
		s.text.CR++
		s.cr = len(b) == 1
	}
	return b[1:]
}

// growLine appends a part to the current line.
func (s *scanner) growLine(part []byte) {
	if len(part) == 0 {
		return
	}
	if !s.open {
		s.open, s.frame.Start = true, s.arrived
	}
	s.length += len(part)
	s.text.LongLine = max(s.text.LongLine, s.length)
	s.line = append(s.line, part[:min(len(part), maxLine-len(s.line))]...)
	s.text.TooLong = s.text.TooLong || s.length > maxLine
}

var byteOrderMark = []byte("\xef\xbb\xbf")

// endLine parses the current line.
func (s *scanner) endLine() {
	line, cut := s.line, s.length > len(s.line)
	s.line, s.length = s.line[:0], 0
	s.text.Lines++
	if !s.begun {
		s.begun = true
		line, s.text.BOM = bytes.CutPrefix(line, byteOrderMark)
	}
	if len(line) == 0 {
		s.endFrame()
		return
	}
	if !cut && !utf8.Valid(line) {
		s.text.BadUTF8.addPlace(s.text.Lines, line)
	}
	if bytes.HasPrefix(line, byteOrderMark) {
		s.fields = true
		s.text.LateBOM.addPlace(s.text.Lines, line)
		return
	}
	if line[0] == ':' {
		s.readComment(line)
		return
	}
	name, value, _ := bytes.Cut(line, []byte(":"))
	value = bytes.TrimPrefix(value, []byte(" "))
	s.readField(line, string(name[:min(len(name), maxName)]), value)
}

func (s *scanner) readComment(line []byte) {
	s.frame.Comment = string(line[:min(len(line), maxName)])
	if !s.fields {
		s.endFrame()
	}
}

func (s *scanner) readField(line []byte, name string, value []byte) {
	if name == "retry" {
		s.readRetry(line, value)
		return
	}
	s.fields = true
	switch name {
	case "data":
		s.addData(value)
	case "event":
		s.frame.Event = string(value[:min(len(value), maxName)])
	case "id":
		s.setID(line, value)
	default:
		if isLookalike(name) {
			s.text.Lookalike.addPlace(s.text.Lines, line)
		} else {
			s.text.Unknown.addPlace(s.text.Lines, line)
		}
	}
}

// isLookalike reports whether name is a known field except for case and spaces.
func isLookalike(name string) bool {
	switch string(bytes.ToLower(bytes.TrimSpace([]byte(name)))) {
	case "data", "event", "id", "retry":
		return true
	}
	return false
}

func (s *scanner) addData(value []byte) {
	f := &s.frame
	if f.Lines > 0 {
		s.sum.Write([]byte("\n"))
		f.Size++
	}
	s.sum.Write(value)
	s.head = append(s.head, value[:min(len(value), maxHead-len(s.head))]...)
	f.Lines++
	f.Size += len(value)
}

func (s *scanner) setID(line, value []byte) {
	switch {
	case bytes.IndexByte(value, 0) >= 0:
		s.text.NULs.addPlace(s.text.Lines, line)
	case len(value) > maxID:
		s.text.LongIDs.addPlace(s.text.Lines, line)
	default:
		if len(value) == 0 {
			s.text.EmptyIDs.addPlace(s.text.Lines, line)
		}
		s.frame.ID, s.frame.HasID = string(value), true
	}
}

// readRetry reads a retry line. Clients obey it at its end, even if no blank line follows.
func (s *scanner) readRetry(line, value []byte) {
	s.scanRetry(line, value)
	if !s.fields {
		s.endFrame()
	}
}

func (s *scanner) scanRetry(line, value []byte) {
	ms, err := strconv.ParseUint(string(value[:min(len(value), maxName)]), 10, 63)
	if err != nil {
		s.text.BadRetry.addPlace(s.text.Lines, line)
		return
	}
	s.frame.Retry = true
	if len(s.text.Retries) < 10 {
		const most = uint64(1<<63-1) / uint64(time.Millisecond)
		s.text.Retries = append(s.text.Retries, time.Duration(min(ms, most))*time.Millisecond)
	}
}

// endFrame ends the current frame at a blank line. Further blank lines add no frames.
func (s *scanner) endFrame() {
	if s.open {
		s.text.Frames++
		f := s.frame
		f.At = s.arrived
		if f.Event != "" && !f.IsEvent() {
			s.text.Nameless.addPlace(s.text.Lines, []byte(f.Event))
		}
		if len(s.frames) < maxFrames {
			s.sum.Sum(f.Sum[:0])
			f.Head = string(s.head)
			s.frames = append(s.frames, f)
		}
	}
	s.frame, s.open, s.fields = Frame{}, false, false
	s.head = s.head[:0]
	s.sum.Reset()
}

// finishScan returns the results after the last bytes.
func (s *scanner) finishScan() (Text, []Frame) {
	text := s.text
	if s.inFrame() {
		f := s.frame
		f.At = s.arrived
		text.Unfinished = &f
	}
	return text, s.frames
}
