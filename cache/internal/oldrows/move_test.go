package oldrows

import (
	"context"
	"errors"
	"testing"

	"github.com/rstream-dev/rstream/cache/internal/dbfile"
	"github.com/rstream-dev/rstream/internal/longtest"
)

var roles = []dbfile.Role{dbfile.Server, dbfile.Client, dbfile.Backup}

// Files of all earlier schemas and of every role have the same events afterwards.
func TestMove(t *testing.T) {
	r := newRand(t)
	for i, role := range roles {
		for schema := 1; schema <= schemas; schema++ {
			gap := int64(1)
			if role == dbfile.Client {
				gap = 1 + r.Int64N(100)
			}
			n := longtest.Size(400, 1200)
			setStep(t, 50+r.IntN(n), 1<<(16+r.IntN(6)))
			f := writeOld(t, schema, role, madeRows(r, r.IntN(n), gap))
			f.check(t)
			if longtest.Enabled() || schema%3 == i { // by default, for each schema once
				f.check(t) // and when it is opened again
			}
		}
	}
}

// A file without events is converted, too.
func TestMoveNothing(t *testing.T) {
	for _, role := range roles {
		f := writeOld(t, schemas, role, nil)
		f.check(t)
	}
}

// Lines that are not those of their events are kept as they are, each in a page of its own,
// and the lines around them are served.
func TestMoveDamaged(t *testing.T) {
	n := longtest.Size(1500, 3000)
	rows := madeRows(newRand(t), n, 1)
	rows[9].line = "not a line"
	rows[10].line = rows[9].line
	rows[n/5*2].line = rows[n/5*2+1].line // another event's
	rows[n/5*3].line = rows[n/5*3].line[:50] + "\n" + rows[n/5*3].line[50:]
	rows[n-1].line = ""
	for _, role := range roles {
		f := writeOld(t, schemas, role, rows)
		f.check(t, 10, 11, int64(n/5*2+1), int64(n/5*3+1), int64(n))
	}
	rows[n/5*4].storage = -1 // no page can have it
	f := writeOld(t, schemas, dbfile.Server, rows)
	f.check(t, 10, 11, int64(n/5*2+1), int64(n/5*3+1), int64(n/5*4+1), int64(n))
}

var errInterrupted = errors.New("interrupted")

// Interrupted after any step, it goes on at the next opening.
func TestMoveInterrupted(t *testing.T) {
	setStep(t, 100, 1<<20)
	r := newRand(t)
	for _, role := range roles {
		gap := int64(1)
		if role == dbfile.Client {
			gap = 30
		}
		f := writeOld(t, schemas, role, madeRows(r, longtest.Size(800, 1500), gap))
		for done, rounds := false, 0; !done; rounds++ {
			steps := 0
			file, err := dbfile.Open(context.Background(), f.path, dbfile.Options{Log: testLog, MoveEvents: func(ctx context.Context, file *dbfile.File, report func(dbfile.Progress)) error {
				ctx, cancel := context.WithCancelCause(ctx)
				defer cancel(nil)
				return Move(ctx, file, func(p dbfile.Progress) {
					if steps++; steps > 1 {
						cancel(errInterrupted)
					}
				})
			}})
			done = err == nil
			if done {
				if err := file.Close(); err != nil {
					t.Fatal(err)
				}
			} else if !errors.Is(err, context.Canceled) {
				t.Fatal(err)
			}
			if rounds > 100 {
				t.Fatal("it does not come to an end")
			}
		}
		f.check(t)
	}
}

// What is reported grows from step to step, up to all.
func TestProgress(t *testing.T) {
	setStep(t, 100, 1<<20)
	f := writeOld(t, schemas, dbfile.Client, madeRows(newRand(t), 1000, 10))
	var seen []int
	file, err := f.open(func(p dbfile.Progress) {
		if p.Waiting {
			t.Error("it waits")
		}
		seen = append(seen, int(p.Done*100/max(p.Total, 1)))
	})
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	for i := 1; i < len(seen); i++ {
		if seen[i] < seen[i-1] || seen[i] > 100 {
			t.Errorf("reported are %v", seen)
		}
	}
	if len(seen) < 10 || seen[0] > 20 || seen[len(seen)-1] != 100 {
		t.Errorf("reported are %v", seen)
	}
}
