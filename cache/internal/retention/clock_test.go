package retention

import (
	"testing"
	"time"

	"github.com/rstream-dev/rstream/event"
)

// What retention's clock shows, in steps of time that passes and a wall clock that is
// ahead of it.
func TestRetainClock(t *testing.T) {
	const day = 24 * time.Hour
	far := 73 * 365 * day
	type step struct{ passes, ahead, want time.Duration } // want is since the start
	for name, steps := range map[string][]step{
		"as it should be":              {{0, 0, 0}, {time.Minute, 0, time.Minute}, {day, 0, day + time.Minute}},
		"corrected a little":           {{time.Minute, time.Second, time.Minute}, {time.Hour, 2 * time.Second, time.Hour + time.Minute + 2*time.Second}},
		"far ahead and back":           {{0, far, 0}, {time.Hour, far, time.Hour}, {day, far, day + time.Hour}, {time.Minute, 0, day + time.Hour + time.Minute}},
		"back and right again":         {{time.Minute, -far, time.Minute - far}, {time.Minute, 0, 2 * time.Minute}},
		"a day ahead for half an hour": {{time.Minute, day, time.Minute}, {30 * time.Minute, day, 31 * time.Minute}, {time.Hour, 0, 91 * time.Minute}},
		"a day that nobody saw pass":   {{time.Minute, day, time.Minute}, {time.Hour, day, time.Hour + time.Minute + day}, {time.Minute, day, time.Hour + 2*time.Minute + day}},
		"it is set all the time":       {{time.Minute, day, time.Minute}, {40 * time.Minute, 2 * day, 41 * time.Minute}, {40 * time.Minute, day, 81 * time.Minute}},
		"too long to be believed":      {{time.Minute, 31 * day, time.Minute}, {2 * time.Hour, 31 * day, 2*time.Hour + time.Minute}},
	} {
		t.Run(name, func(t *testing.T) {
			start := time.Date(2026, 11, 20, 10, 0, 0, 0, time.UTC)
			var passed, ahead time.Duration
			c := newClock(func() time.Time { return start.Add(passed + ahead) }, func() time.Duration { return passed }, event.TimeOf(start))
			for i, s := range steps {
				passed, ahead = passed+s.passes, s.ahead
				if got := c.now().Time().Sub(start); got != s.want {
					t.Errorf("step %d: %s since the start, want %s", i, got, s.want)
				}
			}
		})
	}
}
