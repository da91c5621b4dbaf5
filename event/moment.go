package event

import (
	"fmt"
	"strconv"
	"strings"
	"time"
)

// A Moment is a point in a log as a person or a request writes it. It is resolved to a
// position once; later requests send the position. Moments can be compared with ==.
//
// The zero Moment is a default: each function that accepts a Moment documents its meaning.
// As the start of a range it is the beginning, which is also how it is printed and resolved;
// for a state it is now.
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

// FromBeginning and Now are the moments at the two ends of a log.
var (
	FromBeginning = Moment{kind: momentBeginning}
	Now           = Moment{kind: momentNow}
)

// At returns the moment of a position.
func At(c Cursor) Moment { return Moment{kind: momentID, cursor: c} }

// AtTime returns the moment of a time.
func AtTime(t Time) Moment { return Moment{kind: momentTime, time: t} }

// Cursor returns the position of m. ok is false if m is a time, an age or now, whose position
// depends on the log.
func (m Moment) Cursor() (c Cursor, ok bool) {
	return m.cursor, m.kind == momentID || m.kind == momentBeginning || m.kind == momentNone
}

// Resolve returns the position of m in a log that ends at end: end if m is now, the position
// that m contains, or the position at its time. An age is relative to now. positionAt must
// return the position of the last event at or before a time; if that is after end, because
// events were appended meanwhile, Resolve returns end. Resolve does not check a position
// that m contains: it may belong to another log.
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

// IsNow reports whether m is Now.
func (m Moment) IsNow() bool { return m.kind == momentNow }

// Time returns the time of m, where an age is relative to now. ok is false if m is neither a
// time nor an age.
func (m Moment) Time(now time.Time) (t Time, ok bool) {
	switch m.kind {
	case momentTime:
		return m.time, true
	case momentAge:
		return TimeOf(now.Add(-m.age)), true
	}
	return 0, false
}

// FutureTime returns the time of m. ok is false if m is not a time after now.
func (m Moment) FutureTime(now time.Time) (t Time, ok bool) {
	t, ok = m.Time(now)
	return t, ok && t > TimeOf(now)
}

// FixedTime returns the time of m. ok is false if m is not a time; an age is not.
func (m Moment) FixedTime() (t Time, ok bool) { return m.time, m.kind == momentTime }

// String returns m as it is written in a request, which ParseMoment parses.
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

// ParseMoment parses a moment as it is written in a request: an id or a cursor, an RFC 3339
// time, an age such as 90s, 24h, 7d, 2w or 1d12h, "beginning" or 0, or "now".
func ParseMoment(s string) (Moment, error) {
	switch s {
	case "beginning", "0": // other feeds begin at 0; an age always has a unit
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
	return Moment{}, fmt.Errorf("parse moment %.40q: want an id, a time of RFC 3339, an age (24h), beginning or now", s)
}

// ParseAge parses an age such as 90s, 24h, 7d, 2w or 1d12h.
func ParseAge(s string) (time.Duration, error) {
	age, ok := parseAge(s)
	if !ok {
		return 0, fmt.Errorf("parse age %.40q: want one such as 90s, 24h, 7d or 2w", s)
	}
	return age, nil
}

// parseRFC3339 parses a time by RFC 3339. time.Parse alone also accepts hours of one digit,
// a comma before the fraction and zones of 24 hours.
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

// parseAge parses a duration in the form of time.ParseDuration, after a number of weeks (w,
// 7 days each), of days (d, 24 hours each), or both.
func parseAge(s string) (age time.Duration, ok bool) {
	for _, unit := range []struct {
		name string
		long time.Duration
		most uint64
	}{{"w", 7 * 24 * time.Hour, 100 * 53}, {"d", 24 * time.Hour, 100 * 366}} {
		digits, rest, found := strings.Cut(s, unit.name)
		if !found {
			continue
		}
		n, err := strconv.ParseUint(digits, 10, 31)
		if err != nil || n > unit.most {
			return 0, false
		}
		age += time.Duration(n) * unit.long
		if s = rest; s == "" {
			return age, true
		}
	}
	rest, err := time.ParseDuration(s)
	if err != nil || rest < 0 || strings.HasPrefix(s, "+") || strings.HasPrefix(s, "-") || age+rest < age {
		return 0, false
	}
	return age + rest, true
}
