package cache

import (
	"bytes"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"testing"

	"github.com/rstream-dev/rstream/event"
)

func sourceMove(old, next string) *SourceMove {
	m := &SourceMove{Name: "wiki", New: []byte(next)}
	if old != "" {
		m.Old = []byte(old)
	}
	return m
}

// The events of a source and its state are stored together or not at all.
func TestAppendFrom(t *testing.T) {
	db := openServer(t)
	state := func() string {
		b, _, err := db.Source(t.Context(), "wiki")
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	if got, err := db.SourceNames(t.Context()); state() != "" || err != nil || len(got) > 0 {
		t.Errorf("a new file has the sources %q, %v", got, err)
	}
	for i, m := range []*SourceMove{sourceMove("", "a"), sourceMove("a", "b")} {
		if _, err := db.AppendFrom(t.Context(), m, drafts("alice", "x", fmt.Sprint("k", i), 2)); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := db.AppendFrom(t.Context(), sourceMove("b", "c"), nil); err != nil || state() != "c" || db.Head() != 4 {
		t.Errorf("state %q and head %s, %v", state(), db.Head(), err)
	}
	for _, m := range []*SourceMove{sourceMove("b", "d"), sourceMove("", "d")} {
		if _, err := db.AppendFrom(t.Context(), m, drafts("alice", "x", "lost", 1)); !errors.Is(err, ErrMoved) {
			t.Errorf("from %q: %v", m.Old, err)
		}
	}
	if _, err := db.AppendFrom(t.Context(), sourceMove("c", "d"), []event.Draft{{User: ".."}}); err == nil {
		t.Error("a draft that is none was taken")
	}
	if state() != "c" || db.Head() != 4 {
		t.Errorf("state %q and head %s", state(), db.Head())
	}
	db = reopened(t, db)
	if got, err := db.SourceNames(t.Context()); state() != "c" || err != nil || !slices.Equal(got, []string{"wiki"}) {
		t.Errorf("later: sources %q, state %q, %v", got, state(), err)
	}
	if err := db.ResetSource(t.Context(), "wiki", []byte("x")); err != nil || state() != "x" {
		t.Errorf("a source that was reset has the state %q, %v", state(), err)
	}
}

// A move that has succeeded unknown to its caller succeeds again, and changes nothing.
func TestAppendFromAgain(t *testing.T) {
	for _, written := range []bool{true, false} {
		db := openServer(t)
		db.commitTx = func(tx *sql.Tx) error {
			db.commitTx = nil
			if !written {
				return errors.Join(tx.Rollback(), errors.New("injected"))
			}
			return errors.Join(tx.Commit(), errors.New("injected"))
		}
		ds := drafts("alice", "x", "k", 3)
		if _, err := db.AppendFrom(t.Context(), sourceMove("", "a"), ds); !errors.Is(err, ErrUnknown) {
			t.Fatal(err)
		}
		receipts, err := db.AppendFrom(t.Context(), sourceMove("", "a"), ds)
		if err != nil || len(receipts) != 3 || receipts[2].ID != 3 || receipts[0].Duplicate != written || db.Head() != 3 {
			t.Errorf("written %v: %+v, %v, head %s", written, receipts, err, db.Head())
		}
	}
}

// The entries kept with a state are bounded, and come back in order.
func TestAppendFromSeen(t *testing.T) {
	db := openServer(t)
	last := ""
	for i := range 10 {
		m := sourceMove(last, fmt.Sprint(i))
		m.Seen, m.Until, m.Forget = []byte{byte(i)}, int64(i+1), int64(i+1-4)
		last = fmt.Sprint(i)
		if _, err := db.AppendFrom(t.Context(), m, nil); err != nil {
			t.Fatal(err)
		}
	}
	_, seen, err := db.Source(t.Context(), "wiki")
	if want := []byte{6, 7, 8, 9}; err != nil || !bytes.Equal(bytes.Join(seen, nil), want) {
		t.Errorf("kept are %v, %v, want %v", seen, err, want)
	}
	if err := db.ResetSource(t.Context(), "wiki", []byte("x")); err != nil {
		t.Fatal(err)
	}
	if state, seen, err := db.Source(t.Context(), "wiki"); string(state) != "x" || len(seen) > 0 || err != nil {
		t.Errorf("after a reset the state is %q with %v, %v", state, seen, err)
	}
}

// A bit that flips in a row of a source is an error, never another cursor.
func TestSourceDamage(t *testing.T) {
	for _, statement := range []string{`UPDATE source1_state SET state = x'00'`, `UPDATE source1_seen SET seen = x'00'`} {
		db := openServer(t)
		m := sourceMove("", "a")
		m.Seen, m.Until = []byte("s"), 1
		if _, err := db.AppendFrom(t.Context(), m, nil); err != nil {
			t.Fatal(err)
		}
		err := db.file.Update(t.Context(), func(tx *sql.Tx) error {
			_, err := tx.Exec(statement)
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		if state, _, err := db.Source(t.Context(), "wiki"); !errors.Is(err, ErrCorrupt) {
			t.Errorf("%s: state %q, %v", statement, state, err)
		}
	}
}

// Where events come from is known for each, however they were appended.
func TestOrigins(t *testing.T) {
	db := openServer(t)
	if got, err := db.Origins(t.Context(), []event.ID{1}); err != nil || got[0] != (event.Origin{}) {
		t.Errorf("in a new file: %v, %v", got, err)
	}
	var want []event.Origin // by id, from 1
	state := ""
	appendFrom := func(name, log string, keys ...string) []event.Receipt {
		t.Helper()
		m, ds := SourceMove{Name: name, Log: log, New: []byte(name + fmt.Sprint(len(want)))}, []event.Draft(nil)
		if state != "" {
			m.Old = []byte(state)
		}
		for _, key := range keys {
			ds = append(ds, drafts("alice", "x", key, 1)...)
			m.Foreign = append(m.Foreign, "id/"+key)
		}
		got, err := db.AppendFrom(t.Context(), &m, ds)
		if err != nil {
			t.Fatal(err)
		}
		state = string(m.New)
		for i, r := range got {
			if !r.Duplicate {
				want = append(want, event.Origin{Source: name, Log: log, ID: m.Foreign[i]})
			}
		}
		return got
	}
	appendFrom("lab", "L", "a", "b")
	if _, err := db.Append(t.Context(), drafts("alice", "x", "local", 3)); err != nil {
		t.Fatal(err)
	}
	want = append(want, make([]event.Origin, 3)...)
	appendFrom("lab", "L", "b", "c", "c", "a", "", "d") // those that the log knows keep their origin
	var many []string
	for i := range 2*originRow + 10 {
		many = append(many, fmt.Sprint("m", i))
	}
	appendFrom("lab", "L2", many...)
	db = reopened(t, db)
	ids := make([]event.ID, len(want))
	for i := range ids {
		ids[i] = event.ID(i + 1)
	}
	if got, err := db.Origins(t.Context(), ids); err != nil || !slices.Equal(got, want) || int(db.Head()) != len(want) {
		t.Errorf("origins of %d events: %v, %v; want %v", db.Head(), got, err, want)
	}
	slices.Reverse(ids)
	slices.Reverse(want)
	if got, err := db.Origins(t.Context(), ids); err != nil || !slices.Equal(got, want) {
		t.Errorf("backwards: %v, %v", got, err)
	}
	if got, err := db.Origins(t.Context(), []event.ID{db.Head() + 1, event.MaxID}); err != nil || got[0] != (event.Origin{}) || got[1] != got[0] {
		t.Errorf("after the head: %v, %v", got, err)
	}
}

// A draft that is to follow an event is left out if another one has followed it.
func TestAppendFromIf(t *testing.T) {
	db := openServer(t)
	first, err := db.Append(t.Context(), append(drafts("alice", "x", "k", 1), drafts("bob", "x", "k", 1)...))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := db.Append(t.Context(), drafts("bob", "x", "later", 1)); err != nil {
		t.Fatal(err)
	}
	m := sourceMove("", "a")
	m.If, m.Foreign = []event.ID{first[0].ID, first[1].ID, event.Beginning}, []string{"", "", ""}
	ds := []event.Draft{{User: "alice", Path: "x", Type: event.Del, Key: "gap"}, {User: "bob", Path: "x", Type: event.Del, Key: "gap"}, {User: "carol", Path: "x", Type: event.Del}}
	got, err := db.AppendFrom(t.Context(), m, ds)
	if err != nil || got[0].ID != 4 || got[1].ID != 0 || got[2].ID != 5 || db.Head() != 5 {
		t.Errorf("receipts %v, %v", got, err)
	}
}

// The first move of a source makes tables. If its transaction is rolled back, they are gone, and
// later transactions do not need them.
func TestFirstMoveRolledBack(t *testing.T) {
	db := openServer(t)
	first := moveRequest(t, db, sourceMove("", "a"), drafts("alice", "x", "k", 2))
	lost := moveRequest(t, db, sourceMove("z", "b"), drafts("bob", "x", "k", 2))
	db.commitRequests([]*appendRequest{first, lost}) // together, then each alone
	if err := <-first.done; err != nil {
		t.Errorf("the first move: %v", err)
	}
	wantError(t, "a move from another state", <-lost.done, ErrMoved)
	if err := rawExec(db, `DELETE FROM leaf`); err != nil {
		t.Errorf("a later transaction: %v", err)
	}
	if got := mustAppend(t, db, draft("carol", "x", "k")); got[0].ID != 3 {
		t.Errorf("a later append is %s, want 3", got[0].ID)
	}
	if state, err := db.SourceState(t.Context(), "wiki"); string(state) != "a" || err != nil {
		t.Errorf("the state is %q, %v", state, err)
	}
}

// moveRequest returns the request of AppendFrom.
func moveRequest(t *testing.T, db *DB, m *SourceMove, ds []event.Draft) *appendRequest {
	t.Helper()
	r, err := db.newAppend(t.Context(), ds)
	if err != nil {
		t.Fatal(err)
	}
	r.move = m
	return r
}
