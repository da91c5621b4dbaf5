package cache

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"testing"

	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/internal/pagetest"
	"github.com/rstream-dev/rstream/internal/testfile"
	"github.com/rstream-dev/rstream/window"
)

// If the disk is full at COMMIT, an event that was not written is refused, one that was
// written is acknowledged, and one that cannot be read back is unknown.
func TestCommitFullDisk(t *testing.T) {
	for _, c := range []struct {
		name       string
		commit     func(*DB, *sql.Tx) error
		status     int // of the append that meets the full disk
		knownAgain bool
	}{
		{"nothing was written", func(_ *DB, tx *sql.Tx) error { return tx.Rollback() }, http.StatusInsufficientStorage, false},
		{"all was written", func(_ *DB, tx *sql.Tx) error { return tx.Commit() }, http.StatusCreated, true},
		{"written, and it cannot be read back", func(db *DB, tx *sql.Tx) error {
			return errors.Join(tx.Commit(), db.file.Read.Close())
		}, http.StatusServiceUnavailable, true},
		{"not written, and it cannot be read back", func(db *DB, tx *sql.Tx) error {
			return errors.Join(tx.Rollback(), db.file.Read.Close())
		}, http.StatusServiceUnavailable, false},
		{"the log has ended elsewhere", func(_ *DB, tx *sql.Tx) error {
			_, err := tx.Exec(`UPDATE log SET next = 5`)
			return errors.Join(err, testfile.SumLog(tx), tx.Commit())
		}, http.StatusServiceUnavailable, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			db := openServer(t)
			mustAppend(t, db, draft("alice", "x", "before"))
			var shown []event.ID
			db.OnCommit(func(evs []event.Event, _ event.ID) {
				for i := range evs {
					shown = append(shown, evs[i].ID)
				}
			})
			db.commitTx = func(tx *sql.Tx) error {
				db.commitTx = nil
				return errors.Join(c.commit(db, tx), fmt.Errorf("%w (injected)", ErrFull))
			}
			ds := drafts("bob", "y", "k", 2)
			receipts, err := db.Append(context.Background(), ds)
			checkFull(t, receipts, err, c.status)
			if want := c.status == http.StatusCreated; (len(shown) == 2) != want {
				t.Errorf("shown were %v", shown)
			}
			db = reopened(t, db)
			again := mustAppend(t, db, ds...)
			if again[0].Duplicate != c.knownAgain || again[0].ID != 2 || again[1].ID != 3 {
				t.Errorf("again: %s known %v", again[0].ID, again[0].Duplicate)
			}
		})
	}
}

// reopened closes a file and opens it again.
func reopened(t *testing.T, db *DB) *DB {
	t.Helper()
	path := db.Path()
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := sqlExec(path, `UPDATE window SET stop = (SELECT next - 1 FROM log) WHERE topic = '*'`); err != nil {
		t.Fatal(err)
	}
	db = mustOpen(t, path, Config{Role: Server})
	t.Cleanup(func() { db.Close() })
	return db
}

func sqlExec(path, statement string) (sql.Result, error) {
	db, err := sql.Open("sqlite", path)
	if err != nil {
		return nil, err
	}
	defer db.Close()
	return db.Exec(statement)
}

func checkFull(t *testing.T, receipts []event.Receipt, err error, want int) {
	t.Helper()
	status := http.StatusCreated
	var refused *StatusError
	if errors.As(err, &refused) {
		status = refused.HTTPStatus()
	}
	if status != want || (err == nil) != (len(receipts) == 2) {
		t.Errorf("Append = %v, %v, want status %d", receipts, err, want)
	}
	if unknown := errors.Is(err, ErrUnknown); unknown != (want == http.StatusServiceUnavailable) {
		t.Errorf("Append = %v", err)
	}
}

// If the disk has no room for the appends of a transaction, those that fit alone are
// written.
func TestCommitFullDiskTogether(t *testing.T) {
	db := openServer(t)
	reached, release := hold(db)
	first := appendSoon(t.Context(), db, drafts("alice", "x", "first", 1))
	<-reached
	full := 0
	db.commitTx = func(tx *sql.Tx) error {
		evs, err := pagetest.List(tx)
		if err != nil {
			return err
		}
		if slices.ContainsFunc(evs, func(ev pagetest.Event) bool { return bytes.Contains(ev.Line, []byte(`"big`)) }) {
			full++
			return errors.Join(tx.Rollback(), ErrFull)
		}
		return tx.Commit()
	}
	small, big := make(chan error, 1), make(chan error, 1)
	requests := []*appendRequest{}
	for key, done := range map[string]chan error{"small": small, "big": big} {
		r := &appendRequest{ctx: t.Context(), drafts: drafts("bob", "y", key, 1), done: done}
		r.hashes = []event.Hash{r.drafts[0].Hash()}
		requests = append(requests, r)
	}
	release()
	if a := <-first; a.err != nil {
		t.Fatal(a.err)
	}
	db.commitRequests(requests)
	if err := <-small; err != nil {
		t.Errorf("the small one: %v", err)
	}
	if err := <-big; !errors.Is(err, ErrFull) || errors.Is(err, ErrUnknown) {
		t.Errorf("the big one: %v", err)
	}
	if full != 2 {
		t.Errorf("the disk was full %d times, want once together and once alone", full)
	}
	checkIDs(t, "the log", readAll(t, db, topics(t, "*"), window.Span{To: 9}, 10), allIDs(2))
}
