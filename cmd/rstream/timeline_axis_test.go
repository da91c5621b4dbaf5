package main

import (
	"errors"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/mattn/go-runewidth"

	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/window"
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

// The rows of a timeline begin in one column and are as wide as each other, whatever characters the
// topics' names have.
func TestTimelineOfWideNames(t *testing.T) {
	var windows []window.Window
	for _, name := range []string{"田中太郎/投稿/下書き", "田中太郎/投稿/下書き/とても長い名前の", "alice", "Zoë/e\u0301té"} {
		topic, err := event.ParseTopic(name)
		if err != nil {
			t.Fatal(err)
		}
		windows = append(windows, window.Window{Topic: topic, State: window.Committed, To: 100, Reached: 100})
	}
	for _, columns := range []int{80, 50, 25} {
		line := newTimeline(windows, columns, false)
		for i, row := range line.lines()[:len(windows)] {
			name, _, _ := strings.Cut(row, string(marks[held].char))
			if wide := runewidth.StringWidth(name); wide != line.label+2 || line.label > maxLabel {
				t.Errorf("%d columns: row %d begins after %d cells, want %d: %q", columns, i, wide, line.label+2, row)
			}
		}
		if whole := columns == 80; whole != (line.lines()[0][:len("田中太郎/投稿/下書き")] == "田中太郎/投稿/下書き") {
			t.Errorf("%d columns: %q", columns, line.lines()[0])
		}
	}
}
