package event

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
	_ "time/tzdata"
)

// readVectors returns the rows of a file in testdata/event.
func readVectors[Row any](t testing.TB, name string) []Row {
	t.Helper()
	data, err := os.ReadFile(filepath.Join("..", "testdata", "event", name))
	if err != nil {
		t.Fatal(err)
	}
	var rows []Row
	for i, line := range strings.Split(strings.TrimSuffix(string(data), "\n"), "\n") {
		var row Row
		dec := json.NewDecoder(strings.NewReader(line))
		dec.DisallowUnknownFields()
		if err := dec.Decode(&row); err != nil {
			t.Fatalf("%s:%d: %v", name, i+1, err)
		}
		rows = append(rows, row)
	}
	return rows
}

func TestHashVectors(t *testing.T) {
	type row struct{ User, Path, Type, Key, Value, Hash string }
	seen := map[string]row{}
	for _, v := range readVectors[row](t, "hash.jsonl") {
		d := Draft{User: v.User, Path: v.Path, Type: Type(v.Type), Key: v.Key}
		if v.Value != "" {
			d.Value = []byte(v.Value)
			if err := checkCompact(d.Value); err != nil {
				t.Errorf("%.80v: %v", v, err)
			}
		}
		if err := d.Check(); err != nil {
			t.Errorf("%.80v: %v", v, err)
		}
		if got := d.Hash().String(); got != v.Hash {
			t.Errorf("hash of %.80v = %s, want %s", v, got, v.Hash)
		}
		if other, ok := seen[v.Hash]; ok {
			t.Errorf("%.80v and %.80v share a hash", v, other)
		}
		seen[v.Hash] = v
		if h, err := ParseHash(v.Hash); err != nil || h != d.Hash() {
			t.Errorf("ParseHash(%s) = %v, %v", v.Hash, h, err)
		}
	}
}

func TestIDVectors(t *testing.T) {
	type row struct{ Number, Text, Refused string }
	for _, v := range readVectors[row](t, "id.jsonl") {
		id, err := ParseID(v.Text)
		if v.Refused != "" {
			if err == nil {
				t.Errorf("ParseID(%q) = %d, want it refused: %s", v.Text, id, v.Refused)
			}
			continue
		}
		number, numErr := strconv.ParseUint(v.Number, 10, 64)
		if numErr != nil {
			t.Fatal(numErr)
		}
		if err != nil || id != ID(number) {
			t.Errorf("ParseID(%q) = %d, %v, want %d", v.Text, id, err, number)
		}
		if got := ID(number).String(); got != v.Text {
			t.Errorf("ID(%d) = %s, want %s", number, got, v.Text)
		}
	}
}

func TestMarkVectors(t *testing.T) {
	type row struct{ ID, Time, Hash, Mark, Cursor, Why, Refused string }
	for _, v := range readVectors[row](t, "mark.jsonl") {
		c, err := ParseCursor(v.Cursor)
		if v.Refused != "" {
			if err == nil {
				t.Errorf("ParseCursor(%q) = %s, want it refused: %s", v.Cursor, c, v.Refused)
			}
			continue
		}
		id, idErr := ParseID(v.ID)
		at, timeErr := parseTime([]byte(v.Time))
		hash, hashErr := ParseHash(v.Hash)
		if err := errors.Join(idErr, timeErr, hashErr, err); err != nil {
			t.Fatal(err)
		}
		want := MarkOf(id, at, hash)
		if want.String() != v.Mark || c != (Point{id, want}).Cursor("K7Q2M4X9C0V3B8RT") || c.String() != v.Cursor {
			t.Errorf("the mark of %+v is %s, the cursor %s", v, want, c)
		}
	}
}

type topicVector struct {
	Topic, Prints, Refused                  string
	Matches, Not, Contains, Overlaps, Apart []string
}

