package snapshot

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"testing"

	"github.com/rstream-dev/rstream/cache/internal/dbfile"
	"github.com/rstream-dev/rstream/cache/internal/rows"
	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/window"
)

// openLog opens the file of a log that has nothing but storages, events and a window.
func openLog(t *testing.T) *Store {
	t.Helper()
	f, err := dbfile.Open(context.Background(), t.TempDir()+"/log.db", dbfile.Options{Role: dbfile.Server})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	none := func(*sql.Tx, []event.Topic) (window.Spans, error) { return nil, nil }
	return New(f, rows.New(f), none)
}

// appendPuts appends an event to each of n storages.
func appendPuts(t *testing.T, s *Store, n int, value []byte) (head event.ID) {
	t.Helper()
	err := s.file.Update(context.Background(), func(tx *sql.Tx) error {
		if err := tx.QueryRow(`SELECT next - 1 FROM log`).Scan(&head); err != nil {
			return err
		}
		var evs []event.Event
		for i := range n {
			d := event.Draft{User: "alice", Path: fmt.Sprint(i), Type: event.Put, Key: fmt.Sprint(head), Value: value}
			head++
			evs = append(evs, event.New(head, 1, d, d.Hash()))
		}
		storages, err := s.tables.StorageIDs(tx, evs)
		if err != nil {
			return err
		}
		if _, err := s.tables.Pages.Append(tx, evs, storages); err != nil {
			return err
		}
		return dbfile.UpdateLog(tx, dbfile.LogTable.Update("next", "?1", "time", "1"), head+1)
	})
	if err != nil {
		t.Fatal(err)
	}
	return head
}

