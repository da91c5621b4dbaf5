package source

import (
	"strings"
	"testing"

	"github.com/rstream-dev/rstream/internal/sse"
)

func TestReadFrames(t *testing.T) {
	frame := func(id string, own bool, kind, data string) sse.Frame {
		return sse.Frame{Cursor: id, OwnID: own, Type: kind, Data: []byte(data)}
	}
	kind := func(name string) Knobs { k, _ := KindNamed(name); return k.Knobs }
	type read struct {
		event, end bool
		cursor, id string
		ordinal    int
	}
	durable := Knobs{Cursor: Place{InEvent, "control", "next"}, ID: Place{In: Nowhere}, End: Place{InEvent, "control", "up"}}
	for _, tt := range []struct {
		name   string
		knobs  Knobs
		from   string
		frames []sse.Frame
		want   []read
	}{
		{"ids", Knobs{}, "", []sse.Frame{frame("1", true, "", "a"), frame("1", true, "", "b"), frame("1", true, "", "c"), frame("2", true, "", "a"), frame("1", true, "", "a")},
			[]read{{true, false, "1", "1", 0}, {true, false, "1", "1", 1}, {true, false, "1", "1", 2}, {true, false, "2", "2", 0}, {true, false, "1", "1", 0}}},
		{"a sticky id is none", Knobs{}, "", []sse.Frame{frame("1", true, "", "a"), frame("1", false, "", "b")}, []read{{true, false, "1", "1", 0}, {true, false, "", "", 0}}},
		{"an id with control characters is none", Knobs{}, "", []sse.Frame{frame("1\x1b", true, "", "a")}, []read{{true, false, "", "", 0}}},
		{"an id alone", Knobs{}, "", []sse.Frame{{Cursor: "9", OwnID: true}}, []read{{false, false, "9", "", 0}}},
		{"wikimedia", kind("wikimedia"), "", []sse.Frame{frame(`[{"topic":"t","timestamp":5}]`, true, "message", `{"meta":{"id":"u"}}`), frame("x", false, "error", "{}")},
			[]read{{true, false, `[{"topic":"t","timestamp":5}]`, "u", 0}, {false, false, "", "", 0}}},
		{"ntfy", kind("ntfy"), "", []sse.Frame{frame("", false, "open", `{"id":"o"}`), frame("", false, "", `{"id":"m1","event":"message"}`), frame("", false, "keepalive", `{"id":"k"}`)},
			[]read{{false, false, "", "", 0}, {true, false, "m1", "m1", 0}, {false, false, "", "", 0}}},
		{"pubky", kind("pubky"), "bob:7 ann:3", []sse.Frame{frame("", false, "PUT", "pubky://ann/pub/x\ncursor: 4\ncontent_hash: h"), frame("", false, "PUT", "pubky://cy/pub/x\ncursor: 1"),
			frame("", false, "PUT", "pubky://ann/pub/x\ncursor: 2"), frame("", false, "PUT", "no url\ncursor: 9")},
			[]read{{true, false, "ann:4 bob:7", "ann:4", 0}, {true, false, "ann:4 bob:7 cy:1", "cy:1", 0}, {true, false, "ann:4 bob:7 cy:1", "ann:2", 0}, {true, false, "ann:4 bob:7 cy:1", ":9", 0}}},
		{"pubky, users that were not asked for", kind("pubky"), "ann:3", []sse.Frame{frame("", false, "PUT", "pubky://eve/pub/x\ncursor: 4"), frame("", false, "PUT", "pubky://"+strings.Repeat("x", maxCursor+1)+"/x\ncursor: 5"),
			frame("", false, "PUT", "pubky://ann/pub/x\ncursor: 6")},
			[]read{{true, false, "ann:3", "eve:4", 0}, {true, false, "ann:3", ":5", 0}, {true, false, "ann:6", "ann:6", 0}}},
		{"a control event", durable, "", []sse.Frame{frame("", false, "data", "1"), frame("", false, "control", `{"next":"5","up":false}`), frame("", false, "control", `{"next":"6","up":true}`)},
			[]read{{true, false, "", "", 0}, {false, false, "5", "", 0}, {false, true, "6", "", 0}}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := newFrameReader(&tt.knobs, tt.from, []string{"ann", "bob", "cy"})
			for i, f := range tt.frames {
				in := r.read(f)
				if got := (read{in.Event, in.End, in.Cursor, in.ID, in.Ordinal}); got != tt.want[i] {
					t.Errorf("frame %d = %+v, want %+v", i, got, tt.want[i])
				}
			}
		})
	}
}

func TestJSONMember(t *testing.T) {
	const text = `{"a":{"b":"x\n","n":12345678901234567890,"t":true,"o":{},"z":null},"d.e":1}`
	for name, want := range map[string]string{"a.b": "x\n", "a.n": "12345678901234567890", "a.t": "true", "a.o": "", "a.z": "", "a": "", "c": "", "a.b.c": "", "": ""} {
		if got := jsonMember([]byte(text), name); got != want {
			t.Errorf("member %q = %q, want %q", name, got, want)
		}
	}
	for _, bad := range []string{"", "1", "[", `{"a":`, "null"} {
		if got := jsonMember([]byte(bad), "a"); got != "" {
			t.Errorf("member of %q = %q", bad, got)
		}
	}
}

func TestAsked(t *testing.T) {
	for _, tt := range []struct {
		cursor  string
		overlap int64
		want    string
	}{
		{"abc", 5, "abc"}, {"10", 3, "7"}, {"2", 3, "0"}, {"10", 0, "10"},
		{`[{"topic":"a","partition":0,"timestamp":1000},{"topic":"b","partition":0,"offset":-1}]`, 1,
			`[{"partition":0,"timestamp":999,"topic":"a"},{"offset":-1,"partition":0,"topic":"b"}]`},
	} {
		if got := asked(tt.cursor, tt.overlap); got != tt.want {
			t.Errorf("asked(%q, %d) = %q, want %q", tt.cursor, tt.overlap, got, tt.want)
		}
	}
	if !hasNoPlace(`[{"topic":"b","offset":-1}]`) || hasNoPlace(`[{"topic":"b","offset":4}]`) || hasNoPlace("abc") {
		t.Error("hasNoPlace is wrong")
	}
}
