package doctor

import (
	"crypto/sha256"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"
)

// A plainFrame is an event as the slow parser sees it.
type plainFrame struct{ id, event, data string }

// slowly finds the events of a whole stream as the standard says it, line by line.
func slowly(stream string) (evs []plainFrame) {
	stream = strings.TrimPrefix(stream, "\xef\xbb\xbf")
	lines := strings.Split(strings.ReplaceAll(strings.ReplaceAll(stream, "\r\n", "\n"), "\r", "\n"), "\n")
	var f plainFrame
	var data []string
	for _, line := range lines[:len(lines)-1] {
		name, value, _ := strings.Cut(line, ":")
		value = strings.TrimPrefix(value, " ")
		switch {
		case line == "":
			if data != nil {
				f.data = strings.Join(data, "\n")
				evs = append(evs, f)
			}
			f, data = plainFrame{}, nil
		case name == "data":
			data = append(data, value)
		case name == "event":
			f.event = value
		case name == "id" && !strings.Contains(value, "\x00"):
			f.id = value
		}
	}
	return evs
}

// scan gives a stream to a scanner in parts of so many bytes.
func scan(stream string, part int) (Text, []Frame) {
	s := newScanner()
	for i := 0; i < len(stream); i += part {
		s.scanBytes([]byte(stream[i:min(i+part, len(stream))]), time.Duration(i))
	}
	return s.finishScan()
}

// No matter how a stream is split into parts, the scanner finds the events of the standard,
// and the same facts.
func FuzzScanner(f *testing.F) {
	seeds, err := filepath.Glob("../../testdata/stream/*.sse")
	if err != nil || len(seeds) < 20 {
		f.Fatalf("%d seeds, %v", len(seeds), err)
	}
	for _, seed := range seeds {
		b, err := os.ReadFile(seed)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(string(b), 3)
	}
	f.Add("id: 1\r\rdata: x\r\n\r\n:\n:\n\ndata\n\n", 1)
	f.Add("\xef\xbb\xbf\xef\xbb\xbfdata: x\n\nevent: e\nid: \x00\nretry: 5\n\n", 2)
	f.Fuzz(func(t *testing.T, stream string, part int) {
		whole, frames := scan(stream, len(stream)+1)
		if part < 1 {
			part = 1
		}
		text, again := scan(stream, part)
		if text.LF != whole.LF || text.CR != whole.CR || text.CRLF != whole.CRLF || text.Lines != whole.Lines ||
			text.Frames != whole.Frames || text.BadUTF8 != whole.BadUTF8 || text.Unknown != whole.Unknown ||
			text.BOM != whole.BOM || text.LateBOM != whole.LateBOM || (text.Unfinished == nil) != (whole.Unfinished == nil) {
			t.Errorf("in parts of %d it is\n%+v, as a whole\n%+v", part, text, whole)
		}
		if n := strings.Count(stream, "\n") - whole.LF - whole.CRLF; n != 0 {
			t.Errorf("%d line feeds are not counted", n)
		}
		if n := strings.Count(stream, "\r") - whole.CR - whole.CRLF; n != 0 {
			t.Errorf("%d carriage returns are not counted", n)
		}
		checkEvents(t, frames, slowly(stream))
		checkEvents(t, again, slowly(stream))
	})
}

func checkEvents(t *testing.T, frames []Frame, want []plainFrame) {
	t.Helper()
	frames = slices.DeleteFunc(slices.Clone(frames), func(f Frame) bool { return !f.IsEvent() })
	if len(frames) != min(len(want), maxFrames) {
		t.Fatalf("%d events, want %d", len(frames), len(want))
	}
	for i, f := range frames {
		if w := want[i]; f.Sum != sha256.Sum256([]byte(w.data)) || f.Size != len(w.data) || f.ID != w.id && len(w.id) <= maxID || f.Event != w.event[:min(len(w.event), maxName)] {
			t.Errorf("event %d is %+v, want %q", i, f, w)
		}
		if f.Start > f.At {
			t.Errorf("event %d begins at %s and ends at %s", i, f.Start, f.At)
		}
	}
}

// A stream of any kind costs no more memory than the bounds allow.
func TestScannerIsBounded(t *testing.T) {
	s := newScanner()
	write := func(text string, times int) {
		for range times {
			s.scanBytes([]byte(text), 0)
		}
	}
	write("id: "+strings.Repeat("i", maxID)+"\nevent: "+strings.Repeat("e", 1000)+"\n", 1)
	write("data: "+strings.Repeat("d", 50_000)+"\n", 200) // one event of 10 MB
	write("\n", 1)
	write(strings.Repeat("x", 1<<20), 5) // a line without end
	write("\n", 1)
	write(strings.Repeat("retry: 1\ndata: 1\n\n", 1000), 10)
	text, frames := s.finishScan()
	if cap(s.line) > 2*maxLine {
		t.Errorf("a line takes %d bytes", cap(s.line))
	}
	if len(frames) != maxFrames || text.Frames <= maxFrames || len(text.Retries) > 10 {
		t.Errorf("%d frames of %d, %d delays", len(frames), text.Frames, len(text.Retries))
	}
	f := frames[0]
	if len(f.ID) != maxID || len(f.Event) != maxName || len(f.Head) > maxHead || f.Size != 200*50_001-1 {
		t.Errorf("id %d, event %d, head %d, size %d", len(f.ID), len(f.Event), len(f.Head), f.Size)
	}
	if !text.TooLong || text.LongLine != 5<<20 {
		t.Errorf("the longest line has %d bytes, too long: %t", text.LongLine, text.TooLong)
	}
}

// A comment is complete with its line; a partial line is unfinished.
func TestScannerComments(t *testing.T) {
	text, frames := scan(":a\n:b\n\n: c\ndata: 1\n: d\n\n:e", 100)
	if len(frames) != 4 || frames[3].Comment != ": d" || !frames[3].IsEvent() || text.Unfinished == nil {
		t.Errorf("%+v, unfinished %v", frames, text.Unfinished)
	}
	if !utf8.ValidString(text.Unknown.Text) || text.Unknown.Count != 0 {
		t.Errorf("%+v", text.Unknown)
	}
}

// A retry line is complete too, unless it is within an event.
func TestScannerRetries(t *testing.T) {
	text, frames := scan("retry: 1\ndata: 1\nretry: 2\n\nretry: 3\n", 100)
	if len(frames) != 3 || !frames[0].Retry || frames[0].IsEvent() || !frames[1].Retry || !frames[1].IsEvent() || text.Unfinished != nil {
		t.Errorf("%+v, unfinished %v", frames, text.Unfinished)
	}
	if want := []time.Duration{time.Millisecond, 2 * time.Millisecond, 3 * time.Millisecond}; !slices.Equal(text.Retries, want) {
		t.Errorf("%v, want %v", text.Retries, want)
	}
}

// A silence within an event is not one between events.
func TestScannerPauses(t *testing.T) {
	s := newScanner()
	for _, w := range []struct {
		at   time.Duration
		text string
	}{{0, "data: 1\n\n"}, {5, ":beat\n"}, {9, "data: "}, {12, "2\n"}, {20, "\n"}, {50, "data: 3\n\n"}} {
		s.scanBytes([]byte(w.text), w.at)
	}
	_, frames := s.finishScan()
	var got []time.Duration
	for _, f := range frames {
		got = append(got, f.Start, f.At, f.Pause)
	}
	if want := []time.Duration{0, 0, 0, 5, 5, 0, 9, 20, 8, 50, 50, 0}; !slices.Equal(got, want) {
		t.Errorf("begins, ends and pauses are %d, want %d", got, want)
	}
}
