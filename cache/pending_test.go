package cache

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/window"
)

func mustPend(t *testing.T, db *DB, topic string, at event.Moment) *Pending {
	t.Helper()
	p, busy, err := db.Leases().Pend(context.Background(), topics(t, topic)[0], at)
	if p == nil || busy != 0 || err != nil {
		t.Fatalf("Pend of %s: %v, busy %d, %v", topic, p, busy, err)
	}
	return p
}

func wantBusy(t *testing.T, db *DB, want int64) {
	t.Helper()
	if p, busy, err := db.Leases().Pend(context.Background(), event.All, event.Now); p != nil || busy != want || err != nil {
		t.Fatalf("Pend while %d is pending: %v, busy %d, %v", want, p, busy, err)
	}
}

func mustEnd(t *testing.T, p *Pending, body string) {
	t.Helper()
	var b []byte
	if body != "" {
		b = []byte(body)
	}
	if err := p.End(context.Background(), b); err != nil {
		t.Fatal(err)
	}
}

func wantAnswers(t *testing.T, p *Pending, since int64, want ...Answer) {
	t.Helper()
	got, err := p.Answers(context.Background(), since)
	same := func(a, b Answer) bool { return a.Moment == b.Moment && string(a.Body) == string(b.Body) }
	if err != nil || !slices.EqualFunc(got, want, same) {
		t.Fatalf("answered are %s, %v, want %s", got, err, want)
	}
}

// All processes of a copy share one pending window, whose moment is visible. There are never
// two, and processes that waited can read the answer.
func TestPendOneAtATime(t *testing.T) {
	a, b, _ := openTwo(t)
	moment := event.AtTime(event.TimeOf(newClock().at))
	first := mustPend(t, a, "alice", moment)
	wantBusy(t, b, first.number)
	wantBusy(t, a, first.number)
	want := []window.Window{{Topic: topics(t, "alice")[0], State: window.Pending, At: moment}}
	if got := mustWindows(t, b); !slices.Equal(got, want) {
		t.Errorf("the windows are %v, want %v", got, want)
	}
	mustEnd(t, first, `{"n":1}`)
	mustEnd(t, first, `{"n":9}`) // no longer valid
	checkList(t, "afterwards", b, "")

	second := mustPend(t, b, "alice", event.Now)
	wantAnswers(t, second, first.number, Answer{moment.String(), []byte(`{"n":1}`)})
	wantAnswers(t, second, first.number+1)
	mustEnd(t, second, "")
	third := mustPend(t, a, "bob", event.Now)
	wantAnswers(t, third, first.number)
	mustEnd(t, third, `{"n":3}`)
	for i := range keptAnswers {
		mustEnd(t, mustPend(t, a, "carol", event.Now), fmt.Sprint(i))
	}
	wantAnswers(t, mustPend(t, a, "bob", event.Now), 0)
}

// A process that is gone or too slow blocks nobody, and its pending window is no longer
// visible. If it was only slow, its answer still counts.
func TestPendAfterOthers(t *testing.T) {
	a, b, at := openTwo(t)
	slow := mustPend(t, a, "alice", event.Now)
	at.add(pendTime - time.Second)
	wantBusy(t, b, slow.number)
	at.add(2 * time.Second)
	checkList(t, "of one that is too slow", b, "")
	next := mustPend(t, b, "alice", event.Now)
	mustEnd(t, slow, `{"n":1}`)
	wantBusy(t, a, next.number)
	wantAnswers(t, next, slow.number, Answer{"now", []byte(`{"n":1}`)})

	if err := rawExec(b, `UPDATE window SET lease = ?`, at.now().Add(time.Hour).UnixMilli()); err != nil {
		t.Fatal(err)
	}
	mustEnd(t, mustPend(t, a, "*", event.Now), "") // the clock was set back
	_, _, err := openServer(t).Leases().Pend(context.Background(), event.All, event.Now)
	wantError(t, "a log", err, ErrRole)
}

// The schema does not allow a second pending window.
func TestPendingIsUnique(t *testing.T) {
	db := openClient(t)
	mustPend(t, db, "alice", event.Now)
	err := rawExec(db, `INSERT INTO window (topic, state, start, reached, stop) VALUES ('bob', 'pending', 0, 0, 0)`)
	if err == nil {
		t.Error("there are two pending windows")
	}
}
