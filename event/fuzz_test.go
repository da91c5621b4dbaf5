package event

import (
	"bytes"
	"encoding/json"
	"maps"
	"regexp"
	"testing"
	"time"
	"unicode/utf8"
)

func FuzzParseLine(f *testing.F) {
	for _, v := range readVectors[lineVector](f, "line.jsonl") {
		f.Add(v.bytes())
	}
	f.Fuzz(func(t *testing.T, line []byte) {
		if ev, err := ParseLine(line); err == nil {
			checkLine(t, ev, line)
			return
		}
		// A wrong hash must not hide what else might pass: mend it and try again.
		const hashAt = `,"hash":"`
		i := bytes.Index(line, []byte(hashAt))
		if i < 0 || len(line) < i+len(hashAt)+64 {
			return
		}
		mended := bytes.Clone(line)
		text := mended[i+len(hashAt):][:64]
		copy(text, bytes.Repeat([]byte("0"), 64))
		ev, err := parseLine(mended)
		if err != ErrHash {
			return
		}
		copy(text, ev.Draft.Hash().String())
		again, err := ParseLine(mended)
		if err != nil {
			t.Fatalf("ParseLine(%q) with its hash mended: %v", mended, err)
		}
		checkLine(t, again, mended)
	})
}

func FuzzParseDraft(f *testing.F) {
	f.Add([]byte(`{"user":"alice","path":"posts/1","value":{"n":1}}`))
	f.Add([]byte(` {"value" : "\ud800", "user":"\ud83d\ude42", "path":"p\/q","type":"PUT","key":"\"", "id":1,"time":[]}`))
	f.Add([]byte(`{"type":"DEL","user":"alice","path":"posts/1","key":"k1"}`))
	for _, v := range readVectors[lineVector](f, "line.jsonl") {
		f.Add(v.bytes())
	}
	f.Fuzz(func(t *testing.T, object []byte) {
		d, err := ParseDraft(object)
		if err != nil {
			return
		}
		if err := d.Check(); err != nil {
			t.Fatalf("ParseDraft(%q) takes what Check refuses: %v", object, err)
		}
		ev := New(1, 0, d, d.Hash())
		line := bytes.Clone(ev.Line())
		parsed, err := ParseLine(line)
		if err != nil {
			t.Fatal(err)
		}
		checkLine(t, parsed, line)
		if parsed.Draft.Hash() != d.Hash() {
			t.Fatalf("%q has the hash %s, its line %s", object, d.Hash(), parsed.Hash)
		}
	})
}

func FuzzParseTopic(f *testing.F) {
	for _, v := range readVectors[topicVector](f, "topic.jsonl") {
		f.Add(v.Topic, "alice", "posts/1")
	}
	f.Fuzz(func(t *testing.T, spelling, user, path string) {
		topic, err := ParseTopic(spelling)
		if err != nil {
			if topic != All {
				t.Fatalf("ParseTopic(%q) = %v with an error", spelling, topic)
			}
			return
		}
		again, err := ParseTopic(topic.String())
		if err != nil || again != topic || len(topic.String()) > len(spelling)+1 {
			t.Fatalf("ParseTopic(%q) = %s, which reads %v, %v", spelling, topic, again, err)
		}
		if !topic.Contains(topic) || !topic.Overlaps(topic) || !All.Contains(topic) || topic.Contains(All) != (topic == All) {
			t.Fatalf("%s does not contain itself, or is not in *", topic)
		}
		if CheckUser(user) != nil || CheckPath(path) != nil {
			return
		}
		one := Exactly(Storage{user, path})
		want := slowMatches(spelling, user, path)
		if topic.Matches(user, path) != want || topic.Contains(one) != want || topic.Overlaps(one) != want || one.Overlaps(topic) != want {
			t.Fatalf("%s matches %s/%s: %v, contains: %v, overlaps: %v, back: %v, want %v", topic, user, path,
				topic.Matches(user, path), topic.Contains(one), topic.Overlaps(one), one.Overlaps(topic), want)
		}
		if inRanges(topic, path) != topic.matchesPath(path) {
			t.Fatalf("the ranges of %s do not agree about %q", topic, path)
		}
	})
}

var rfc3339 = regexp.MustCompile(`^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]+)?(Z|[+-]([01][0-9]|2[0-3]):[0-5][0-9])$`)

func FuzzParseMoment(f *testing.F) {
	for _, v := range readVectors[momentVector](f, "moment.jsonl") {
		f.Add(v.Text, int64(1795186800), uint8(len(v.Text)))
	}
	var zones []*time.Location
	for _, name := range []string{"UTC", "Europe/Berlin", "Australia/Lord_Howe", "Pacific/Apia", "America/Sao_Paulo", "Africa/Casablanca"} {
		loc, err := time.LoadLocation(name)
		if err != nil {
			f.Fatal(err)
		}
		zones = append(zones, loc)
	}
	f.Fuzz(func(t *testing.T, s string, unix int64, zone uint8) {
		const span = 1 << 33 // up to the year 2242
		now := time.Unix((unix%span+span)%span, 0).In(zones[int(zone)%len(zones)])
		m, err := ParseMoment(s)
		if err == nil {
			if again, err := ParseMoment(m.String()); err != nil || again != m {
				t.Fatalf("ParseMoment(%q) = %s, which reads %v, %v", s, m, again, err)
			}
			if m.kind == momentTime && !rfc3339.MatchString(s) {
				t.Fatalf("ParseMoment(%q) = %s, but it is no RFC 3339", s, m)
			}
			if at, ok := m.Time(now); ok && m.kind == momentAge && at > TimeOf(now) {
				t.Fatalf("the age %q is in the future: %s at %s", s, at, now)
			}
		}
		local, localErr := ParseLocalMoment(s, now)
		if err == nil && (localErr != nil || local.Moment != m) {
			t.Fatalf("ParseMoment(%q) = %v, ParseLocalMoment says %v, %v", s, m, local, localErr)
		}
		if at, ok := local.Time(now); localErr == nil && ok {
			if !at.Valid() && local.kind == momentTime {
				t.Fatalf("ParseLocalMoment(%q) = %d, which is no Time", s, at)
			}
			if clock, err := time.Parse("15:04:05", s); err == nil {
				shown := at.Time().In(now.Location())
				if shown.After(now) || shown.Format("15:04:05") != clock.Format("15:04:05") {
					t.Fatalf("ParseLocalMoment(%q) at %s = %s", s, now, shown)
				}
			}
		}
		if err != nil && localErr == nil && local.kind != momentTime {
			t.Fatalf("ParseLocalMoment(%q) = %v, which a request may not say", s, local)
		}
	})
}

