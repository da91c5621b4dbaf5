package cache

import (
	"database/sql"
	"errors"
	"fmt"
	"path/filepath"
	"reflect"
	"testing"
	"time"

	"github.com/rstream-dev/rstream/cache/internal/rows"
	"github.com/rstream-dev/rstream/event"
)

// An Assigner gives the receipts that Append gives, whatever part of its events is in the file.
func TestAssignAgreesWithAppend(t *testing.T) {
	m := newMirroring(t)
	c := newClock()
	m.log.file.Now, m.mirror.file.Now = c.now, c.now
	a, err := m.mirror.NewAssigner()
	if err != nil {
		t.Fatal(err)
	}
	var waiting []event.Event
	for range 200 {
		c.add(time.Duration(m.rng.IntN(3)-1) * time.Second) // time may go back
		var some []*Assignment
		var want []event.Receipt
		for range 1 + m.rng.IntN(3) {
			s := &Assignment{}
			for range m.rng.IntN(4) {
				d := draft("alice", fmt.Sprint("p", m.rng.IntN(5)), fmt.Sprint(m.rng.IntN(300)))
				s.Drafts, s.Hashes = append(s.Drafts, d), append(s.Hashes, d.Hash())
			}
			some = append(some, s)
			if len(s.Drafts) > 0 {
				want = append(want, mustAppend(t, m.log, s.Drafts...)...)
			}
		}
		evs, err := a.Assign(t.Context(), some)
		if err != nil {
			t.Fatal(err)
		}
		var got []event.Receipt
		for _, s := range some {
			if s.Err != nil {
				t.Fatal(s.Err)
			}
			got = append(got, s.Receipts...)
		}
		if a.Head() != m.log.Head() {
			t.Fatalf("assigned up to %s, the log is at %s", a.Head(), m.log.Head())
		}
		for i := range want {
			if string(got[i].Line()) != string(want[i].Line()) || got[i].Duplicate != want[i].Duplicate {
				t.Fatalf("got %s, want %s", got[i].Line(), want[i].Line())
			}
		}
		waiting = append(waiting, evs...)
		if n := m.rng.IntN(len(waiting) + 1); n > 0 {
			if err := m.mirror.Receive(t.Context(), waiting[:n]); err != nil {
				t.Fatal(err)
			}
			waiting = waiting[n:]
		}
	}
	if len(a.hashes) != len(a.pending) {
		t.Errorf("%d hashes are remembered, of %d events", len(a.hashes), len(a.pending))
	}
}

// An assignment is made as a whole or not at all, and the others are not affected.
func TestAssignNone(t *testing.T) {
	m := newMirroring(t)
	one, two, three := draft("alice", "p", "1"), draft("alice", "p", "2"), draft("alice", "p", "3")
	assign := func(a *Assigner, lists ...[]event.Draft) ([]event.Event, []*Assignment) {
		t.Helper()
		var some []*Assignment
		for _, list := range lists {
			s := &Assignment{Drafts: list}
			for i := range list {
				s.Hashes = append(s.Hashes, list[i].Hash())
			}
			some = append(some, s)
		}
		evs, err := a.Assign(t.Context(), some)
		if err != nil {
			t.Fatal(err)
		}
		return evs, some
	}
	a, err := m.mirror.NewAssigner()
	if err != nil {
		t.Fatal(err)
	}
	a.head = event.MaxID - 2 // one id is left
	evs, some := assign(a, []event.Draft{one, two}, []event.Draft{three}, []event.Draft{three})
	if !errors.Is(some[0].Err, ErrLogFull) || some[0].Receipts != nil {
		t.Errorf("two drafts for one id: %+v", some[0])
	}
	if len(evs) != 1 || !reflect.DeepEqual(evs[0].Draft, three) || some[1].Err != nil || !some[2].Receipts[0].Duplicate || some[2].Receipts[0].ID != event.MaxID-1 {
		t.Errorf("one draft for one id: %v, %+v, %+v", evs, some[1], some[2])
	}
	if _, err := m.log.NewAssigner(); !errors.Is(err, ErrNotMirror) {
		t.Errorf("a log of its own: %v", err)
	}
}

// A value expires only if it is still the last of its storage, in the file and among what is
// assigned and not in the file.
func TestAssignExpiries(t *testing.T) {
	log := openServer(t)
	mirror, err := Open(t.Context(), filepath.Join(t.TempDir(), "mirror.db"), Config{Role: Server, Log: log.Log(), Mirror: &Mirrored{}})
	if err != nil {
		t.Fatal(err)
	}
	defer mirror.Close()
	var evs []event.Event
	for _, r := range mustAppend(t, log, draft("alice", "old", "1"), draft("alice", "set", "2"), draft("alice", "pending", "3"), draft("alice", "set", "4")) {
		evs = append(evs, r.Event)
	}
	if err := mirror.Receive(t.Context(), evs); err != nil {
		t.Fatal(err)
	}
	a, err := mirror.NewAssigner()
	if err != nil {
		t.Fatal(err)
	}
	again := draft("alice", "pending", "5")
	if _, err := a.Assign(t.Context(), []*Assignment{{Drafts: []event.Draft{again}, Hashes: []event.Hash{again.Hash()}}}); err != nil {
		t.Fatal(err)
	}
	var numbers []int64
	err = mirror.file.View(t.Context(), func(tx *sql.Tx) (err error) {
		numbers, err = rows.FindStorageIDs(t.Context(), tx, evs)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	expire := &Assignment{}
	for i := range evs {
		d := event.Expiry(&evs[i])
		expire.Expired = append(expire.Expired, Expiry{Storage: numbers[i], ID: evs[i].ID, Draft: d, Hash: d.Hash()})
	}
	got, err := a.Assign(t.Context(), []*Assignment{expire, expire})
	if err != nil || expire.Err != nil {
		t.Fatal(err, expire.Err)
	}
	want := []string{"old", "set"}
	if len(got) != len(want) || got[0].Path != "old" || got[1].Path != "set" || got[0].ID != 6 || got[0].Type != event.Del {
		t.Errorf("expired %v, want %v", got, want)
	}
}

// An Assigner that meets a damaged posting expires the values of other storages.
func TestAssignExpiriesPastDamagedPosting(t *testing.T) {
	m := newMirroring(t)
	evs, last := appendBlock(t, m.log)
	if err := m.mirror.Receive(t.Context(), evs); err != nil {
		t.Fatal(err)
	}
	damaged := damagePostings(t, m.mirror, &last[0])
	a, err := m.mirror.NewAssigner()
	if err != nil {
		t.Fatal(err)
	}
	var numbers []int64
	err = m.mirror.file.View(t.Context(), func(tx *sql.Tx) (err error) {
		numbers, err = rows.FindStorageIDs(t.Context(), tx, last)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	expire := &Assignment{}
	for i := range last {
		d := event.Expiry(&last[i])
		expire.Expired = append(expire.Expired, Expiry{Storage: numbers[i], ID: last[i].ID, Draft: d, Hash: d.Hash()})
	}
	got, err := a.Assign(t.Context(), []*Assignment{expire})
	if err != nil || expire.Err != nil {
		t.Fatal(err, expire.Err)
	}
	if damaged < 2 || len(got) != blockStorages-damaged {
		t.Errorf("%d values expire, want all %d but the %d of the damaged posting", len(got), blockStorages, damaged)
	}
}
