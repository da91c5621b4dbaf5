package cache

import (
	"bufio"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/rstream-dev/rstream/cache/internal/dbfile"
	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/window"
)

// The leases of a DB are free as soon as it is closed, although its process lives on and the
// leases have not expired.
func TestGoneOwner(t *testing.T) {
	a, b, _ := openTwo(t)
	ctx := context.Background()
	ts := topics(t, "alice")
	if _, err := a.HoldCursor(ctx, "mine", ts); err != nil {
		t.Fatal(err)
	}
	mustApply(t, mustClaim(t, a, "alice", 0, 10), 4)
	if _, busy, err := b.Leases().Claim(ctx, ts, window.Span{To: 10}); !busy || err != nil {
		t.Fatalf("beside its owner: busy %v, %v", busy, err)
	}
	kill(a)
	if l := mustClaim(t, b, "alice", 0, 10); l.Reached() != 4 {
		t.Errorf("goes on at %s", l.Reached())
	}
	if infos, err := b.Cursors(ctx); err != nil || infos[0].Held {
		t.Errorf("Cursors = %v, %v", infos, err)
	}
	if _, err := b.HoldCursor(ctx, "mine", ts); err != nil {
		t.Error(err)
	}
}

// The lease's time decides if locks cannot: if the file of locks is missing or is not the one
// that was locked.
func TestOwnerWithoutLock(t *testing.T) {
	for name, lose := range map[string]func(a, b *DB){
		"the file was removed": func(a, _ *DB) { _ = a.file.OwnerName(); os.Remove(a.file.Path + ".owners") },
		"the file was replaced": func(a, b *DB) {
			_ = a.file.OwnerName()
			os.Remove(a.file.Path + ".owners")
			_ = b.file.OwnerName()
		},
		"no file may be made": func(a, _ *DB) {
			if err := os.Mkdir(a.file.Path+".owners", 0o700); err != nil {
				t.Fatal(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			a, b, c := openTwo(t)
			lose(a, b)
			ctx := context.Background()
			ts := topics(t, "alice")
			cur, err := a.HoldCursor(ctx, "mine", ts)
			if err != nil {
				t.Fatal(err)
			}
			_, err = b.HoldCursor(ctx, "mine", ts)
			wantError(t, "in its lease", err, ErrHeld)
			c.add(dbfile.LeaseTime / 2)
			if err := cur.Move(ctx, 3, nil); err != nil {
				t.Fatal(err)
			}
			c.add(dbfile.LeaseTime / 2)
			_, err = b.HoldCursor(ctx, "mine", ts)
			wantError(t, "in its renewed lease", err, ErrHeld)
			c.add(dbfile.LeaseTime / 2)
			if _, err := b.HoldCursor(ctx, "mine", ts); err != nil {
				t.Error(err)
			}
			wantError(t, "Move of the old holder", cur.Move(ctx, 9, nil), ErrLost)
		})
	}
}

// A reader creates no file of locks.
func TestReadingLocksNothing(t *testing.T) {
	db := openClient(t)
	if _, err := db.Cursors(context.Background()); err != nil {
		t.Fatal(err)
	}
	list(t, db)
	if _, err := os.Stat(db.file.Path + ".owners"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("there is a file of locks (%v)", err)
	}
}

// holdChild holds a cursor and a window until it is killed.
func holdChild(path string) error {
	ctx := context.Background()
	db, err := Open(ctx, path, Config{Role: Client, Log: testLog})
	if err != nil {
		return err
	}
	defer db.Close()
	if err := holdBoth(ctx, db); err != nil {
		return err
	}
	if _, err := os.Stdout.WriteString("held\n"); err != nil {
		return err
	}
	_, err = os.Stdin.Read(make([]byte, 1)) // forever
	return err
}

var errBusy = errors.New("is busy")

func holdBoth(ctx context.Context, db *DB) error {
	alice, err := event.ParseTopic("alice")
	if err != nil {
		return err
	}
	ts := []event.Topic{alice}
	if _, err := db.HoldCursor(ctx, "mine", ts); err != nil {
		return err
	}
	l, busy, err := db.Leases().Claim(ctx, ts, window.Span{To: 10})
	if err != nil {
		return err
	}
	if busy || l == nil {
		return errBusy
	}
	return nil
}

// A killed holder counts as gone even if nobody has waited for it and its process number is
// still taken, as in a container without init.
func TestZombieHoldsNothing(t *testing.T) {
	path := filepath.Join(t.TempDir(), "copy.db")
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), childEnv+"=hold", childFile+"="+path)
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer cmd.Wait()
	defer cmd.Process.Kill()
	if said, err := bufio.NewReader(out).ReadString('\n'); err != nil || said != "held\n" {
		t.Fatalf("the child says %q, %v", said, err)
	}
	db := mustOpen(t, path, Config{Role: Client, Log: testLog})
	defer db.Close()
	ctx := context.Background()
	wantError(t, "beside the holder", holdBoth(ctx, db), ErrHeld)
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(dbfile.LeaseTime / 4); ; {
		err := holdBoth(ctx, db)
		if err == nil {
			break
		}
		if !errors.Is(err, ErrHeld) || time.Now().After(deadline) {
			t.Fatalf("after the holder was killed: %v", err)
		}
	}
	if cmd.ProcessState != nil {
		t.Error("somebody has waited for the child")
	}
}
