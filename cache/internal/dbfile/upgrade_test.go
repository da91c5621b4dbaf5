package dbfile

import (
	"context"
	"database/sql"
	"errors"
	"os"
	"strings"
	"testing"
)

func openOld(path string, role Role, move func(context.Context, *File, func(Progress)) error) (*File, error) {
	return Open(context.Background(), path, Options{Role: role, Log: "0123456789ABCDEF", MoveEvents: move})
}

func versionOf(t *testing.T, path string) (version int) {
	t.Helper()
	pool, err := openPool(path, 1, "mode=rw"+tuning)
	if err != nil {
		t.Fatal(err)
	}
	defer pool.Close()
	if err := pool.QueryRow(`PRAGMA user_version`).Scan(&version); err != nil {
		t.Fatal(err)
	}
	return version
}

// One process upgrades a file; another one that opens it waits, says so, and finds it done.
func TestUpgradeWaits(t *testing.T) {
	grace := serverGrace
	t.Cleanup(func() { serverGrace = grace })
	serverGrace = 0
	for _, c := range []struct {
		name          string
		role          Role // of the file
		first, second Role // of the openings
	}{{"copy", Client, Client, Client}, {"copy of any role", Client, "", Client}, {"served log", Server, Server, ""}, {"log to be served", Server, "", Server},
		{"log of any role", Server, "", ""}} {
		for _, step := range []string{"check", "move"} {
			t.Run(step+" "+c.name, func(t *testing.T) { checkUpgradeWaits(t, olderFile(t, 6, c.role), c.first, c.second, step) })
		}
	}
}

// currentVersion returns the version of the schema of a new file.
func currentVersion(t *testing.T) int {
	t.Helper()
	files, err := migrationFiles()
	if err != nil {
		t.Fatal(err)
	}
	return len(files)
}

func checkUpgradeWaits(t *testing.T, path string, first, second Role, step string) {
	begun, goOn, done := make(chan struct{}), make(chan struct{}), make(chan error)
	pause := func(at string) {
		if at == step {
			close(begun)
			<-goOn
		}
	}
	go func() {
		f, err := Open(context.Background(), path, Options{Role: first, Log: "0123456789ABCDEF",
			CheckEvents: func(context.Context, *File) error {
				pause("check")
				return nil
			},
			MoveEvents: func(ctx context.Context, f *File, report func(Progress)) error {
				pause("move")
				return dropOld(ctx, f, report)
			}})
		if err == nil {
			err = f.Close()
		}
		done <- err
	}()
	<-begun
	if v := versionOf(t, path); v != map[string]int{"check": 6, "move": currentVersion(t)}[step] {
		t.Errorf("in step %s the schema is %d", step, v)
	}
	waited := 0
	f, err := Open(context.Background(), path, Options{Role: second, Log: "0123456789ABCDEF",
		Progress: func(p Progress) {
			if !p.Waiting {
				t.Error("the second does not wait")
			}
			if waited++; waited == 3 {
				close(goOn)
			}
		},
		MoveEvents: func(ctx context.Context, f *File, _ func(Progress)) error {
			has, err := f.HasOldEvents(ctx)
			if has {
				t.Error("the second moves events")
			}
			return err
		}})
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(<-done, f.Close()); err != nil || waited < 3 {
		t.Errorf("waited %d times, %v", waited, err)
	}
}

// An opening that waits ends with its context.
func TestUpgradeWaitCancelled(t *testing.T) {
	path := olderFile(t, 6, Client)
	ctx, cancel := context.WithCancel(context.Background())
	f, err := openOld(path, Client, func(context.Context, *File, func(Progress)) error {
		_, err := Open(ctx, path, Options{Role: Client, Log: "0123456789ABCDEF", Progress: func(Progress) { cancel() }, MoveEvents: dropOld})
		if !errors.Is(err, context.Canceled) {
			t.Errorf("waiting ends with %v", err)
		}
		return errInjected
	})
	if !errors.Is(err, errInjected) {
		t.Fatalf("%v, %v", f, err)
	}
}