func FuzzParseCursor(f *testing.F) {
	f.Add("0000000000000")
	f.Add("7ZZZZZZZZZZZZ")
	f.Add("8000000000000")
	f.Add("000000000001A.K7Q2M")
	f.Add("000000000001A.K7Q2M.3F9ZQ1")
	f.Add("000000000001A.K7Q2M.")
	f.Add("000000000001A..3F9ZQ1")
	f.Add("000000000001A.")
	f.Add("000000000001a.K7Q2M")
	f.Fuzz(func(t *testing.T, s string) {
		id, err := ParseID(s)
		if err == nil && (id.String() != s || id > MaxID) {
			t.Fatalf("ParseID(%q) = %s", s, id)
		}
		c, cursorErr := ParseCursor(s)
		if cursorErr == nil && (c.String() != s || c.ID > MaxID) {
			t.Fatalf("ParseCursor(%q) = %s", s, c)
		}
		if err == nil && (cursorErr != nil || c != (Cursor{ID: id})) {
			t.Fatalf("ParseID(%q) = %d, ParseCursor says %v, %v", s, id, c, cursorErr)
		}
		if m, err := ParseMark(s); err == nil && (m.String() != s || m == 0) {
			t.Fatalf("ParseMark(%q) = %s", s, m)
		}
		if h, err := ParseHash(s); err == nil && h.String() != s {
			t.Fatalf("ParseHash(%q) = %s", s, h)
		}
		if tm, err := parseTime([]byte(s)); err == nil && tm.String() != s {
			t.Fatalf("parseTime(%q) = %s", s, tm)
		}
	})
}

func FuzzCompactValue(f *testing.F) {
	for _, s := range []string{`{"a": [1.0, -0, 1e400, "<\u2028"]}`, " \"a b\\\" \" ", "[\n1 ,2\t]", "\"\u2028\"", `"\ud800"`, "01", "1 2", "[[[", "\xff", ""} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, v []byte) {
		got, err := CompactValue(v)
		deepest, _ := surveyJSON(v)
		if want := json.Valid(v) && utf8.Valid(v) && deepest <= MaxDepth; (err == nil) != want {
			t.Fatalf("CompactValue(%q): %v, want it taken: %v", v, err, want)
		}
		if err != nil {
			return
		}
		if want := slowCompact(v); !bytes.Equal(got, want) {
			t.Fatalf("CompactValue(%q) = %q, want %q", v, got, want)
		}
		if err := checkCompact(got); err != nil {
			t.Fatalf("CompactValue(%q) = %q, which is not compact: %v", v, got, err)
		}
		if spaced := len(got) != len(v); (checkCompact(v) != nil) != spaced {
			t.Fatalf("checkCompact(%q): %v, want white space seen: %v", v, checkCompact(v), spaced)
		}
		// An object's members must be those that a map would have.
		ms, err := Members(v)
		if err != nil {
			return
		}
		var plain map[string]json.RawMessage
		if err := json.Unmarshal(v, &plain); err != nil || len(plain) != len(ms) {
			t.Fatalf("Members(%q) finds %d, encoding/json %d: %v", v, len(ms), len(plain), err)
		}
		for _, m := range ms {
			if !bytes.Equal(plain[m.Name], m.Value) {
				t.Fatalf("Members(%q): %q is %q, want %q", v, m.Name, m.Value, plain[m.Name])
			}
		}
	})
}

// A notice identifies its event, and is not a valid line.
func FuzzNotice(f *testing.F) {
	f.Add(uint64(1), "alice", "posts/1", true)
	f.Add(uint64(MaxID), `a"b\`, "p/é", false)
	f.Fuzz(func(t *testing.T, id uint64, user, path string, put bool) {
		d := Draft{User: user, Path: path, Type: Del}
		if put {
			d.Type, d.Value = Put, []byte("1")
		}
		if id == 0 || id > uint64(MaxID) || d.Check() != nil {
			return
		}
		ev := New(ID(id), 0, d, d.Hash())
		notice := ev.AppendNotice(nil)
		if _, err := ParseLine(notice); err == nil {
			t.Fatalf("%s passes for an event", notice)
		}
		want := map[string]string{"id": ev.ID.String(), "type": string(ev.Type), "user": user, "path": path, "hash": ev.Hash.String()}
		var said map[string]string
		if err := json.Unmarshal(notice, &said); err != nil || !maps.Equal(said, want) {
			t.Fatalf("%s says %v, %v, want %v", notice, said, err, want)
		}
	})
}