func TestTopicVectors(t *testing.T) {
	parse := func(s string) Topic {
		topic, err := ParseTopic(s)
		if err != nil {
			t.Error(err)
		}
		return topic
	}
	for _, v := range readVectors[topicVector](t, "topic.jsonl") {
		topic, err := ParseTopic(v.Topic)
		if v.Refused != "" {
			if err == nil {
				t.Errorf("ParseTopic(%.80q) = %.80v, want it refused: %s", v.Topic, topic, v.Refused)
			}
			continue
		}
		if err != nil {
			t.Error(err)
			continue
		}
		if topic.String() != v.Prints {
			t.Errorf("ParseTopic(%.80q) = %.80v, want %.80s", v.Topic, topic, v.Prints)
		}
		if parse(v.Prints) != topic {
			t.Errorf("%.80q and %.80q are not equal", v.Topic, v.Prints)
		}
		match := func(storage string, want bool) {
			// A storage that is none is in no topic's vectors but as a warning.
			s, err := ParseStorage(storage)
			if err != nil {
				if want {
					t.Error(err)
				}
				return
			}
			if topic.Matches(s.User, s.Path) != want {
				t.Errorf("%.80v matches %.80s: %v, want %v", topic, storage, !want, want)
			}
		}
		for _, s := range v.Matches {
			match(s, true)
		}
		for _, s := range v.Not {
			match(s, false)
		}
		relate := func(others []string, contains, overlaps bool) {
			for _, s := range others {
				u := parse(s)
				if topic.Contains(u) != contains {
					t.Errorf("%.80v contains %.80v: %v, want %v", topic, u, !contains, contains)
				}
				if topic.Overlaps(u) != overlaps || u.Overlaps(topic) != overlaps {
					t.Errorf("%.80v overlaps %.80v: %v and back %v, want %v", topic, u, topic.Overlaps(u), u.Overlaps(topic), overlaps)
				}
			}
		}
		relate([]string{v.Topic}, true, true)
		relate(v.Contains, true, true)
		relate(v.Overlaps, false, true)
		relate(v.Apart, false, false)
	}
}

type lineVector struct {
	Line    string
	Base64  []byte
	Refused string
	Why     string
}

func (v lineVector) bytes() []byte {
	if v.Base64 != nil {
		return v.Base64
	}
	return []byte(v.Line)
}

func TestLineVectors(t *testing.T) {
	for _, v := range readVectors[lineVector](t, "line.jsonl") {
		line := v.bytes()
		ev, err := ParseLine(line)
		if v.Refused != "" {
			if err == nil {
				t.Errorf("ParseLine(%.400q) succeeds, want it refused: %s", line, v.Refused)
			} else if _, reason, _ := strings.Cut(err.Error(), `": `); !strings.Contains(reason, v.Refused) {
				t.Errorf("ParseLine(%.400q): %v, want %s", line, err, v.Refused)
			}
			if isHash := strings.HasPrefix(v.Refused, "hash does not match"); errors.Is(err, ErrHash) != isHash {
				t.Errorf("ParseLine(%.400q): %v, which is ErrHash: %v, want %v", line, err, !isHash, isHash)
			}
			continue
		}
		if err != nil {
			t.Errorf("%s: %v", v.Why, err)
			continue
		}
		if !bytes.Equal(ev.Line(), line) {
			t.Errorf("%s: the line is\n%.400s, want\n%.400s", v.Why, ev.Line(), line)
		}
		checkLine(t, ev, line)
	}
}

