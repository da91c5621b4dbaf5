package event

import (
	"fmt"
	"strconv"
	"strings"
	"time"
)

// A Moment is a point in a log as a person or a request writes it. It is resolved to a
// position once; from then on positions travel. Moments can be compared with ==.
//
// The zero Moment names no point: the doc of what takes it says which one it stands for. Where
// a range begins it is the beginning, and so it is written and resolved; a state of no
// moment is that of now.
type Moment struct {
	kind   momentKind
	cursor Cursor
	time   Time
	age    time.Duration
}

type momentKind uint8

const (
	momentNone momentKind = iota
	momentBeginning
	momentNow
	momentID
	momentTime
	momentAge
)

// The moments at the two ends of a log.
var (
	FromBeginning = Moment{kind: momentBeginning}
	Now           = Moment{kind: momentNow}
)

// At returns the moment of a position.
func At(c Cursor) Moment { return Moment{kind: momentID, cursor: c} }

// AtTime returns the moment of a time.
func AtTime(t Time) Moment { return Moment{kind: momentTime, time: t} }

// Cursor returns the position that m names by itself; ok is false if m is a time
// or now.
func (m Moment) Cursor() (c Cursor, ok bool) {
	return m.cursor, m.kind == momentID || m.kind == momentBeginning || m.kind == momentNone
}

// Resolve returns the position that m stands for in a log that ends at end: the one that
// m names, end if m is now, or else that of its time, an age being taken back from now.
// positionAt returns the position of the last event at or before a time; what it finds
// after end, since more has been appended meanwhile, counts as end. A position that m
// names is returned as it is: it may belong to another log.
func (m Moment) Resolve(now time.Time, end Cursor, positionAt func(Time) (ID, error)) (Cursor, error) {
	if m.IsNow() {
		return end, nil
	}
	t, ok := m.Time(now)
	if !ok {
		return m.cursor, nil
	}
	at, err := positionAt(t)
	if err != nil {
		return Cursor{}, err
	}
	return Cursor{ID: min(at, end.ID)}, nil
}

// IsNow reports whether m is "now".
func (m Moment) IsNow() bool { return m.kind == momentNow }

// Time returns the time that m names, an age being taken back from now; ok is
// false if m names none.
func (m Moment) Time(now time.Time) (t Time, ok bool) {
	switch m.kind {
	case momentTime:
		return m.time, true
	case momentAge:
		return TimeOf(now.Add(-m.age)), true
	}
	return 0, false
}

// FixedTime returns the time that m names; ok is false if it names none or one that
// depends on when it is asked.
func (m Moment) FixedTime() (t Time, ok bool) { return m.time, m.kind == momentTime }

// String returns m as a request writes it; ParseMoment reads it back.
func (m Moment) String() string {
	switch m.kind {
	case momentNow:
		return "now"
	case momentID:
		return m.cursor.String()
	case momentTime:
		return m.time.String()
	case momentAge:
		return m.age.String()
	}
	return "beginning"
}

// ParseMoment reads a moment as a request writes it: an id or a cursor, an RFC
// 3339 time, an age such as 90s, 24h, 7d or 2w, "beginning" or 0, or "now".
func ParseMoment(s string) (Moment, error) {
	switch s {
	case "beginning", "0": // 0 is where a feed begins elsewhere; an age has a unit
		return FromBeginning, nil
	case "now":
		return Now, nil
	}
	if c, err := ParseCursor(s); err == nil {
		return At(c), nil
	}
	if age, ok := parseAge(s); ok {
		return Moment{kind: momentAge, age: age}, nil
	}
	if t, ok := parseRFC3339(s); ok && t.Valid() {
		return AtTime(t), nil
	}
	return Moment{}, fmt.Errorf("parse moment %.40q: want an id, a time such as 2026-11-20T10:00:00Z, an age such as 24h or 7d, beginning or now", s)
}

// ParseAge reads an age such as 90s, 24h, 7d or 2w.
func ParseAge(s string) (time.Duration, error) {
	age, ok := parseAge(s)
	if !ok {
		return 0, fmt.Errorf("parse age %.40q: want one such as 90s, 24h, 7d or 2w", s)
	}
	return age, nil
}

// parseRFC3339 reads what RFC 3339 calls a time. time.Parse alone would also take
// hours of one digit, a comma before the fraction and zones of 24 hours.
func parseRFC3339(s string) (Time, bool) {
	t, err := time.Parse(time.RFC3339, s)
	if err != nil || s[len("2006-01-02T15")] != ':' || strings.Contains(s, ",") {
		return 0, false
	}
	if zone := s[len(s)-len("07:00"):]; s[len(s)-1] != 'Z' && (zone > "23:59" || zone[len("07:")] > '5') {
		return 0, false
	}
	return TimeOf(t), true
}

// parseAge reads a duration, in which d and w may stand for days of 24 hours and
// weeks of 7 such days.
func parseAge(s string) (time.Duration, bool) {
	if n, ok := cutUnit(s, "d"); ok {
		return n * 24 * time.Hour, n <= 100*366
	}
	if n, ok := cutUnit(s, "w"); ok {
		return n * 7 * 24 * time.Hour, n <= 100*53
	}
	age, err := time.ParseDuration(s)
	if err != nil || age < 0 || strings.HasPrefix(s, "+") || strings.HasPrefix(s, "-") {
		return 0, false
	}
	return age, true
}

func cutUnit(s, unit string) (time.Duration, bool) {
	digits, ok := strings.CutSuffix(s, unit)
	if !ok {
		return 0, false
	}
	n, err := strconv.ParseUint(digits, 10, 31)
	return time.Duration(n), err == nil
}
