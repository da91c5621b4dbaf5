package cache

import (
	"context"
	"errors"
	"reflect"
	"slices"
	"testing"

	"github.com/rstream-dev/rstream/event"
)

// holdConsumer takes the consumer c of alice.
func holdConsumer(t *testing.T, db *DB) *Consumer {
	t.Helper()
	c, err := db.HoldConsumer(context.Background(), "c", topics(t, "alice"))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func mustStep(t *testing.T, c *Consumer, s *ConsumerStep) {
	t.Helper()
	if err := c.Step(context.Background(), s); err != nil {
		t.Fatal(err)
	}
}

// A step is stored as a whole, and the next holder finds it.
func TestConsumerStep(t *testing.T) {
	ctx := context.Background()
	db := openClient(t)
	if _, ok, err := db.ConsumerInfo(ctx, "c"); ok || err != nil {
		t.Errorf("a file without consumers has one: %v", err)
	}
	c := holdConsumer(t, db)
	x, y := event.Storage{User: "alice", Path: "x"}, event.Storage{User: "alice", Path: "y"}
	dead := madeEvent("alice", "z", 3)
	mustStep(t, c, &ConsumerStep{Position: 4, State: []byte("s"), Oldest: 1,
		Block: []BlockedStorage{{x, 1, 2, 77, "it failed"}, {y, 2, 0, 0, ""}},
		Bury:  []DeadLetter{{Event: dead, Tries: 3, Time: 5, Error: "no"}, {Event: madeEvent("alice", "z", 4), Time: 6}}})
	mustStep(t, c, &ConsumerStep{Position: 5, State: []byte("t"), Oldest: 1, Unblock: []event.Storage{y}, Remove: []int64{2}})
	if err := c.Release(ctx); err != nil {
		t.Fatal(err)
	}
	if c = holdConsumer(t, db); c.Position() != 5 || string(c.State()) != "t" {
		t.Errorf("the consumer is at %s with %q", c.Position(), c.State())
	}
	blocked, err := db.Blocked(ctx, "c")
	if want := []BlockedStorage{{x, 1, 2, 77, "it failed"}}; err != nil || !slices.Equal(blocked, want) {
		t.Errorf("blocked: %v, %v, want %v", blocked, err, want)
	}
	info, ok, err := db.ConsumerInfo(ctx, "c")
	if want := (ConsumerInfo{[]byte("t"), 1, 1, 1}); err != nil || !ok || !reflect.DeepEqual(info, want) {
		t.Errorf("info: %v, %v, want %v", info, err, want)
	}
	for _, retry := range []bool{false, true} {
		if retry {
			if err := db.RetryDead(ctx, "c", []int64{1}); err != nil {
				t.Fatal(err)
			}
		}
		list, err := db.DeadLetters(ctx, "c", retry, 0, 10)
		if err != nil || len(list) != 1 || list[0].Number != 1 || list[0].Error != "no" || list[0].Retry != retry || string(list[0].Event.Line()) != string(dead.Line()) {
			t.Errorf("dead letters: %v, %v", list, err)
		}
	}
	mustStep(t, c, &ConsumerStep{Position: 5, Return: []DeadLetter{{Number: 1, Tries: 4, Time: 9, Error: "again"}}})
	if list, err := db.DeadLetters(ctx, "c", true, 0, 10); err != nil || len(list) != 0 {
		t.Errorf("a dead letter that was tried again: %v, %v", list, err)
	}
	if err := c.Release(ctx); err != nil {
		t.Fatal(err)
	}
	if _, err := db.SetCursor(ctx, "c", nil, 3); err != nil {
		t.Fatal(err)
	}
	if info, ok, err = db.ConsumerInfo(ctx, "c"); err != nil || !ok || !reflect.DeepEqual(info, ConsumerInfo{Dead: 1}) {
		t.Errorf("info after the cursor was set: %v, %t, %v", info, ok, err)
	}
	if err := db.DropDead(ctx, "c", []int64{1, 7}); !errors.Is(err, ErrNoDeadLetter) {
		t.Errorf("dropping a number that does not exist: %v", err)
	}
	if err := db.DropDead(ctx, "c", []int64{1}); err != nil {
		t.Error(err)
	}
	if info, ok, err = db.ConsumerInfo(ctx, "c"); err != nil || ok {
		t.Errorf("info without dead letters, after the cursor was set: %v, %t, %v", info, ok, err)
	}
}

// Nobody goes past events that a consumer has not done: not a reader of the cursor, and not
// forget. Setting the cursor gives them up.
func TestConsumerUnfinished(t *testing.T) {
	ctx := context.Background()
	db := openClient(t)
	store(t, db, "alice", madeEvent("alice", "x", 1), madeEvent("alice", "x", 2))
	c := holdConsumer(t, db)
	mustStep(t, c, &ConsumerStep{Position: 2, Oldest: 2, Block: []BlockedStorage{{Storage: event.Storage{User: "alice", Path: "x"}, First: 2}}})
	if err := c.Release(ctx); err != nil {
		t.Fatal(err)
	}
	if _, err := db.HoldCursor(ctx, "c", topics(t, "alice")); !errors.Is(err, ErrUnfinished) {
		t.Errorf("a reader takes the cursor: %v", err)
	}
	var needed *NeededError
	if _, err := db.Forget(ctx, topics(t, "alice/x")[0], event.MaxID); !errors.As(err, &needed) || *needed != (NeededError{Cursor: "c", From: 2}) {
		t.Errorf("forget: %v", err)
	}
	if _, err := db.Forget(ctx, topics(t, "alice")[0], 1); err != nil {
		t.Errorf("forget what is done: %v", err)
	}
	if _, err := db.SetCursor(ctx, "c", nil, 2); err != nil {
		t.Fatal(err)
	}
	if blocked, err := db.Blocked(ctx, "c"); err != nil || len(blocked) > 0 {
		t.Errorf("after the cursor was set, blocked: %v, %v", blocked, err)
	}
	if _, err := db.Forget(ctx, topics(t, "alice")[0], event.MaxID); err != nil {
		t.Error(err)
	}
	if _, err := db.HoldCursor(ctx, "c", topics(t, "alice")); err != nil {
		t.Error(err)
	}
}

// A damaged row is an error, not another state.
func TestConsumerDamage(t *testing.T) {
	ctx := context.Background()
	for _, change := range []string{`UPDATE consumer1_blocked SET first = 3`, `UPDATE consumer1_blocked SET tries = 0`, `UPDATE consumer1_dead SET line = replace(line, 'alice', 'alize')`} {
		db := openClient(t)
		mustStep(t, holdConsumer(t, db), &ConsumerStep{Position: 4, Oldest: 1, Block: []BlockedStorage{{event.Storage{User: "alice", Path: "x"}, 1, 2, 77, "it failed"}},
			Bury: []DeadLetter{{Event: madeEvent("alice", "z", 3)}}})
		if err := rawExec(db, change); err != nil {
			t.Fatal(err)
		}
		_, err := db.Blocked(ctx, "c")
		_, err2 := db.DeadLetters(ctx, "c", false, 0, 10)
		if err := errors.Join(err, err2); !errors.Is(err, ErrCorrupt) {
			t.Errorf("%s: %v", change, err)
		}
	}
}

// A consumer that is carried over to a restored log starts before the first event that it has
// not done, with its dead letters.
func TestMigrateConsumer(t *testing.T) {
	ctx := context.Background()
	old, db := openClient(t), openClient(t)
	mustStep(t, holdConsumer(t, old), &ConsumerStep{Position: 20, Oldest: 8, Block: []BlockedStorage{{Storage: event.Storage{User: "alice", Path: "x"}, First: 8}},
		Bury: []DeadLetter{{Event: madeEvent("alice", "z", 3), Tries: 2, Error: "no"}}})
	for range 2 { // a repetition changes nothing
		if damaged, err := db.MigrateCursors(ctx, old, 15); err != nil || damaged != nil {
			t.Fatal(damaged, err)
		}
	}
	if c := holdConsumer(t, db); c.Position() != 7 || c.State() != nil {
		t.Errorf("the consumer is at %s with %q, want 0000000000007", c.Position(), c.State())
	}
	if list, err := db.DeadLetters(ctx, "c", false, 0, 10); err != nil || len(list) != 1 || list[0].Error != "no" {
		t.Errorf("dead letters: %v, %v", list, err)
	}
}

// A damaged consumer is left out, and the others are carried over.
func TestMigrateDamagedConsumer(t *testing.T) {
	for _, change := range []string{`UPDATE cursor SET position = position + 64 WHERE name = 'c'`, `UPDATE consumer1 SET oldest = 9 WHERE name = 'c'`,
		`UPDATE consumer1_dead SET line = replace(line, 'alice', 'alize')`} {
		old, db := openClient(t), openClient(t)
		mustStep(t, holdConsumer(t, old), &ConsumerStep{Position: 20, Oldest: 8, Bury: []DeadLetter{{Event: madeEvent("alice", "z", 3)}}})
		for _, name := range []string{"a", "d"} {
			if _, err := old.SetCursor(t.Context(), name, topics(t, "alice"), 5); err != nil {
				t.Fatal(err)
			}
		}
		if err := rawExec(old, change); err != nil {
			t.Fatal(err)
		}
		damaged, err := db.MigrateCursors(t.Context(), old, 15)
		if err != nil || !slices.Equal(damaged, []string{"c"}) {
			t.Errorf("%s: %q are damaged, %v", change, damaged, err)
		}
		cursors, err := db.Cursors(t.Context())
		if err != nil || len(cursors) != 2 || cursors[0].Name != "a" || cursors[1].Name != "d" || cursors[1].Position != 5 {
			t.Errorf("%s: cursors %+v, %v", change, cursors, err)
		}
	}
}

// What a consumer has not read yet cannot be forgotten either, as far as it is held.
func TestForgetUnread(t *testing.T) {
	ctx := context.Background()
	db := openClient(t)
	store(t, db, "alice", madeEvent("alice", "x", 1), madeEvent("alice", "x", 5), madeEvent("alice", "y", 8), madeEvent("alice", "x", 12))
	store(t, db, "bob", madeEvent("bob", "z", 3), madeEvent("bob", "z", 9))
	c := holdConsumer(t, db) // of alice
	mustStep(t, c, &ConsumerStep{Position: 5})
	if err := c.Release(ctx); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		topic  string
		before event.ID
		from   event.ID // of the NeededError, 0 if there is none
		why    string
	}{
		{"alice", 8, 6, "an event follows the position"},
		{"*", event.MaxID, 6, "so it does in a wider topic"},
		{"bob", event.MaxID, 0, "the consumer has another topic"},
		{"alice", 7, 0, "the events up to there are done"},
		{"alice", 10, 6, "they are, but not all"},
	} {
		var needed *NeededError
		_, err := db.Forget(ctx, topics(t, tt.topic)[0], tt.before)
		switch {
		case tt.from == 0 && err != nil, tt.from != 0 && (!errors.As(err, &needed) || *needed != NeededError{Cursor: "c", From: tt.from, Unread: true}):
			t.Errorf("%s: forget %s up to %s: %v", tt.why, tt.topic, tt.before, err)
		}
	}
	evs, _, err := db.Read(ctx, topics(t, "alice"), 7, 12, 10)
	if err != nil || len(evs) != 2 {
		t.Errorf("%d events after 7 are held, %v, want 2", len(evs), err)
	}
	c = holdConsumer(t, db)
	mustStep(t, c, &ConsumerStep{Position: 8})
	if _, err := db.Forget(ctx, topics(t, "alice")[0], 11); err != nil {
		t.Errorf("forget what is done: %v", err)
	}
	if err := c.Release(ctx); err != nil {
		t.Fatal(err)
	}
	if _, err := db.DropCursors(ctx, []string{"c"}); err != nil {
		t.Fatal(err)
	}
	if _, err := db.Forget(ctx, topics(t, "alice")[0], event.MaxID); err != nil {
		t.Errorf("forget without a consumer: %v", err)
	}
}