// checkLine checks the invariants of every line that ParseLine accepts.
func checkLine(t testing.TB, ev Event, line []byte) {
	t.Helper()
	fresh := ev
	fresh.line = nil
	if got := fresh.AppendLine(nil); !bytes.Equal(got, line) {
		t.Errorf("encoded again, the line is\n%.400q, want\n%.400q", got, line)
	}
	if got := fresh.Line(); !bytes.Equal(got, line) {
		t.Errorf("Line without a kept line is\n%.400q, want\n%.400q", got, line)
	}
	if !json.Valid(line) || bytes.ContainsAny(line, "\n\r\x00") {
		t.Errorf("the line %.400q is no line of JSON", line)
	}
	if stored, err := Stored(line); err != nil || !reflect.DeepEqual(stored, ev) {
		t.Errorf("Stored(%.400q) = %.400v, %v, want %.400v", line, stored, err, ev)
	}
	skimmed := Skimmed{ev.ID, []byte(ev.User), []byte(ev.Path), ev.Type}
	if at, typ, err := SkimPoint(line); err != nil || at != (Point{ev.ID, ev.Mark()}) || typ != ev.Type {
		t.Errorf("SkimPoint(%.400q) = %v, %s, %v, want %s, %s, %s", line, at, typ, err, ev.ID, ev.Mark(), ev.Type)
	}
	if got, time, hash, err := SkimHash(line); err != nil || !reflect.DeepEqual(got, skimmed) || time != ev.Time || hash != ev.Hash {
		t.Errorf("SkimHash(%.400q) = %.400v, %s, %s, %v, want %.400v, %s, %s", line, got, time, hash, err, skimmed, ev.Time, ev.Hash)
	}
	if got, err := Skim(line); err != nil || !reflect.DeepEqual(got, skimmed) {
		t.Errorf("Skim(%.400q) = %.400v, %v, want %.400v", line, got, err, skimmed)
	}
	if ev.Covered() {
		if made := New(ev.ID, ev.Time, ev.Draft, ev.Hash); !bytes.Equal(made.Line(), line) {
			t.Errorf("New makes the line\n%.400q, want\n%.400q", made.Line(), line)
		}
		d, err := ParseDraft(line)
		if err != nil {
			t.Errorf("ParseDraft(%.400q): %v", line, err)
		}
		if d.Hash() != ev.Hash {
			t.Errorf("ParseDraft(%.400q) has the hash %s, want %s", line, d.Hash(), ev.Hash)
		}
	}
	// Any JSON reader must see what ParseLine saw.
	var plain struct {
		ID                    ID
		Time                  time.Time
		User, Path, Type, Key string
		Hash                  Hash
		Value                 json.RawMessage
	}
	if len(ev.Extra) > 0 {
		return // encoding/json folds the case of names
	}
	if err := json.Unmarshal(line, &plain); err != nil {
		t.Errorf("json.Unmarshal(%.400q): %v", line, err)
	}
	if plain.ID != ev.ID || TimeOf(plain.Time) != ev.Time || plain.User != ev.User || plain.Path != ev.Path ||
		plain.Type != string(ev.Type) || plain.Key != ev.Key || plain.Hash != ev.Hash || !bytes.Equal(plain.Value, ev.Value) {
		t.Errorf("ParseLine and encoding/json read %.400q as\n%.400v and\n%.400v", line, ev, plain)
	}
}

type momentVector struct {
	Text, Now, Zone      string
	Time, Cursor, Prints string
	IsNow                bool `json:"is_now"`
	Refused, Why         string
}

func TestMomentVectors(t *testing.T) {
	for _, v := range readVectors[momentVector](t, "moment.jsonl") {
		now := time.Date(2026, 11, 20, 15, 0, 0, 0, time.UTC)
		if v.Now != "" {
			var err error
			if now, err = time.Parse(time.RFC3339, v.Now); err != nil {
				t.Fatal(err)
			}
			loc, err := time.LoadLocation(v.Zone)
			if err != nil {
				t.Fatal(err)
			}
			now = now.In(loc)
		}
		local, err := ParseLocalMoment(v.Text, now)
		request, requestErr := ParseMoment(v.Text)
		if v.Refused != "" {
			if err == nil || requestErr == nil {
				t.Errorf("%q is %v, in a request %v, want it refused: %s", v.Text, local, request, v.Refused)
			}
			continue
		}
		if err != nil {
			t.Error(err)
			continue
		}
		switch got, ok := local.Time(now); {
		case v.Time != "" && (!ok || got.String() != v.Time):
			t.Errorf("%q at %s is %s, want %s: %s", v.Text, now, got, v.Time, v.Why)
		case v.Time == "" && ok:
			t.Errorf("%q is the time %s, want none", v.Text, got)
		}
		switch got, ok := local.Cursor(); {
		case v.Cursor != "" && (!ok || got.String() != v.Cursor):
			t.Errorf("%q is the cursor %s, want %s", v.Text, got, v.Cursor)
		case v.Cursor == "" && ok:
			t.Errorf("%q is the cursor %s, want none", v.Text, got)
		}
		if local.IsNow() != v.IsNow {
			t.Errorf("%q is now: %v, want %v", v.Text, local.IsNow(), v.IsNow)
		}
		if v.Prints == "" {
			if requestErr == nil {
				t.Errorf("a request may say %q, want it refused: only now's zone tells what it is", v.Text)
			}
		} else if requestErr != nil || request.String() != v.Prints || request != local.Moment {
			t.Errorf("ParseMoment(%q) = %v, %v, want %s", v.Text, request, requestErr, v.Prints)
		}
		if again, err := ParseMoment(local.String()); err != nil || again != local.Moment {
			t.Errorf("%q prints %s, which reads %v, %v", v.Text, local, again, err)
		}
	}
}

