package cache

import (
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/window"
)

// A stepLog collects what is reported.
type stepLog []Progress

func (l *stepLog) add(p Progress) { *l = append(*l, p) }

// steps returns the steps in their order, each once, and checks that each goes on to its
// end, if it has a total.
func (l *stepLog) steps(t *testing.T) (steps []Step) {
	t.Helper()
	for i, p := range *l {
		if i == 0 || p.Step != (*l)[i-1].Step {
			steps = append(steps, p.Step)
		} else if p.Done < (*l)[i-1].Done || p.Total != (*l)[i-1].Total && (*l)[i-1].Total > 0 {
			t.Errorf("after %+v, %+v is reported", (*l)[i-1], p)
		}
		if p.Waiting || p.Total > 0 && p.Done > p.Total {
			t.Errorf("%+v is reported", p)
		}
	}
	*l = nil
	return steps
}

// Whatever takes long says how far it is.
func TestSteps(t *testing.T) {
	ctx := t.Context()
	dir := t.TempDir()
	path := filepath.Join(dir, "log.db")
	var said stepLog
	clock := newClock()
	cfg := Config{Role: Server, Progress: said.add, Now: clock.now}
	db := mustOpen(t, path, cfg)
	for i := range 10 {
		mustAppend(t, db, drafts("alice", "x", string(rune('a'+i)), 1000)...)
	}
	if len(said) > 0 {
		t.Errorf("appends report %v", said)
	}
	check := func(what string, want ...Step) {
		t.Helper()
		if got := said.steps(t); !slices.Equal(got, want) {
			t.Errorf("%s reports %v, want %v", what, got, want)
		}
	}
	if _, err := db.CheckContents(ctx, func(f Fault) error { t.Errorf("%+v", f); return nil }); err != nil {
		t.Fatal(err)
	}
	check("CheckContents", StepStructure, StepPages, StepPostings, StepDigests)
	if err := db.BackupTo(ctx, filepath.Join(dir, "backup.db")); err != nil {
		t.Fatal(err)
	}
	said = slices.DeleteFunc(said, func(p Progress) bool { return p.Step == StepCopy }) // it may be too short to be seen
	check("BackupTo", StepStructure, StepPages)
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	clock.add(time.Hour)
	if _, err := Compact(ctx, path, Config{Progress: said.add, Now: clock.now}, Retention{History: time.Minute}); err != nil {
		t.Fatal(err)
	}
	check("Compact", StepDrop, StepRewrite)
	s, err := OpenSalvage(t.Context(), path, said.add)
	if err != nil {
		t.Fatal(err)
	}
	s.Close()
	check("OpenSalvage", StepSearch)
}

// A copy says how far a check and a Forget are.
func TestStepsOfCopy(t *testing.T) {
	ctx := t.Context()
	var said stepLog
	db := mustOpen(t, filepath.Join(t.TempDir(), "copy.db"), Config{Role: Client, Log: testLog, Progress: said.add})
	defer db.Close()
	alice := topics(t, "alice")
	lease, _, err := db.Leases().Claim(ctx, alice, window.Span{To: 20_000})
	if err != nil {
		t.Fatal(err)
	}
	var evs []event.Event
	for id := event.ID(1); id <= 20_000; id++ {
		evs = append(evs, madeEvent("alice", "x", id))
	}
	if _, err := lease.Apply(ctx, evs, 20_000); err != nil {
		t.Fatal(err)
	}
	if err := lease.Commit(ctx); err != nil {
		t.Fatal(err)
	}
	if err := db.Check(ctx); err != nil {
		t.Fatal(err)
	}
	setForgetPages(t, 8)
	if n, err := db.Forget(ctx, alice[0], event.MaxID); err != nil || n != 20_000 {
		t.Fatalf("%d, %v", n, err)
	}
	if got := len(said); got < 10 {
		t.Errorf("%d steps are reported", got)
	}
	if got, want := said.steps(t), []Step{StepStructure, StepForget}; !slices.Equal(got, want) {
		t.Errorf("%v is reported, want %v", got, want)
	}
}