// Events that forget would not remove, since a window of another topic holds them, too, keep it from
// nothing. A row that is damaged is an error: nothing tells what its consumer has done.
func TestForgetUnreadOfOthers(t *testing.T) {
	ctx := context.Background()
	db := openClient(t)
	store(t, db, "*/x", madeEvent("alice", "x", 2))
	store(t, db, "alice", madeEvent("alice", "x", 2))
	c := holdConsumer(t, db)
	mustStep(t, c, &ConsumerStep{Position: 1})
	if err := c.Release(ctx); err != nil {
		t.Fatal(err)
	}
	if _, err := db.Forget(ctx, topics(t, "alice")[0], 2); err != nil {
		t.Errorf("forget what another window holds: %v", err)
	}
	for _, change := range []string{`UPDATE cursor SET position = 9`, `UPDATE cursor SET position = 1; UPDATE consumer1 SET oldest = 7`} {
		if err := rawExec(db, change); err != nil {
			t.Fatal(err)
		}
		if _, err := db.Forget(ctx, topics(t, "*/x")[0], 2); !errors.Is(err, ErrDamagedCursor) {
			t.Errorf("%s: forget: %v", change, err)
		}
	}
	if _, err := db.Forget(ctx, topics(t, "bob")[0], 2); err != nil {
		t.Errorf("forget what the consumer does not read: %v", err)
	}
}
