package cache

import (
	"context"
	"database/sql"
	"errors"
	"slices"
	"testing"

	"github.com/rstream-dev/rstream/event"
)

// If a COMMIT has written but reports an error, and its outcome cannot be read back, the next commit
// makes followers read the log: it has only its own events.
func TestPublishAfterUnknownCommit(t *testing.T) {
	db := openServer(t)
	mustAppend(t, db, draft("alice", "x", "before"))
	type publication struct {
		ids  []event.ID // nil: they must be read
		head event.ID
	}
	var published []publication
	db.OnCommit(func(evs []event.Event, head event.ID) {
		p := publication{head: head}
		for i := range evs {
			p.ids = append(p.ids, evs[i].ID)
		}
		published = append(published, p)
	})
	broken, err := sql.Open("sqlite", db.Path())
	if err != nil {
		t.Fatal(err)
	}
	if err := broken.Close(); err != nil {
		t.Fatal(err)
	}
	whole := db.file.Read
	db.commitTx = func(tx *sql.Tx) error {
		db.commitTx = nil
		err := tx.Commit()
		db.file.Read = broken
		return errors.Join(err, errors.New("disk I/O error"))
	}
	if _, err = db.Append(context.Background(), drafts("bob", "y", "k", 2)); !errors.Is(err, ErrUnknown) {
		t.Fatalf("append: %v", err)
	}
	db.file.Read = whole
	if again := mustAppend(t, db, drafts("bob", "y", "k", 2)...); !again[0].Duplicate || again[0].ID != 2 {
		t.Errorf("the same again: %+v", again)
	}
	published = nil
	mustAppend(t, db, draft("carol", "z", "later"))
	mustAppend(t, db, draft("carol", "z", "last"))
	want := []publication{{nil, 4}, {[]event.ID{5}, 5}}
	same := func(a, b publication) bool { return a.head == b.head && slices.Equal(a.ids, b.ids) }
	if !slices.EqualFunc(published, want, same) {
		t.Errorf("published: %v, want %v", published, want)
	}
}