// A time of day must be the one found by a walk back, second by second.
func TestLastAtAgainstWalk(t *testing.T) {
	for _, around := range []struct{ zone, from string }{
		{"Europe/Berlin", "2026-03-29T00:00:00Z"},
		{"Europe/Berlin", "2026-10-24T22:00:00Z"},
		{"Australia/Lord_Howe", "2026-04-04T13:00:00Z"},
		{"America/Sao_Paulo", "2018-11-04T01:00:00Z"},
		{"Pacific/Apia", "2011-12-30T08:00:00Z"},
		{"Asia/Kolkata", "2026-01-01T00:00:00Z"},
	} {
		loc, err := time.LoadLocation(around.zone)
		if err != nil {
			t.Fatal(err)
		}
		from, err := time.Parse(time.RFC3339, around.from)
		if err != nil {
			t.Fatal(err)
		}
		const step = 15 * time.Minute
		// shown lists the steps of four days with what the clock shows at each.
		type shownAt struct {
			at    time.Time
			clock string
		}
		var shown []shownAt
		for at := from.Add(-72 * time.Hour); at.Before(from.Add(6 * time.Hour)); at = at.Add(step) {
			shown = append(shown, shownAt{at, at.In(loc).Format("15:04")})
		}
		for i, s := range shown {
			if s.at.Before(from) {
				continue
			}
			for minute := 0; minute < 24*60; minute += 15 {
				clock := time.Date(0, 1, 1, 0, minute, 0, 0, time.UTC)
				j := i
				for shown[j].clock != clock.Format("15:04") {
					j--
				}
				if got := lastShownAt(clock, s.at.In(loc)); !got.Equal(shown[j].at) {
					t.Errorf("%s: the last %s at %s is %s, want %s", around.zone, clock.Format("15:04"), s.at.In(loc), got, shown[j].at.In(loc))
				}
			}
		}
		// A date and time is the first step that shows it or a later one.
		for minute := 0; minute < 48*60; minute += 15 {
			wall := from.In(loc).AddDate(0, 0, -1).Truncate(time.Hour)
			want := time.Date(wall.Year(), wall.Month(), wall.Day(), 0, minute, 0, 0, time.UTC)
			j := slices.IndexFunc(shown, func(s shownAt) bool {
				local := s.at.In(loc)
				_, offset := local.Zone()
				return !s.at.Add(time.Duration(offset) * time.Second).Before(want)
			})
			if j > 0 {
				if got, _ := wallMoment(want, loc).Time(from); got != TimeOf(shown[j].at) {
					t.Errorf("%s: %s is %s, want %s", around.zone, want.Format(time.DateTime), got.Time().In(loc), shown[j].at.In(loc))
				}
			}
		}
	}
}