var errInjected = errors.New("injected")

// An upgrade that fails keeps nobody out, and goes on at the next opening.
func TestUpgradeFails(t *testing.T) {
	for _, role := range []Role{Server, Client} {
		for _, as := range []Role{role, ""} {
			path := olderFile(t, 6, role)
			if _, err := openOld(path, as, func(context.Context, *File, func(Progress)) error { return errInjected }); !errors.Is(err, errInjected) {
				t.Fatalf("%s as %q: %v", role, as, err)
			}
			if v := versionOf(t, path); v != currentVersion(t) {
				t.Errorf("the schema is %d", v)
			}
			f, err := openOld(path, role, dropOld)
			if err != nil {
				t.Fatalf("%s as %q: %v", role, as, err)
			}
			if err := f.Close(); err != nil {
				t.Error(err)
			}
		}
	}
}

// A process of an earlier version that has the file open goes on with nothing: it neither
// misses the events that have moved nor adds others.
func TestUpgradeUnderEarlierProcess(t *testing.T) {
	path := olderFile(t, 6, Client)
	old, err := openPool(path, 1, "mode=rw"+tuning)
	if err != nil {
		t.Fatal(err)
	}
	defer old.Close()
	read, err := old.Prepare(`SELECT count(*) FROM event`)
	if err != nil {
		t.Fatal(err)
	}
	write, err := old.Prepare(`INSERT INTO event (id, storage, line) VALUES (1, 1, '')`)
	if err != nil {
		t.Fatal(err)
	}
	f, err := openOld(path, Client, func(ctx context.Context, f *File, report func(Progress)) error {
		if err := read.QueryRow().Scan(new(int)); err == nil {
			t.Error("it reads")
		}
		if _, err := write.Exec(); err == nil {
			t.Error("it writes")
		}
		return dropOld(ctx, f, report)
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Error(err)
	}
}

// A file that a server of an earlier version serves is left alone.
func TestUpgradeServedByEarlierVersion(t *testing.T) {
	grace := serverGrace
	t.Cleanup(func() { serverGrace = grace })
	serverGrace = 0
	path := olderFile(t, 6, Server)
	server, err := openHeld(path, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer server.release()
	if err := server.serve(); err != nil {
		t.Fatal(err)
	}
	if _, err := openOld(path, "", dropOld); !errors.Is(err, ErrServedOlder) {
		t.Errorf("while it is served: %v", err)
	}
	if v := versionOf(t, path); v != 6 {
		t.Errorf("the schema is %d", v)
	}
	if err := server.endServing(); err != nil {
		t.Fatal(err)
	}
	f, err := openOld(path, "", dropOld)
	if err != nil {
		t.Fatalf("after it has ended: %v", err)
	}
	other, err := openOld(path, Server, nil)
	if err != nil {
		t.Fatalf("the upgrade keeps a server out: %v", err)
	}
	if err := errors.Join(f.Close(), other.Close()); err != nil {
		t.Error(err)
	}
}

// Without enough space on the disk the file stays as it is, for the version that wrote it. An
// upgrade that has begun goes on: the events that it moved have already taken some of the space.
func TestUpgradeWithoutRoom(t *testing.T) {
	t.Cleanup(func() { freeSpace = diskSpace })
	path := olderFile(t, 6, Client)
	var room *RoomError
	freeSpace = func(string) (int64, bool) { return 100_000, true }
	_, err := openOld(path, Client, dropOld)
	if !errors.As(err, &room) || !errors.Is(err, ErrFull) || room.Free != 100_000 || room.Needed < 100_000 || !strings.Contains(err.Error(), "0.1 MB") {
		t.Fatalf("without room: %v", err)
	}
	if v := versionOf(t, path); v != 6 {
		t.Errorf("the schema is %d", v)
	}
	freeSpace = func(string) (int64, bool) { return 0, false } // unknown
	f, err := openOld(path, Client, dropOld)
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Error(err)
	}
	path = olderFile(t, 6, Client) // begun, and not finished
	if _, err := openOld(path, Client, func(context.Context, *File, func(Progress)) error { return errInjected }); !errors.Is(err, errInjected) {
		t.Fatal(err)
	}
	freeSpace = func(string) (int64, bool) { return room.Needed - 1, true }
	if f, err = openOld(path, Client, dropOld); err != nil {
		t.Fatalf("to go on, with less space: %v", err)
	}
	if err := f.Close(); err != nil {
		t.Error(err)
	}
	if free, ok := diskSpace(path); !ok || free <= 0 {
		t.Errorf("the disk has %d, %v", free, ok)
	}
}

// Who may not write the file says that somebody else has to go on.
func TestUpgradeNotFinished(t *testing.T) {
	path := olderFile(t, 6, Client)
	if _, err := openOld(path, Client, func(context.Context, *File, func(Progress)) error { return errInjected }); !errors.Is(err, errInjected) {
		t.Fatal(err)
	}
	if err := os.Chmod(path, 0o400); err != nil {
		t.Fatal(err)
	}
	f := &File{Path: path, absPath: path, location: location{frozen: ErrReadOnly, params: "mode=ro&immutable=1" + tuning}}
	pool, err := f.connect(1, "")
	if err != nil {
		t.Fatal(err)
	}
	defer pool.Close()
	f.Read = pool
	if err := f.migrate(context.Background(), Options{}); !errors.Is(err, ErrOlder) || !errors.Is(err, ErrReadOnly) {
		t.Errorf("who may only read gets %v", err)
	}
}

// Sealed states of earlier versions go, fetched ones stay.
func TestUpgradeSnapshots(t *testing.T) {
	path := olderFile(t, 6, Client)
	pool, err := openPool(path, 1, "mode=rw"+tuning)
	if err == nil {
		_, err = pool.Exec(`INSERT INTO snapshot (id, topic, at, form, removals) VALUES (1, '*', 9, 'ids', 0), (2, '*', 9, 'lines', 0);
			INSERT INTO part (snapshot, user, path, members) VALUES (1, 'a', 'b', x'00'), (2, 'a', 'b', x'00')`)
	}
	if err != nil {
		t.Fatal(err)
	}
	if err := pool.Close(); err != nil {
		t.Fatal(err)
	}
	f, err := openOld(path, Client, dropOld)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var left string
	err = f.View(context.Background(), func(tx *sql.Tx) error {
		return tx.QueryRow(`SELECT (SELECT group_concat(id) FROM snapshot) || ' ' || (SELECT group_concat(snapshot) FROM part)`).Scan(&left)
	})
	if err != nil || left != "2 2" {
		t.Errorf("left are %s, %v", left, err)
	}
}

// Who only looks leaves a file of an earlier version as it is.
func TestNoUpgrade(t *testing.T) {
	path := olderFile(t, 6, Client)
	if _, err := Open(context.Background(), path, Options{NoUpgrade: true, MoveEvents: dropOld}); !errors.Is(err, ErrOlder) {
		t.Errorf("%v", err)
	}
	if v := versionOf(t, path); v != 6 {
		t.Errorf("the schema is %d", v)
	}
}

// A file whose events or postings are damaged stays as it is.
func TestUpgradeRefused(t *testing.T) {
	for _, version := range []int{6, 7, 8} {
		path := olderFile(t, version, Client)
		_, err := Open(context.Background(), path, Options{Role: Client, Log: "0123456789ABCDEF", MoveEvents: dropOld,
			CheckEvents: func(context.Context, *File) error { return ErrCorrupt }})
		if !errors.Is(err, ErrCorrupt) {
			t.Errorf("%v", err)
		}
		if v := versionOf(t, path); v != version {
			t.Errorf("the schema is %d, was %d", v, version)
		}
	}
}
