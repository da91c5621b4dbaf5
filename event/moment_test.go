package event

import (
	"errors"
	"testing"
	"time"
)

func TestMomentResolve(t *testing.T) {
	const log = "K7Q2M4D5"
	now := time.Date(2026, 11, 20, 10, 0, 0, 0, time.UTC)
	end := Point{ID: 100, Mark: MarkOf(100, 1, Hash{})}.Cursor(log)
	own, other := CursorOf(7, log), CursorOf(200, "ZZZZZ")
	parse := func(s string) Moment {
		m, err := ParseMoment(s)
		if err != nil {
			t.Fatal(err)
		}
		return m
	}
	for _, c := range []struct {
		m     Moment
		asked Time // the time whose position is asked for, if one is
		found ID
		want  Cursor
	}{
		{m: Moment{}, want: Cursor{}},
		{m: FromBeginning, want: Cursor{}},
		{m: Now, want: end},
		{m: At(own), want: own},
		{m: At(other), want: other},
		{m: parse("2026-11-20T09:00:00Z"), asked: TimeOf(now.Add(-time.Hour)), found: 42, want: Cursor{ID: 42}},
		{m: parse("1h"), asked: TimeOf(now.Add(-time.Hour)), found: 42, want: Cursor{ID: 42}},
		{m: parse("0s"), asked: TimeOf(now), found: 101, want: Cursor{ID: 100}},
	} {
		var asked Time
		got, err := c.m.Resolve(now, end, func(t Time) (ID, error) {
			asked = t
			return c.found, nil
		})
		if err != nil || got != c.want || asked != c.asked {
			t.Errorf("%s is resolved to %s by the position at %s, %v, want %s by %s", c.m, got, asked, err, c.want, c.asked)
		}
	}
	broken := errors.New("broken")
	if got, err := parse("1h").Resolve(now, end, func(Time) (ID, error) { return 42, broken }); !errors.Is(err, broken) || got != (Cursor{}) {
		t.Errorf("1h is resolved to %s, %v", got, err)
	}
}

// The zero Moment is printed and resolved as the beginning, but is not equal to it.
func TestZeroMoment(t *testing.T) {
	if (Moment{}) == FromBeginning || (Moment{}).IsNow() || (Moment{}).String() != FromBeginning.String() {
		t.Errorf("the zero Moment is %s", Moment{})
	}
	if c, ok := (Moment{}).Cursor(); !ok || c != (Cursor{}) {
		t.Errorf("the zero Moment has the cursor %s, %v", c, ok)
	}
}

func TestMomentFutureTime(t *testing.T) {
	now := time.Now()
	for m, want := range map[Moment]bool{
		AtTime(TimeOf(now.Add(time.Second))): true, AtTime(TimeOf(now)): false, AtTime(TimeOf(now.Add(-time.Second))): false,
		Now: false, {}: false, At(Cursor{ID: MaxID}): false,
	} {
		if _, ok := m.FutureTime(now); ok != want {
			t.Errorf("FutureTime of %s = %v, want %v", m, ok, want)
		}
	}
}