// Around a change of the clock, times that it showed twice or skipped are reported.
func TestClockChanges(t *testing.T) {
	for _, c := range []struct {
		zone, now, text     string
		first, last, jumped string
	}{
		{"America/New_York", "2026-11-20T15:00:00Z", "2026-11-01 00:59:59", "", "", ""},
		{"America/New_York", "2026-11-20T15:00:00Z", "2026-11-01 01:00", "2026-11-01T01:00:00-04:00", "2026-11-01T01:00:00-05:00", ""},
		{"America/New_York", "2026-11-20T15:00:00Z", "2026-11-01T01:59:59", "2026-11-01T01:59:59-04:00", "2026-11-01T01:59:59-05:00", ""},
		{"America/New_York", "2026-11-20T15:00:00Z", "2026-11-01T02:00", "", "", ""},
		{"America/New_York", "2026-11-20T15:00:00Z", "2026-03-08 01:59:59", "", "", ""},
		{"America/New_York", "2026-11-20T15:00:00Z", "2026-03-08 02:00", "", "", "2026-03-08T03:00:00-04:00"},
		{"America/New_York", "2026-11-20T15:00:00Z", "2026-03-08 02:59:59", "", "", "2026-03-08T03:00:00-04:00"},
		{"America/New_York", "2026-11-20T15:00:00Z", "2026-03-08 03:00", "", "", ""},
		{"America/New_York", "2026-11-20T15:00:00Z", "2030-11-03 01:30", "2030-11-03T01:30:00-04:00", "2030-11-03T01:30:00-05:00", ""},
		{"America/New_York", "2026-11-01T05:45:00Z", "01:30", "", "", ""},
		{"America/New_York", "2026-11-01T06:29:59Z", "01:30", "", "", ""},
		{"America/New_York", "2026-11-01T06:30:00Z", "01:30", "2026-11-01T01:30:00-04:00", "2026-11-01T01:30:00-05:00", ""},
		{"America/New_York", "2026-11-02T06:00:00Z", "01:30", "2026-11-01T01:30:00-04:00", "2026-11-01T01:30:00-05:00", ""},
		{"America/New_York", "2026-11-02T07:00:00Z", "01:30", "", "", ""},
		{"America/New_York", "2026-03-08T06:59:59Z", "02:30", "", "", ""},
		{"America/New_York", "2026-03-08T07:00:00Z", "02:30", "", "", "2026-03-08T03:00:00-04:00"},
		{"America/New_York", "2026-03-09T06:29:59Z", "02:30", "", "", "2026-03-08T03:00:00-04:00"},
		{"America/New_York", "2026-03-09T06:30:00Z", "02:30", "", "", ""},
		{"Europe/Berlin", "2026-11-20T15:00:00Z", "2026-10-25 02:30", "2026-10-25T02:30:00+02:00", "2026-10-25T02:30:00+01:00", ""},
		{"Europe/Berlin", "2026-11-20T15:00:00Z", "2026-10-25", "", "", ""},
		{"Europe/Berlin", "2026-11-20T15:00:00Z", "2026-10-25 03:00", "", "", ""},
		{"Europe/Berlin", "2026-11-20T15:00:00Z", "2026-03-29 02:30", "", "", "2026-03-29T03:00:00+02:00"},
		{"Europe/Berlin", "2026-10-25T01:15:00Z", "02:30", "", "", ""},
		{"Europe/Berlin", "2026-10-25T01:45:00Z", "02:30:30", "2026-10-25T02:30:30+02:00", "2026-10-25T02:30:30+01:00", ""},
		{"Europe/Berlin", "2026-11-20T15:00:00Z", "2026-10-25T02:30:00+02:00", "", "", ""},
		{"Europe/Berlin", "2026-10-25T12:00:00Z", "12h", "", "", ""},
		{"Europe/Berlin", "2026-11-20T15:00:00Z", "now", "", "", ""},
		{"Australia/Lord_Howe", "2026-11-20T15:00:00Z", "2026-04-05 01:29", "", "", ""},
		{"Australia/Lord_Howe", "2026-11-20T15:00:00Z", "2026-04-05 01:45", "2026-04-05T01:45:00+11:00", "2026-04-05T01:45:00+10:30", ""},
		{"Australia/Lord_Howe", "2026-11-20T15:00:00Z", "2026-04-05 02:00", "", "", ""},
		{"Australia/Lord_Howe", "2026-11-20T15:00:00Z", "2026-10-04 02:15", "", "", "2026-10-04T02:30:00+11:00"},
		{"Australia/Lord_Howe", "2026-11-20T15:00:00Z", "2026-10-04 02:30", "", "", ""},
		{"Pacific/Apia", "2026-11-20T15:00:00Z", "2011-12-30", "", "", "2011-12-31T00:00:00+14:00"},
		{"Asia/Kolkata", "2026-11-20T15:00:00Z", "2026-10-25 02:30", "", "", ""},
	} {
		loc, err := time.LoadLocation(c.zone)
		if err != nil {
			t.Fatal(err)
		}
		now, err := time.Parse(time.RFC3339, c.now)
		if err != nil {
			t.Fatal(err)
		}
		m, err := ParseLocalMoment(c.text, now.In(loc))
		if err != nil {
			t.Error(err)
			continue
		}
		show := func(at time.Time) string {
			if at.IsZero() {
				return ""
			}
			return at.Format(time.RFC3339)
		}
		if show(m.First) != c.first || show(m.Last) != c.last || show(m.Skipped) != c.jumped {
			t.Errorf("%s: %q at %s is twice %q and %q, skipped %q, want %q, %q, %q", c.zone, c.text, c.now,
				show(m.First), show(m.Last), show(m.Skipped), c.first, c.last, c.jumped)
		}
	}
}