// Large values are read a few at a time, whatever the number of storages.
func TestLargeValuesInPieces(t *testing.T) {
	s := openLog(t)
	head := appendPuts(t, s, 20, []byte(`"`+strings.Repeat("x", rows.MaxReadBytes/3)+`"`))
	r := stateReader{db: s, topic: event.All, at: head}
	n, pieces := 0, 0
	for more := true; more; pieces++ {
		err := s.file.View(context.Background(), func(tx *sql.Tx) (err error) {
			var evs []event.Event
			evs, more, err = r.next(context.Background(), tx)
			if n += len(evs); len(evs) > 4 {
				t.Errorf("one piece has %d events of a third of a megabyte", len(evs))
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if n != 20 || pieces < 5 {
		t.Errorf("%d events came in %d pieces", n, pieces)
	}
}

// What a writer that is gone has left, and cannot be told from one that is not, is
// waited for.
func TestKeepStatesBusy(t *testing.T) {
	defer func(few int) { FewStorages = few }(FewStorages)
	FewStorages = 0
	s := openLog(t)
	appendPuts(t, s, int(SealSpan), []byte("1"))
	ctx, cancel := context.WithCancel(context.Background())
	w := s.NewSealed(event.All, SealSpan, 0)
	if err := s.file.Update(ctx, w.begin); err != nil {
		t.Fatal(err)
	}
	s.BlockSealed()
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()
	for len(s.sealed) > 0 && len(ended) == 0 { // it has not looked yet
		runtime.Gosched()
	}
	if err := w.Abort(ctx); err != nil {
		t.Fatal(err)
	}
	s.BlockSealed()
	for kept := 0; kept == 0 && len(ended) == 0; {
		if err := s.file.ViewRow(ctx, `SELECT count(*) FROM snapshot WHERE whole`, nil, &kept); err != nil {
			t.Fatal(err)
		}
	}
	cancel()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Errorf("KeepStates: %v", err)
	}
}

// Of concurrent seals of the same state, one is kept.
func TestSealTwice(t *testing.T) {
	s := openLog(t)
	ctx := context.Background()
	first, second := s.NewSealed(event.All, event.BlockSize, 0), s.NewSealed(event.All, event.BlockSize, 0)
	if err := s.file.Update(ctx, first.begin); err != nil {
		t.Fatal(err)
	}
	if err := second.Finish(ctx); !errors.Is(err, dbfile.ErrBusy) {
		t.Errorf("Finish beside one that is begun: %v", err)
	}
	if err := first.Finish(ctx); err != nil {
		t.Fatal(err)
	}
	if err := second.Finish(ctx); !errors.Is(err, dbfile.ErrLost) {
		t.Errorf("Finish of what is kept: %v", err)
	}
	if err := second.Abort(ctx); err != nil {
		t.Fatal(err)
	}
	var kept int
	if err := s.file.ViewRow(ctx, `SELECT count(*) FROM snapshot WHERE whole`, nil, &kept); err != nil || kept != 1 {
		t.Errorf("%d are kept, %v", kept, err)
	}
}

// keepPuts opens a log with an event in each of many storages, and keeps the state at its head.
func keepPuts(t *testing.T) (s *Store, head event.ID) {
	t.Helper()
	few := FewStorages
	t.Cleanup(func() { FewStorages = few })
	FewStorages = 0
	s = openLog(t)
	head = appendPuts(t, s, 5*partMembers, []byte("1"))
	if err := s.sealState(context.Background(), event.All, head, 0); err != nil {
		t.Fatal(err)
	}
	return s, head
}

// change changes the file in a transaction.
func change(t *testing.T, s *Store, query string) {
	t.Helper()
	err := s.file.Update(context.Background(), func(tx *sql.Tx) error {
		_, err := tx.Exec(query)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

// A state that is being folded is complete, even if the kept one with which it has begun turns
// out to be damaged and is dropped.
func TestDropDamagedDuringFold(t *testing.T) {
	ctx := context.Background()
	for what, drop := range map[string]func(*Store) error{
		"a damaged part": func(s *Store) error {
			change(t, s, `UPDATE part SET members = x'00' WHERE rowid = (SELECT max(rowid) FROM part)`)
			n, err := s.Scrub(ctx, true)
			if err == nil && n != 1 {
				err = fmt.Errorf("%d states are damaged", n)
			}
			return err
		},
		"a damaged row": func(s *Store) error {
			change(t, s, `UPDATE snapshot SET count = count + 1`)
			w, _, err := s.NewWriter(ctx, event.All, 1)
			if err != nil {
				return err
			}
			return w.Abort(ctx)
		},
	} {
		s, head := keepPuts(t)
		r := stateReader{db: s, topic: event.All, at: head}
		n, pieces := 0, 0
		for more := true; more; pieces++ {
			err := s.file.View(ctx, func(tx *sql.Tx) (err error) {
				var evs []event.Event
				evs, more, err = r.next(ctx, tx)
				n += len(evs)
				return err
			})
			if err == nil && pieces == 0 {
				err = drop(s)
			}
			if err != nil {
				t.Fatalf("%s: %v", what, err)
			}
		}
		if n != int(head) || pieces < 2 {
			t.Errorf("%s: the state has %d members in %d pieces, want %d", what, n, pieces, head)
		}
	}
}

// A state that its server is retiring loses its parts first. It is not damaged.
func TestScrubWhileRetiring(t *testing.T) {
	ctx := context.Background()
	s, head := keepPuts(t)
	if err := s.sealState(ctx, event.All, head-1, 0); err != nil {
		t.Fatal(err)
	}
	kept, err := s.keptSnapshots(ctx)
	if err != nil || len(kept) != 2 {
		t.Fatalf("kept are %v, %v", kept, err)
	}
	var retired int64
	err = s.file.Update(ctx, func(tx *sql.Tx) error {
		if retired, err = s.Retire(tx, head); err != nil {
			return err
		}
		_, err = tx.Exec(`DELETE FROM part WHERE rowid = (SELECT max(rowid) FROM part WHERE snapshot = ?)`, retired) // as DropParts does
		return err
	})
	if err != nil || retired != kept[1].id {
		t.Fatalf("retired is %d of %v, %v", retired, kept, err)
	}
	for _, k := range kept {
		if err := s.checkSnapshot(ctx, k); err != nil {
			t.Error(err)
		}
	}
}
