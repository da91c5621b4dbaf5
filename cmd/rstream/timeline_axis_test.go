package main

import (
	"errors"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/rstream-dev/rstream/event"
)

// An axis has the times that are known, in order, and fits under its timeline.
func TestTimelineAxis(t *testing.T) {
	start := time.Date(2026, 11, 20, 10, 0, 0, 0, time.Local)
	for _, c := range []struct {
		name  string
		width int
		step  time.Duration // from one position to the next
		known func(event.ID) bool
		want  string
	}{
		{"a day", 70, time.Minute, nil, "└2026-11-20 10:14      └15:42                 └21:11 2026-11-21 02:40┘"},
		{"a month", 70, time.Hour, nil, "└2026-11-21 00:00      └12-04 16:00                  2027-01-01 02:00┘"},
		{"years", 70, 24 * time.Hour, nil, "└2026-12-04 10:00      └2027-10-28                   2029-08-16 10:00┘"},
		{"narrow", 30, time.Minute, nil, "└11-20 10:33      11-21 02:40┘"},
		{"no room for two", 20, time.Minute, nil, "        11-21 02:40┘"},
		{"only the end", 70, time.Minute, func(id event.ID) bool { return id > 800 }, "                                                     2026-11-21 02:40┘"},
		{"nothing", 70, time.Minute, func(event.ID) bool { return false }, ""},
	} {
		line := timeline{end: 1000, width: c.width}
		err := line.addTimes(func(id event.ID) (*event.Time, error) {
			if c.known != nil && !c.known(id) {
				return nil, nil
			}
			at := event.TimeOf(start.Add(time.Duration(id) * c.step))
			return &at, nil
		})
		if err != nil || line.times != c.want {
			t.Errorf("%s: %v\n%q, want\n%q", c.name, err, line.times, c.want)
		}
		if utf8.RuneCountInString(line.times) > c.width {
			t.Errorf("%s: %q is wider than %d", c.name, line.times, c.width)
		}
	}
	line, failed := timeline{end: 10, width: 20}, errors.New("failed")
	if err := line.addTimes(func(event.ID) (*event.Time, error) { return nil, failed }); !errors.Is(err, failed) {
		t.Errorf("an error is %v", err)
	}
}
