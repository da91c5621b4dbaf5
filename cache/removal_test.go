package cache

import (
	"context"
	"database/sql"
	"errors"
	"slices"
	"testing"

	"github.com/rstream-dev/rstream/cache/internal/dbfile"
	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/internal/pagetest"
	"github.com/rstream-dev/rstream/window"
)

// A digest that was taken before events were removed proves nothing.
func TestProveAfterForget(t *testing.T) {
	db, span := smallCopy(t)
	ctx := context.Background()
	before, err := db.Removals(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := db.Forget(ctx, event.All, clientLog[10].ID); err != nil {
		t.Fatal(err)
	}
	wantError(t, "Prove", db.Prove(ctx, event.All, span, before, 0), ErrLost)
	if held := mustHeld(t, db, event.All); len(held) != 1 || held[0].From != clientLog[10].ID {
		t.Errorf("held are %s", held)
	}
	ws, err := db.Windows(ctx)
	if err != nil || slices.ContainsFunc(ws, func(w window.Window) bool { return w.Proven }) {
		t.Errorf("the windows are %v, %v", ws, err)
	}
}

// Reading a state ends with an error if its events are forgotten in the meantime, whether
// only the windows are gone, as after a kill, or the events too.
func TestForgetWhileStateIsRead(t *testing.T) {
	for name, forget := range map[string]func(db *DB) error{
		"killed behind the windows": func(db *DB) error {
			return db.file.Update(context.Background(), func(tx *sql.Tx) error {
				return db.forgetWindows(tx, event.All, window.Span{To: clientLog[40].ID})
			})
		},
		"forgotten": func(db *DB) error {
			_, err := db.Forget(context.Background(), event.All, clientLog[40].ID)
			return err
		},
		"forgotten by half": func(db *DB) error {
			ctx, cancel := context.WithCancel(context.Background())
			defer cancel()
			span := window.Span{To: clientLog[40].ID}
			err := db.file.Update(ctx, func(tx *sql.Tx) error { return db.forgetWindows(tx, event.All, span) })
			if err != nil {
				return err
			}
			return db.file.Update(ctx, func(tx *sql.Tx) error {
				group, _, err := storagesToForget(ctx, tx, event.All, event.Storage{})
				if err != nil {
					return err
				}
				_, err = newForgetting(db, event.All, span, group).removeIn(ctx, tx, window.Span{To: clientLog[20].ID})
				return err
			})
		},
	} {
		setStorageChunk(t, 1)
		db := openClient(t)
		span := window.Span{From: event.Beginning, To: clientLast}
		obtain(t, db, event.All, clientLog, span)
		want := fold(clientLog, event.All, span.To)
		var got []string
		err := db.State(context.Background(), event.All, span.To, func(ev *event.Event) error {
			if got = append(got, string(ev.Line())); len(got) == 1 {
				return forget(db)
			}
			return nil
		})
		if !errors.As(err, new(*window.NotHeldError)) || !slices.Equal(got, want[:len(got)]) {
			t.Errorf("%s: the state is read on for %d of %d events: %v", name, len(got), len(want), err)
		}
	}
}

// Forget also removes the remains of damaged events: fetched again, they equal the log.
func TestForgetDropsLeaves(t *testing.T) {
	db := openClient(t)
	first := window.BlockSpan(0)
	obtain(t, db, event.All, clientLog, first)
	if err := errors.Join(edit(db, func(tx pagetest.DB) error { return pagetest.Delete(tx, clientLog[3].ID) }), rawExec(db, `DELETE FROM leaf`)); err != nil {
		t.Fatal(err)
	}
	want := slowLeaves(among(clientLog, event.All, first))
	if got := mustLeaves(t, db, event.All, first); slices.Equal(got, want) {
		t.Fatal("the copy is not damaged")
	}
	if _, err := db.Forget(context.Background(), event.All, clientLog[9].ID); err != nil {
		t.Fatal(err)
	}
	obtain(t, db, event.All, clientLog, first)
	if got := mustLeaves(t, db, event.All, first); !slices.Equal(got, want) {
		t.Errorf("the leaves are %v, want %v", got, want)
	}
}

// A lease that another process has taken over commits nothing.
func TestCommitOfLostLease(t *testing.T) {
	late, other, clock := openTwo(t)
	lost := mustClaim(t, late, "alice", 0, 100)
	mustApply(t, lost, 10)
	clock.add(2 * dbfile.LeaseTime)
	taken := mustClaim(t, other, "alice", 0, 100)
	mustApply(t, taken, 40, madeEvent("alice", "x", 20))
	mustDo(t, lost.Commit)
	checkList(t, "after the lost one", other, "alice committed 0-10, alice pulling 10-40…100")
	mustApply(t, taken, 100, madeEvent("alice", "x", 50))
	mustDo(t, taken.Commit)
	checkList(t, "done", other, "alice committed 0-100")
}
