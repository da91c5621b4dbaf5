package event

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// A LocalMoment is a moment as a person writes it, in local time. A local time is ambiguous
// or missing around a change of the zone's clock, such as the start of daylight saving
// time.
type LocalMoment struct {
	Moment

	// First and Last are the two times at which the clock showed the local time, if it
	// was set back over it. Otherwise they are zero.
	First, Last time.Time
	// Skipped is the time at which the clock was set forward over the local time.
	// Otherwise it is zero.
	Skipped time.Time
}

// ParseLocalMoment parses the forms of ParseMoment, seconds since 1970 of nine or ten
// digits, and local forms in now's zone. 14:05, 14:05:30 and 2:05pm are the last such time
// that is not in the future. A date, a date and time, and today or yesterday with or without
// a time, are as written; without a time they are the start of that day. If the clock showed
// a date and time twice, the result is the first one. If the clock skipped it, the result is
// the time of the jump.
func ParseLocalMoment(s string, now time.Time) (LocalMoment, error) {
	if clock, ok := parseClock(s); ok {
		return clockMoment(clock, now), nil
	}
	if wall, ok := parseWall(s, now); ok {
		if m := wallMoment(wall, now.Location()); m.time.Valid() {
			return m, nil
		}
	}
	if t, ok := parseEpoch(s); ok {
		return LocalMoment{Moment: AtTime(t)}, nil
	}
	m, err := ParseMoment(s)
	if err != nil {
		return LocalMoment{}, fmt.Errorf("parse moment %.40q: %w", s, errNoMoment)
	}
	return LocalMoment{Moment: m}, nil
}

var errNoMoment = errors.New("want an id, a time (14:05), an age (24h), beginning or now")

// parseClock parses a time of day: of 24 hours, or of 12 with am or pm.
func parseClock(s string) (clock time.Time, ok bool) {
	layouts := []string{"15:04", "15:04:05"}
	if half := strings.ToLower(s); strings.HasSuffix(half, "m") {
		layouts, s = []string{"3pm", "3 pm", "3:04pm", "3:04 pm", "3:04:05pm", "3:04:05 pm"}, half
	}
	return parseLayouts(s, layouts)
}

// parseWall parses a date, alone or with a time of day, or a day word in place of the date.
func parseWall(s string, now time.Time) (wall time.Time, ok bool) {
	word, rest, timed := strings.Cut(s, " ")
	back, ok := map[string]int{"today": 0, "yesterday": 1}[strings.ToLower(word)]
	if !ok {
		return parseLayouts(s, []string{"2006-01-02", "2006-01-02T15:04", "2006-01-02T15:04:05", "2006-01-02 15:04", "2006-01-02 15:04:05"})
	}
	year, month, day := now.Date()
	wall = time.Date(year, month, day-back, 0, 0, 0, 0, time.UTC)
	if !timed {
		return wall, true
	}
	clock, ok := parseClock(rest)
	return wall.Add(sinceMidnight(clock)), ok
}

func parseLayouts(s string, layouts []string) (t time.Time, ok bool) {
	for _, layout := range layouts {
		if t, err := time.Parse(layout, s); err == nil {
			return t, true
		}
	}
	return t, false
}

// parseEpoch parses seconds since 1970. Numbers of fewer digits are likelier a mistake, and
// those of more are likelier milliseconds.
func parseEpoch(s string) (Time, bool) {
	if len(s) != 9 && len(s) != 10 {
		return 0, false
	}
	seconds, err := strconv.ParseUint(s, 10, 63)
	return TimeOf(time.Unix(int64(seconds), 0)), err == nil
}

// wallMoment returns the moment at which the calendar and clock in loc show the same as wall.
func wallMoment(wall time.Time, loc *time.Location) LocalMoment {
	first, last, jump := shownAt(wall, loc)
	switch {
	case first.IsZero():
		return LocalMoment{Moment: AtTime(TimeOf(jump)), Skipped: jump}
	case first.Equal(last):
		return LocalMoment{Moment: AtTime(TimeOf(first))}
	}
	return LocalMoment{Moment: AtTime(TimeOf(first)), First: first, Last: last}
}

// clockMoment returns the last moment not after now at which the clock in now's zone shows
// the same as clock.
func clockMoment(clock, now time.Time) LocalMoment {
	at := lastShownAt(clock, now)
	m := LocalMoment{Moment: AtTime(TimeOf(at))}
	wall := time.Date(at.Year(), at.Month(), at.Day(), at.Hour(), at.Minute(), at.Second(), at.Nanosecond(), time.UTC)
	if first, last, _ := shownAt(wall, now.Location()); !first.Equal(last) && !last.After(now) {
		m.First, m.Last = first, last
	}
	// A day later, the clock must have shown it again by now, unless it skipped it.
	if first, _, jump := shownAt(wall.AddDate(0, 0, 1), now.Location()); first.IsZero() && !jump.After(now) {
		m.Skipped = jump
	}
	return m
}

// lastShownAt returns the last time not after now at which the clock in now's zone
// shows the same as clock. It goes back through the periods with a constant zone
// offset, so that it finds the second of two 02:30 and skips a day without one.
func lastShownAt(clock, now time.Time) time.Time {
	for t := now; ; {
		back := sinceMidnight(t) - sinceMidnight(clock)
		if back < 0 {
			back += 24 * time.Hour
		}
		at := t.Add(-back)
		start, _ := t.ZoneBounds()
		if start.IsZero() || !at.Before(start) {
			return at
		}
		t = start.Add(-1)
	}
}

// sinceMidnight returns the time of day that t's clock shows.
func sinceMidnight(t time.Time) time.Duration {
	hour, minute, sec := t.Clock()
	return time.Duration(hour)*time.Hour + time.Duration(minute)*time.Minute +
		time.Duration(sec)*time.Second + time.Duration(t.Nanosecond())
}

// shownAt returns the first and the last time at which the calendar and clock in loc show
// the same as wall. If they never do, both are zero, and jump is when they skipped it.
func shownAt(wall time.Time, loc *time.Location) (first, last, jump time.Time) {
	for t := wall.Add(-48 * time.Hour).In(loc); ; {
		_, offset := t.Zone()
		_, end := t.ZoneBounds()
		at := wall.Add(-time.Duration(offset) * time.Second).In(loc)
		switch {
		case at.Before(t):
			if first.IsZero() && jump.IsZero() {
				jump = t
			}
		case end.IsZero() || at.Before(end):
			if first.IsZero() {
				first = at
			}
			last = at
		}
		if end.IsZero() || end.After(wall.Add(48*time.Hour)) {
			return first, last, jump
		}
		t = end
	}
}
