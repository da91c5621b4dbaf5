package cache

import (
	"context"
	"database/sql"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/internal/longtest"
	"github.com/rstream-dev/rstream/internal/testfile"
	"github.com/rstream-dev/rstream/window"
)

// changeGolden returns a copy of a golden file, changed as its own version would.
func changeGolden(t *testing.T, name string, change func(tx *sql.Tx) error) (path string) {
	t.Helper()
	path = goldenCopy(t, name)
	db, err := sql.Open("sqlite", path)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	tx, err := db.Begin()
	if err == nil {
		err = errors.Join(change(tx), tx.Commit())
	}
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// An upgraded backup has the same contents and can be served, also by the program that upgrades it.
func TestGoldenBackup(t *testing.T) {
	alone(t)
	files := []string{"0001-server.db", "0005-server.db"} // by default, two of the small ones
	if longtest.Enabled() {
		files = goldenFiles(t, "server")
	}
	for _, name := range append(files, "0006-server-grown.db", "0007-server-grown.db", "0008-server-grown.db", "0009-server-grown.db", "0010-server-grown.db") {
		path, unread := goldenBackup(t, name), goldenBackup(t, name)
		want, err := os.ReadFile(strings.TrimSuffix(filepath.Join(goldenDir, name), ".db") + ".txt")
		if err != nil {
			t.Fatal(err)
		}
		db := mustOpen(t, path, Config{Now: newClock().now})
		if got := strings.Replace(describe(t, db), " backup\n", " server\n", 1); got != string(want) {
			t.Errorf("%s says\n%s\nwant\n%s", name, got, want)
		}
		db.Close()
		for _, path := range []string{path, unread} {
			db = mustOpen(t, path, Config{Role: Server})
			if log, _, err := db.Parent(context.Background()); log != testLog || db.Log() == testLog || err != nil {
				t.Errorf("%s: served, it is %s, a child of %s, %v", name, db.Log(), log, err)
			}
			integrity(t, db)
			db.Close()
		}
	}
}

// goldenBackup returns a copy of a server's golden file that is a backup.
func goldenBackup(t *testing.T, name string) (path string) {
	t.Helper()
	return changeGolden(t, name, func(tx *sql.Tx) error {
		_, err := tx.Exec(`UPDATE log SET role = 'backup'`)
		if err == nil && name >= "0008" {
			err = testfile.SumLog(tx)
		}
		return err
	})
}

// manyEvents returns the events of a made-up log, each step ids apart.
func manyEvents(n int, step event.ID) (evs []event.Event) {
	for i := range n {
		evs = append(evs, madeEvent(fmt.Sprint("user", i%3), fmt.Sprint("posts/", i*i%50), event.ID(i+1)*step))
	}
	return evs
}

// insertRows makes evs the only events of a file of an earlier version.
func insertRows(tx *sql.Tx, evs []event.Event, indexed event.ID) error {
	if _, err := tx.Exec(`DELETE FROM event; DELETE FROM posting; DELETE FROM taken; DELETE FROM storage; DELETE FROM candidate; DELETE FROM foreign_event`); err != nil {
		return err
	}
	type posting struct {
		storage int64
		block   uint64
	}
	storages, offsets := map[event.Storage]int64{}, map[posting][]byte{}
	for i := range evs {
		ev := &evs[i]
		of := storages[ev.Storage()]
		if of == 0 {
			of = int64(len(storages) + 1)
			storages[ev.Storage()] = of
			if _, err := tx.Exec(`INSERT INTO storage (id, user, path) VALUES (?, ?, ?)`, of, ev.User, ev.Path); err != nil {
				return err
			}
		}
		if _, err := tx.Exec(`INSERT INTO event (id, storage, line) VALUES (?, ?, ?)`, int64(ev.ID), of, string(ev.Line())); err != nil {
			return err
		}
		if ev.ID <= indexed {
			key := posting{of, ev.ID.Block()}
			offsets[key] = binary.BigEndian.AppendUint16(offsets[key], uint16(uint64(ev.ID-1)%event.BlockSize))
		}
	}
	for key, b := range offsets {
		if _, err := tx.Exec(`INSERT INTO posting (storage, block, offsets) VALUES (?, ?, ?)`, key.storage, int64(key.block), b); err != nil {
			return err
		}
	}
	return nil
}

// A long log and a large copy of an earlier version keep their contents.
func TestUpgradeMany(t *testing.T) {
	alone(t)
	n := longtest.Scale(event.BlockSize+900, 2*event.BlockSize+900, 100_000)
	evs := manyEvents(n, 1)
	head := int64(len(evs))
	path := changeGolden(t, "0005-server.db", func(tx *sql.Tx) error {
		if err := insertRows(tx, evs, event.ID(head)/event.BlockSize*event.BlockSize); err != nil {
			return err
		}
		_, err := tx.Exec(`UPDATE log SET next = ?, time = ?, indexed = ?, hashed = 0; UPDATE window SET reached = ?, stop = ?`,
			head+1, int64(evs[len(evs)-1].Time), event.ID(head)/event.BlockSize*event.BlockSize, head, head)
		return err
	})
	server := mustOpen(t, path, Config{Role: Server})
	defer server.Close()
	checkUpgraded(t, server, evs)
	if rs := mustAppend(t, server, evs[17].Draft, draft("alice", "x", "new")); !rs[0].Duplicate || rs[0].ID != 18 || rs[1].ID != event.ID(head)+1 {
		t.Errorf("appended are %+v", rs)
	}

	evs = manyEvents(n, 7)
	path = changeGolden(t, "0006-client.db", func(tx *sql.Tx) error {
		if err := insertRows(tx, evs, event.MaxID); err != nil {
			return err
		}
		_, err := tx.Exec(`DELETE FROM window; DELETE FROM doubt; DELETE FROM followed;
			INSERT INTO window (topic, state, start, reached, stop) VALUES ('*', 'committed', 0, ?, ?)`, 7*head, 7*head)
		return err
	})
	client := mustOpen(t, path, Config{Role: Client, Log: testLog})
	defer client.Close()
	checkUpgraded(t, client, evs)
}

// checkUpgraded checks that a file has exactly evs.
func checkUpgraded(t *testing.T, db *DB, evs []event.Event) {
	t.Helper()
	ctx := context.Background()
	last := evs[len(evs)-1].ID
	for _, topic := range topics(t, "*", "user1", "user2/posts/4$") {
		want := among(evs, topic, window.Span{To: last})
		got := readAll(t, db, []event.Topic{topic}, window.Span{To: last}, 5000)
		if !slices.EqualFunc(got, want, func(a, b event.Event) bool { return string(a.Line()) == string(b.Line()) }) {
			t.Errorf("%s has %d events, want %d, or others", topic, len(got), len(want))
		}
		leaves, err := db.Leaves(ctx, topic, window.Span{To: last})
		if err != nil {
			t.Fatal(err)
		}
		if !slices.Equal(leaves, slowLeaves(want)) {
			t.Errorf("%s has other leaves", topic)
		}
		for _, at := range []event.ID{last / 3, last} {
			checkState(t, db, evs, topic, at)
		}
	}
	if err := db.Check(ctx); err != nil {
		t.Error(err)
	}
	integrity(t, db)
}
