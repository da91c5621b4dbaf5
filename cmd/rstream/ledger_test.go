package main

import (
	"math/rand/v2"
	"testing"
	"time"

	"github.com/rstream-dev/rstream/event"
)

// A book is the model of a ledger: it keeps everything and searches from the start.
type book struct {
	start event.ID
	ends  []int64
	at    []event.ID
}

func (b *book) position(offset int64) event.ID {
	at := b.start
	for i, end := range b.ends {
		if end <= offset {
			at = b.at[i]
		}
	}
	return at
}

// A ledger agrees with its model, before and after it is stored. It does without rapid,
// whose tables would take a third of the time that the program takes to start in scripts.
func TestLedger(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	for range 200 {
		compareLedger(t, random)
	}
}

func compareLedger(t *testing.T, random *rand.Rand) {
	start := event.ID(random.IntN(6))
	l := ledger{back: random.Int64N(31), start: start}
	b := book{start: start}
	var end int64
	last := start
	for range 1 + random.IntN(60) {
		switch random.IntN(5) {
		case 0:
			end += random.Int64N(21)
			last += event.ID(random.IntN(4))
			l.addWritten(end, last)
			b.ends, b.at = append(b.ends, end), append(b.at, last)
		case 1:
			last += event.ID(random.IntN(4))
			l.raisePosition(last)
			if n := len(b.at); n > 0 {
				b.at[n-1] = last
			} else {
				b.start = last
			}
		case 2:
			l.written += random.Int64N(max(end-l.written, 0) + 1)
		case 3:
			l.takeWritten(random.Int64N(l.written+6) - 5)
		case 4:
			l, b, end, last = restart(t, l, b)
		}
		for _, offset := range []int64{l.taken - l.back, l.taken, l.written, end} {
			if offset < l.from {
				continue
			}
			if got, want := l.positionAt(offset), b.position(offset); got != want {
				t.Fatalf("position(%d) = %s, want %s: %+v", offset, got, want, l)
			}
		}
		if l.from > max(l.taken-l.back, 0) {
			t.Fatalf("lines up to %d are forgotten, %d are taken, %d stay known", l.from, l.taken, l.back)
		}
	}
}

// restart stores the ledger and continues with the stored form, the written lines.
// Offsets start again at the first known line.
func restart(t *testing.T, l ledger, b book) (ledger, book, int64, event.ID) {
	state := cursorState{Output: "x", Pipe: l.pipe()}
	again := decodeState(state.encodeState())
	if again.Output != "x" || again.Pipe == nil {
		t.Fatalf("%+v has become %+v", state, again)
	}
	next := again.Pipe.ledger(l.back)
	if got, want := next.positionAt(next.taken), b.position(l.taken); got != want {
		t.Fatalf("after a restart the position is %s, want %s", got, want)
	}
	if got, want := next.positionAt(next.written), b.position(l.written); got != want {
		t.Fatalf("after a restart it goes on at %s, want %s", got, want)
	}
	fresh := book{start: next.start}
	for _, line := range next.lines {
		fresh.ends, fresh.at = append(fresh.ends, line.end), append(fresh.at, line.at)
	}
	return next, fresh, next.written, next.positionAt(next.written)
}

// Events without output take no room, neither before the first line nor after one.
func TestLedgerWithoutOutput(t *testing.T) {
	l := ledger{back: 1 << 16}
	end := int64(0)
	for id := event.ID(1); id <= 3000; id++ {
		if id%1000 == 0 {
			end += 10
			l.written = end
		}
		l.addWritten(end, id)
	}
	if got := l.positionAt(end); got != 3000 {
		t.Errorf("the position is %s, want %s", got, event.ID(3000))
	}
	if len(l.lines) != 3 || len(l.pipe().Lines) != 6 {
		t.Errorf("three lines are kept as %d, and stored as %d numbers", len(l.lines), len(l.pipe().Lines))
	}
}

func TestStateOfAnother(t *testing.T) {
	for _, text := range []string{"", "x", "[]", `{"output":1}`, `{"output":"x","pipe":{"lines":["a"]}}`} {
		if s := decodeState([]byte(text)); s.Output != "" || s.Pipe != nil {
			t.Errorf("%q is read as %+v", text, s)
		}
	}
}
