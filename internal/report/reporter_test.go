package report

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/rstream-dev/rstream/internal/board"
)

// TestLease: an announcement holds for 15 seconds of this clock, an earlier one changes nothing, and
// the end of one board's look is not that of another's.
func TestLease(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := lease{changed: make(chan struct{}, 1)}
		look := func(id string, number uint64, looking bool) {
			l.announce(board.Look{Board: id, Number: number, Looking: looking})
		}
		check := func(holds time.Duration, changed bool) {
			t.Helper()
			if _, left := l.current(); left != holds {
				t.Errorf("the look holds for %s, want %s", left, holds)
			}
			select {
			case <-l.changed:
				if !changed {
					t.Error("it changed")
				}
			default:
				if changed {
					t.Error("it did not change")
				}
			}
		}
		look("a", 0, false)
		check(0, true)
		look("a", 1, true)
		check(board.FreshFor, true)
		time.Sleep(5 * time.Second)
		check(10*time.Second, false)
		look("a", 1, true)
		check(board.FreshFor, false)
		look("a", 0, false) // it came late
		look("b", 7, false) // of another board
		check(board.FreshFor, false)
		time.Sleep(board.FreshFor)
		check(0, false)
		look("a", 1, true) // it came late, but it came
		check(board.FreshFor, true)
		l.end(board.Look{Board: "a", Number: 0, Looking: true})
		check(board.FreshFor, false)
		l.end(board.Look{Board: "a", Number: 1, Looking: true})
		check(0, true)
		look("a", 1, true)
		check(board.FreshFor, true)
		look("a", 2, false)
		check(0, true)
		look("b", 1, true) // the board was started again
		check(board.FreshFor, true)
	})
}

// TestSplitBatch: a batch that is too large for a request becomes several, and loses nothing.
func TestSplitBatch(t *testing.T) {
	var batch board.Batch
	for id := range uint64(5000) {
		batch.State = append(batch.State, &board.Connection{Node: "b", ID: id, Address: "192.0.2.1"})
	}
	batch.Begins = true
	reports := splitBatch(&batch)
	n := 0
	for i, r := range reports {
		want := board.NextPart
		switch i {
		case 0:
			want = board.FirstPart
		case len(reports) - 1:
			want = board.LastPart
		}
		if r.List != want {
			t.Errorf("part %d of %d is %q", i, len(reports), r.List)
		}
		for _, c := range r.Opened {
			if c.ID != uint64(n) || c.Node != "" {
				t.Fatalf("connection %d is %+v", n, c)
			}
			n++
		}
	}
	if n != 5000 || len(reports) < 3 {
		t.Errorf("%d connections in %d reports", n, len(reports))
	}
	if one := splitBatch(&board.Batch{Begins: true}); len(one) != 1 || one[0].List != board.WholeList {
		t.Errorf("an empty list is %+v", one)
	}
	c := batch.State[0]
	changes := splitBatch(&board.Batch{Changes: []board.Change{{Kind: board.Opened, Connection: c}, {Kind: board.Lagged, Connection: c}, {Kind: board.Closed, Connection: c}, {Kind: board.NodeChanged}}})
	if len(changes) != 1 || changes[0].List != "" || len(changes[0].Opened) != 1 || len(changes[0].Lags) != 1 || len(changes[0].Closed) != 1 {
		t.Errorf("changes are %+v", changes[0])
	}
}
