package event

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

var (
	anyID   = rapid.Custom(func(t *rapid.T) ID { return ID(rapid.Uint64Range(0, uint64(MaxID)).Draw(t, "id")) })
	eventID = rapid.Custom(func(t *rapid.T) ID { return ID(rapid.Uint64Range(1, uint64(MaxID)).Draw(t, "id")) })
	anyTime = rapid.Custom(func(t *rapid.T) Time { return Time(rapid.Int64Range(int64(minTime), int64(maxTime)).Draw(t, "time")) })

	anyUser = name(CheckUser, "a", "alice", "posts", ".", "é", "日", "🙂", `"`, `\`, "<", "&", "\u2028", " ", "0", "/", "*", "$", ",", "\n", "\x7f", "\xff")
	anyPath = name(CheckPath, "a", "/", "posts", "posts-old", ".", "..", "é", "🙂", `"`, `\`, "<", "\u2029", " ", "$", ",", "*", "\x00", "\u0085", "\xed\xa0\x80")
	anyKey  = name(CheckKey, "", "k", "/", "*", "$", ",", "é", `"`, `\`, "\\u0000", "\t", "\xff")

	// Values as an author may write them, white space and all.
	anyValue = rapid.Custom(func(t *rapid.T) []byte { return drawValue(t, 3) })

	anyDraft = rapid.Custom(func(t *rapid.T) Draft {
		d := Draft{
			User: anyUser.Draw(t, "user"),
			Path: anyPath.Draw(t, "path"),
			Type: rapid.SampledFrom([]Type{Put, Del}).Draw(t, "type"),
			Key:  anyKey.Draw(t, "key"),
		}
		if d.Type == Put {
			v, err := CompactValue(anyValue.Draw(t, "value"))
			if err != nil {
				t.Fatal(err)
			}
			d.Value = v
		}
		return d
	})
)

// name joins pieces, good and bad ones, into names that check accepts.
func name(check func(string) error, pieces ...string) *rapid.Generator[string] {
	return rapid.Custom(func(t *rapid.T) string {
		return strings.Join(rapid.SliceOfN(rapid.SampledFrom(pieces), 0, 4).Draw(t, "pieces"), "")
	}).Filter(func(s string) bool { return check(s) == nil })
}

func drawValue(t *rapid.T, depth int) []byte {
	space := func() string { return rapid.SampledFrom([]string{"", "", "", " ", "\n\t", "\r "}).Draw(t, "space") }
	scalar := func() string {
		return rapid.SampledFrom([]string{"null", "true", "false", "0", "-0", "1.0", "1e400", "-1E-7", "123456789012345678901234567890", `""`, `"a b"`,
			`"\""`, `"\\"`, `" [\"{ "`, "\"\u2028\"", `"<&>"`, `"\u003c"`, `"\u0000"`, `"\ud800"`, `"é🙂"`}).Draw(t, "scalar")
	}
	kind := 0
	if depth > 0 {
		kind = rapid.IntRange(0, 2).Draw(t, "kind")
	}
	var b bytes.Buffer
	b.WriteString(space())
	switch n := rapid.IntRange(0, 3).Draw(t, "len"); kind {
	case 0:
		b.WriteString(scalar())
	case 1:
		b.WriteByte('[')
		for i := range n {
			if i > 0 {
				b.WriteByte(',')
			}
			b.Write(drawValue(t, depth-1))
		}
		b.WriteString(space() + "]")
	case 2:
		b.WriteByte('{')
		for i := range n {
			if i > 0 {
				b.WriteByte(',')
			}
			fmt.Fprintf(&b, "%s%s%s:", space(), rapid.SampledFrom([]string{`"a"`, `"b"`, `"value"`, `"\u0061"`, `""`}).Draw(t, "name"), space())
			b.Write(drawValue(t, depth-1))
		}
		b.WriteString(space() + "}")
	}
	b.WriteString(space())
	return b.Bytes()
}

func TestIDTextSortsAsNumber(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		a := anyID.Draw(t, "a")
		b := a + ID(rapid.Uint64Range(0, 1<<12).Draw(t, "near"))
		if rapid.Bool().Draw(t, "far") || b > MaxID {
			b = anyID.Draw(t, "b")
		}
		if strings.Compare(a.String(), b.String()) != cmp.Compare(a, b) {
			t.Fatalf("%d and %d sort otherwise as %s and %s", a, b, a, b)
		}
		if again, err := ParseID(a.String()); err != nil || again != a || len(a.String()) != IDLen {
			t.Fatalf("ParseID(%s) = %d, %v, want %d", a, again, err, a)
		}
	})
}

func TestBlock(t *testing.T) {
	for id, want := range map[ID]uint64{0: 0, 1: 0, 4095: 0, 4096: 0, 4097: 1, 8192: 1, 8193: 2, MaxID: 1<<51 - 1} {
		if got := id.Block(); got != want {
			t.Errorf("ID(%d).Block() = %d, want %d", id, got, want)
		}
	}
}

func TestLogID(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var random [10]byte
		copy(random[:], rapid.SliceOfN(rapid.Byte(), 10, 10).Draw(t, "random"))
		log := NewLogID(random)
		if !ValidLogID(log) {
			t.Fatalf("NewLogID(%x) = %q, which is none", random, log)
		}
		// Its bits must be the random ones, all of them, in order.
		var bits, want strings.Builder
		for i := range len(log) {
			fmt.Fprintf(&bits, "%05b", strings.IndexByte(crockford, log[i]))
		}
		for _, b := range random {
			fmt.Fprintf(&want, "%08b", b)
		}
		if bits.String() != want.String() {
			t.Fatalf("NewLogID(%x) = %s, the bits %s, want %s", random, log, &bits, &want)
		}
		mark := Mark(rapid.SampledFrom([]uint32{0, 1 << 30, 1<<30 | 12345, 1<<31 - 1}).Draw(t, "mark"))
		c := Point{anyID.Draw(t, "id"), mark}.Cursor(log)
		if again, err := ParseCursor(c.String()); err != nil || again != c || !c.Of(log) {
			t.Fatalf("ParseCursor(%s) = %v, %v, of its log: %v", c, again, err, c.Of(log))
		}
		other := []byte(log)
		other[2] = crockford[(crockfordValue[other[2]]+1)%32]
		if c.Of(string(other)) || !(Cursor{ID: c.ID}).Of(string(other)) {
			t.Fatalf("%s is of %s: %v, want false; without its log: want true", c, other, c.Of(string(other)))
		}
	})
	for _, s := range []string{"", "0", strings.Repeat("0", 15), strings.Repeat("0", 17), strings.Repeat("a", 16), strings.Repeat("U", 16), strings.Repeat("é", 8)} {
		if ValidLogID(s) {
			t.Errorf("ValidLogID(%q) = true", s)
		}
	}
}

func TestTimeRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		a, b := anyTime.Draw(t, "a"), anyTime.Draw(t, "b")
		if again, err := parseTime(a.AppendTo(nil)); err != nil || again != a {
			t.Fatalf("parseTime(%s) = %d, %v, want %d", a, again, err, a)
		}
		if want := a.Time().Format(timeLayout); a.String() != want {
			t.Fatalf("Time(%d) = %s, want %s", a, a, want)
		}
		if strings.Compare(a.String(), b.String()) != cmp.Compare(a, b) {
			t.Fatalf("%d and %d sort otherwise as %s and %s", a, b, a, b)
		}
		if TimeOf(a.Time().Add(999*time.Nanosecond)) != a {
			t.Fatalf("%s and 999 ns is %s", a, TimeOf(a.Time().Add(999*time.Nanosecond)))
		}
		var read Time
		if b, err := json.Marshal(a); err != nil || json.Unmarshal(b, &read) != nil || read != a {
			t.Fatalf("%s is %s in JSON, %v, which reads %s", a, b, err, read)
		}
		if m, err := ParseMoment(a.String()); err != nil || m != AtTime(a) {
			t.Fatalf("ParseMoment(%s) = %v, %v", a, m, err)
		}
	})
	for v, want := range map[Time]bool{minTime - 1: false, minTime: true, 0: true, maxTime: true, maxTime + 1: false} {
		if v.Valid() != want {
			t.Errorf("Time(%d).Valid() = %v, want %v", v, !want, want)
		}
	}
	if got := minTime.String() + " " + maxTime.String(); got != "0000-01-01T00:00:00.000000Z 9999-12-31T23:59:59.999999Z" {
		t.Errorf("the first and the last time are %s", got)
	}
}

func TestAgeRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := Moment{kind: momentAge, age: time.Duration(rapid.Int64Range(0, 1<<63-1).Draw(t, "age"))}
		if again, err := ParseMoment(m.String()); err != nil || again != m {
			t.Fatalf("ParseMoment(%s) = %v, %v", m, again, err)
		}
	})
}

func TestLineRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		d := anyDraft.Draw(t, "draft")
		made := New(eventID.Draw(t, "id"), anyTime.Draw(t, "time"), d, d.Hash())
		if n := rapid.IntRange(0, 2).Draw(t, "extra"); n > 0 {
			v, err := CompactValue(anyValue.Draw(t, "extra value"))
			if err != nil {
				t.Fatal(err)
			}
			extra := fmt.Appendf(nil, `"reason":%s,"\u006frigin":"%d"`, v, n)
			made = Event{ID: made.ID, Time: made.Time, Draft: d, Hash: made.Hash, Extra: extra}
		}
		line := bytes.Clone(made.Line())
		ev, err := ParseLine(line)
		if err != nil {
			t.Fatal(err)
		}
		if ev.ID != made.ID || ev.Time != made.Time || ev.User != d.User || ev.Path != d.Path || ev.Type != d.Type || ev.Key != d.Key ||
			ev.Hash != made.Hash || !bytes.Equal(ev.Value, d.Value) || !bytes.Equal(ev.Extra, made.Extra) {
			t.Fatalf("ParseLine(%s) = %+v, want %+v", line, ev, made)
		}
		if s, err := ParseStorage(ev.Storage().String()); err != nil || s != d.Storage() {
			t.Fatalf("ParseStorage(%q) = %q, %v", ev.Storage(), s, err)
		}
		var again Event
		if again, err = ParseLine(ev.AppendLine(nil)); err != nil || again.Hash != ev.Hash {
			t.Fatalf("ParseLine of its own line: %v", err)
		}
		fresh := ev
		fresh.line = nil
		if got := fresh.AppendLine([]byte("x")); string(got) != "x"+string(line) {
			t.Fatalf("encoded again, the line is\n%s, want\n%s", got[1:], line)
		}
	})
}

// The order of the members and the spelling of strings do not change an append.
func TestDraftRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		d := anyDraft.Draw(t, "draft")
		quote := func(s string) string {
			if rapid.Bool().Draw(t, "escape all") {
				b, err := json.Marshal(s)
				if err != nil {
					t.Fatal(err)
				}
				return string(b)
			}
			return string(appendString(nil, s))
		}
		members := []string{`"user":` + quote(d.User), `"path": ` + quote(d.Path), `"key"	:` + quote(d.Key)}
		if d.Type == Del || rapid.Bool().Draw(t, "with type") {
			members = append(members, `"type":`+quote(string(d.Type)))
		}
		if d.Type == Put {
			members = append(members, `"value":`+string(d.Value)+"\n")
		}
		if rapid.Bool().Draw(t, "with hash") {
			members = append(members, `"hash":"`+d.Hash().String()+`"`)
		}
		if own, err := ParseDraft(d.AppendJSON(nil)); err != nil || own.Hash() != d.Hash() {
			t.Fatalf("ParseDraft(%s): %v", d.AppendJSON(nil), err)
		}
		members = rapid.Permutation(members).Draw(t, "members")
		object := []byte(" {" + strings.Join(members, ", ") + "} ")
		got, err := ParseDraft(object)
		if err != nil {
			t.Fatalf("ParseDraft(%s): %v", object, err)
		}
		for i := range object {
			object[i] = 'x' // a draft shares no bytes with what it was read from
		}
		if got.Hash() != d.Hash() || got.User != d.User || got.Path != d.Path || got.Type != d.Type || got.Key != d.Key || !bytes.Equal(got.Value, d.Value) {
			t.Fatalf("ParseDraft(%s) = %+v, want %+v", object, got, d)
		}
	})
}

func TestCompactValueAgainstTokens(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		v := anyValue.Draw(t, "value")
		before := bytes.Clone(v)
		got, err := CompactValue(v)
		if err != nil {
			t.Fatalf("CompactValue(%q): %v", v, err)
		}
		if want := slowCompact(v); !bytes.Equal(got, want) {
			t.Fatalf("CompactValue(%q) = %q, want %q", v, got, want)
		}
		var std bytes.Buffer
		if err := json.Compact(&std, v); err != nil || !bytes.Equal(got, std.Bytes()) {
			t.Fatalf("CompactValue(%q) = %q, json.Compact says %q, %v", v, got, &std, err)
		}
		again, err := CompactValue(got)
		if err != nil || !bytes.Equal(again, got) {
			t.Fatalf("CompactValue(%q) = %q, %v, want it unchanged", got, again, err)
		}
		if len(got) > 0 && len(again) > 0 && &again[0] == &got[0] || !bytes.Equal(v, before) {
			t.Fatal("CompactValue shares or changes what it was given")
		}
	})
}

// slowCompact walks the tokens of a well-formed JSON text and keeps them.
func slowCompact(v []byte) []byte {
	var out []byte
	for len(v) > 0 {
		n := 1
		switch c := v[0]; {
		case strings.IndexByte(" \t\r\n", c) >= 0:
			v = v[1:]
			continue
		case c == '"':
			for n = 1; v[n] != '"'; n++ {
				if v[n] == '\\' {
					n++
				}
			}
			n++
		case strings.IndexByte("[]{},:", c) < 0:
			if n = bytes.IndexAny(v, "[]{},: \t\r\n"); n < 0 {
				n = len(v)
			}
		}
		out, v = append(out, v[:n]...), v[n:]
	}
	return out
}

func TestMembers(t *testing.T) {
	for _, c := range []struct{ object, want string }{
		{`{}`, ``},
		{" {\n} ", ``},
		{`{"a":1}`, `a=1`},
		{` { "a" : 1 , "b" : [ 1, {"c":2} ] , "" : "}" } `, `a=1|b=[ 1, {"c":2} ]|="}"`},
		{`{"a":1e400,"b":-0,"c":true,"d":null}`, `a=1e400|b=-0|c=true|d=null`},
		{`{"A":1,"a":2,"\u00e9":3,"e\u0301":4}`, "A=1|a=2|é=3|e\u0301=4"},
		{`{"\ud83d\ude42":"\ud800","\"":"\"","\\":"\\"}`, `🙂="\ud800"|"="\""|\="\\"`},
		{`{"\\ud800":1,"\ufffd":2}`, `\ud800=1|` + "\ufffd=2"},
	} {
		object := []byte(c.object)
		ms, err := Members(object)
		for i := range object {
			object[i] = 'x'
		}
		var got []string
		for _, m := range ms {
			got = append(got, m.Name+"="+string(m.Value))
		}
		if err != nil || strings.Join(got, "|") != c.want {
			t.Errorf("Members(%s) = %s, %v, want %s", c.object, strings.Join(got, "|"), err, c.want)
		}
	}
	for object, want := range map[string]string{
		``:                             "empty; want JSON",
		` `:                            "empty; want JSON",
		`null`:                         "not a JSON object",
		`[]`:                           "not a JSON object",
		`"{}"`:                         "not a JSON object",
		`{`:                            "invalid JSON",
		`{"a":1}{}`:                    "invalid JSON at byte 8",
		`{"a":1,}`:                     "invalid JSON at byte 8",
		`{"a":1,"a":1}`:                "twice",
		`{"a":1,"\u0061":1}`:           "twice",
		`{"\ud800":1}`:                 "surrogate",
		`{"\udc00\ud800":1}`:           "surrogate",
		`{"\ud800\n":1}`:               "surrogate",
		`{"\ud800u0000":1}`:            "surrogate",
		"{\"a\":\"\xff\"}":             "valid UTF-8",
		strings.Repeat(`{"a":`, 600):   "nested deeper",
		strings.Repeat("[", 1_000_000): "nested deeper",
		"\ufeff{}":                     "invalid JSON at byte 1",
		`{"a":1` + strings.Repeat(`,"a":1`, 9) + `}`: "twice",
	} {
		if ms, err := Members([]byte(object)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("Members(%.40q) = %v, %v, want an error with %q", object, ms, err, want)
		}
	}
}

func TestParseDraftRefuses(t *testing.T) {
	for object, want := range map[string]string{
		`{"path":"p","value":1}`:                                                                      "user: must not be empty",
		`{"user":"u","value":1}`:                                                                      "path: must not be empty",
		`{"user":"u","path":"p"}`:                                                                     "a PUT needs one",
		`{"user":"u","path":"p","type":"DEL","value":null}`:                                           "a DEL has none",
		`{"user":"u","path":"p","type":"put","value":1}`:                                              "want PUT or DEL",
		`{"user":"u","path":"p","type":"","value":1}`:                                                 "want PUT or DEL",
		`{"user":"u","path":"p","type":null,"value":1}`:                                               "type: want a string",
		`{"user":null,"path":"p","value":1}`:                                                          "user: want a string",
		`{"user":"u","path":["p"],"value":1}`:                                                         "path: want a string",
		`{"user":"u","path":"p","key":1,"value":1}`:                                                   "key: want a string",
		`{"user":"u\ud800","path":"p","value":1}`:                                                     "user: \"\\\"u\\\\ud800\\\"\" contains a lone surrogate",
		`{"user":"u","path":"\udc00","value":1}`:                                                      "lone surrogate",
		`{"user":"u","path":"p","key":"\ud83d\ud83d\ude42","value":1}`:                                "lone surrogate",
		`{"user":"u\u0000","path":"p","value":1}`:                                                     "control character",
		`{"user":"u","path":"p","key":"\n","value":1}`:                                                "control character",
		`{"user":"u","path":"p","value":1,"Value":1}`:                                                 `unknown member "Value"`,
		`{"User":"u","path":"p","value":1}`:                                                           `unknown member "User"`,
		`{"user":"u","user":"u","path":"p","value":1}`:                                                "twice",
		`{"user":"u","path":"p","value":1,"hash":null}`:                                               "hash: want a string",
		`{"user":"u","path":"p","value":1,"hash":"00"}`:                                               "parse hash",
		`{"user":"u","path":"p","value":1,"hash":"` + strings.Repeat("0", 64) + `"}`:                  ErrHash.Error(),
		`{"user":"u","path":"p","value":` + strings.Repeat("[", 513) + strings.Repeat("]", 513) + `}`: "nested deeper than 512",
	} {
		if d, err := ParseDraft([]byte(object)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("ParseDraft(%.80s) = %v, %v, want an error with %q", object, d, err, want)
		}
	}
	// An escape that makes a whole pair, and one that is no escape, are names.
	for object, want := range map[string]string{
		`{"user":"\ud83d\ude42","path":"p","value":1}`: "🙂",
		`{"user":"\uD83D\uDE42","path":"p","value":1}`: "🙂",
		`{"user":"\\ud800","path":"p","value":1}`:      `\ud800`,
		`{"user":"\ufffd","path":"p","value":1}`:       "\ufffd",
		`{"user":"\u0061\t","path":"p","value":1}`:     "",
	} {
		if d, err := ParseDraft([]byte(object)); d.User != want || (err == nil) != (want != "") {
			t.Errorf("ParseDraft(%s) has the user %q, %v, want %q", object, d.User, err, want)
		}
	}
}
