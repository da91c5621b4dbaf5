package cache

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/rstream-dev/rstream/cache/internal/retention"
	"github.com/rstream-dev/rstream/cache/internal/seen"
	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/internal/longtest"
)

// A state that is read in pieces remains the state at its position, whatever retention, seals
// and appends do between two pieces.
func TestStateWhileRetaining(t *testing.T) {
	span, step := seen.HashSpan, retention.StepTime
	t.Cleanup(func() { seen.HashSpan, retention.StepTime = span, step })
	start, draw := retainStartFile(), setState(t)
	n, most := 0, longtest.Scale(1, 4, 10)
	rapid.Check(t, func(rt *rapid.T) {
		if n++; n > most {
			return
		}
		draw(rt)
		seen.HashSpan, retention.StepTime = event.BlockSize, 0
		db := openBytes(t, start.bytes, Config{Role: Server})
		defer db.Close()
		all := slices.Clone(start.evs)
		w := meddler{t: rt, db: db, all: &all}
		for range rapid.IntRange(0, 3).Draw(rt, "before") {
			w.meddle()
		}
		for range longtest.Size(1, 3) {
			horizon := w.horizon()
			at := rapid.SampledFrom([]event.ID{horizon, horizon + 1, max(horizon, 2*event.BlockSize), 3 * event.BlockSize, db.Head() - 1, db.Head()}).Draw(rt, "at")
			topic := topics(rt, rapid.SampledFrom(modelTopics).Draw(rt, "topic"))[0]
			want := fold(all, topic, at)
			var got []string
			every := rapid.SampledFrom([]int{2, 7, 40}).Draw(rt, "every")
			err := db.State(context.Background(), topic, at, func(ev *event.Event) error {
				got = append(got, string(ev.Line()))
				if len(got)%every == 0 {
					w.meddle()
				}
				return nil
			})
			switch {
			case err != nil && at < w.horizon():
				if !slices.Equal(got, want[:len(got)]) {
					rt.Fatalf("the state of %s at %s begins\n%s\nwant\n%s", topic, at, strings.Join(got, "\n"), strings.Join(want, "\n"))
				}
			case err != nil:
				rt.Fatalf("%v", err)
			case !slices.Equal(got, want):
				rt.Fatalf("the state of %s at %s is\n%s\nwant\n%s", topic, at, strings.Join(got, "\n"), strings.Join(want, "\n"))
			}
		}
		if err := db.Snapshots().SealStates(context.Background(), event.All); err != nil {
			rt.Fatalf("%v", err)
		}
		c := retainCheck{rt, db, all, w.horizon()}
		c.state(event.All, c.horizon)
		c.state(event.All, c.head())
	})
}

// A meddler does parts of a server's work during reads.
type meddler struct {
	t   *rapid.T
	db  *DB
	r   *retention.Retainer
	all *[]event.Event
	n   int
}

func (w *meddler) horizon() event.ID {
	at, err := w.db.Horizon(context.Background())
	if err != nil {
		w.t.Fatalf("%v", err)
	}
	return at
}

func (w *meddler) meddle() {
	ctx := context.Background()
	w.n++
	switch rapid.IntRange(0, 5).Draw(w.t, "meddle") {
	case 0, 1:
		w.retain(ctx)
	case 2:
		if err := w.db.Snapshots().SealStates(ctx, event.All); err != nil {
			w.t.Fatalf("%v", err)
		}
	case 3:
		rs := mustAppend(w.t, w.db, retainedDrafts(fmt.Sprint("meddle", len(*w.all)), w.n)...)
		for i := range rs {
			if !rs[i].Duplicate {
				*w.all = append(*w.all, rs[i].Event)
			}
		}
	}
}

// retain raises the horizon by a block or not at all, and drops some of what is below.
func (w *meddler) retain(ctx context.Context) {
	if w.r == nil {
		r, err := w.db.newRetainer(ctx, Retention{MaxBytes: 1})
		if err != nil {
			w.t.Fatalf("%v", err)
		}
		w.r = r
	}
	cuts := rapid.IntRange(1, 300).Draw(w.t, "cuts")
	w.r.Throttle = func(context.Context, time.Duration) error {
		if cuts--; cuts == 0 {
			return errInjected
		}
		return nil
	}
	if rapid.IntRange(0, 3).Draw(w.t, "raise") == 0 {
		if err := w.db.history.MoveHorizon(ctx, w.horizon()+event.BlockSize); err != nil {
			w.t.Fatalf("%v", err)
		}
	}
	if err := w.r.DropBelow(ctx); err != nil && !errors.Is(err, errInjected) {
		w.t.Fatalf("%v", err)
	}
}
