package event

import (
	"strings"
	"testing"
)

// benchLines are a typical line, one with names that need escapes, and one with a large value.
func benchLines() map[string][]byte {
	lines := map[string][]byte{}
	for name, d := range map[string]Draft{
		"small":   {User: "alice", Path: "posts/42", Type: Put, Key: "0V3K9QJ7T2XBM", Value: []byte(`{"title":"hello","body":"a post of some words","tags":["a","b"],"n":42}`)},
		"escapes": {User: `al"ice`, Path: `posts\42`, Type: Put, Key: `"k"`, Value: []byte(`"\"quoted\""`)},
		"large":   {User: "alice", Path: "posts/42", Type: Put, Key: "0V3K9QJ7T2XBM", Value: []byte(`["` + strings.Repeat("0123456789abcde ", 1<<12) + `"]`)},
	} {
		ev := New(42, 1_795_168_800_000_001, d, d.Hash())
		lines[name] = ev.Line()
	}
	return lines
}

func BenchmarkParseLine(b *testing.B) {
	for name, line := range benchLines() {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			b.SetBytes(int64(len(line)))
			for b.Loop() {
				if _, err := ParseLine(line); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkStored(b *testing.B) {
	for name, line := range benchLines() {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			b.SetBytes(int64(len(line)))
			for b.Loop() {
				if _, err := Stored(line); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkSkimPoint(b *testing.B) {
	for name, line := range benchLines() {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, _, err := SkimPoint(line); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkAppendLine(b *testing.B) {
	for name, line := range benchLines() {
		ev, err := ParseLine(line)
		if err != nil {
			b.Fatal(err)
		}
		ev.line = nil // else it would be copied
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			b.SetBytes(int64(len(line)))
			var buf []byte
			for b.Loop() {
				buf = ev.AppendLine(buf[:0])
			}
		})
	}
}

func BenchmarkMatches(b *testing.B) {
	topic, err := ParseTopic("alice/posts")
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		topic.Matches("alice", "posts/42")
	}
}

// The names, the path and the key are all that a line costs.
func TestParseLineAllocations(t *testing.T) {
	line := benchLines()["small"]
	got := testing.AllocsPerRun(100, func() {
		if _, err := ParseLine(line); err != nil {
			t.Fatal(err)
		}
	})
	if got > 3 {
		t.Errorf("ParseLine allocates %v times, want 3", got)
	}
	ev, err := ParseLine(line)
	if err != nil {
		t.Fatal(err)
	}
	ev.line = nil
	buf := make([]byte, 0, 2*len(line))
	if got := testing.AllocsPerRun(100, func() { buf = ev.AppendLine(buf[:0]) }); got > 0 {
		t.Errorf("AppendLine into a buffer allocates %v times", got)
	}
}
