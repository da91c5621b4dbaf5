package client

import (
	"testing"

	"github.com/rstream-dev/rstream/event"
)

// progressOf returns a Config that collects what is reported.
func progressOf(cfg Config, got *[]SyncProgress) Config {
	cfg.OnProgress = func(p SyncProgress) { *got = append(*got, p) }
	return cfg
}

// A sync reports what was held before it, then more each time it stores pages, up to all: those
// that wait are stored at once. One that fetches nothing reports nothing.
func TestSyncProgress(t *testing.T) {
	f := newFixture(t)
	f.put("alice/x", 40)
	f.put("bob/x", 60)
	db := f.newCache()
	cfg := hasty(f.http.URL)
	cfg.PageLimit = 10
	var got []SyncProgress
	c := newTestClient(t, db, progressOf(cfg, &got))
	alice := mustTopic(t, "alice")
	if _, err := c.Sync(t.Context(), alice, SyncOptions{}); err != nil {
		t.Fatal(err)
	}
	checkSyncProgress(t, got, 0, 40, 0) // how many there are is not known
	f.put("alice/x", 60)
	got = nil
	if _, err := c.Sync(t.Context(), alice, SyncOptions{}); err != nil {
		t.Fatal(err)
	}
	checkSyncProgress(t, got, 40, 100, 100)
	got = nil
	if _, err := c.Sync(t.Context(), alice, SyncOptions{}); err != nil {
		t.Fatal(err)
	}
	if len(got) > 0 {
		t.Errorf("a sync that fetches nothing reports %v", got)
	}
}

func checkSyncProgress(t *testing.T, got []SyncProgress, from, to, total uint64) {
	t.Helper()
	if len(got) < 2 || got[0].Done != from || got[len(got)-1].Done != to {
		t.Fatalf("%v is reported, want from %d to %d", got, from, to)
	}
	for i, p := range got {
		if p.Reached < p.Span.From || p.Reached > p.Span.To || i > 0 && p.Reached < got[i-1].Reached || i == 0 && p.Reached != p.Span.From {
			t.Errorf("report %d is %v, after %v", i, p, got[max(i-1, 0)])
		}
		if p.Total != total || p.Topic != mustTopic(t, "alice") || p.Span != got[0].Span || i > 0 && p.Done < got[i-1].Done {
			t.Errorf("report %d is %v, after %v", i, p, got[max(i-1, 0)])
		}
	}
}

// The first sync of everything knows how many events there are: ids have no holes.
func TestSyncProgressOfAll(t *testing.T) {
	f := newFixture(t)
	f.put("alice/x", 40)
	f.put("bob/x", 60)
	cfg := hasty(f.http.URL)
	cfg.PageLimit = 10
	var got []SyncProgress
	c := newTestClient(t, f.newCache(), progressOf(cfg, &got))
	if _, err := c.Sync(t.Context(), event.All, SyncOptions{}); err != nil {
		t.Fatal(err)
	}
	if len(got) < 2 || got[0].Total != 100 || got[len(got)-1].Done != 100 || got[len(got)-1].Reached != 100 {
		t.Errorf("%v is reported", got)
	}
}

// A verify reports the part of the copy that it has compared, from nothing to all.
func TestVerifyProgress(t *testing.T) {
	f := newFixture(t)
	setComparedBlocks(t, 1)
	for range 3 {
		f.put("alice/x", 3000)
	}
	db := f.newCache()
	var got []SyncProgress
	c := newTestClient(t, db, progressOf(hasty(f.http.URL), &got))
	alice := mustTopic(t, "alice")
	if _, err := c.Sync(t.Context(), alice, SyncOptions{}); err != nil {
		t.Fatal(err)
	}
	got = nil
	v, err := c.Verify(t.Context(), alice, false)
	if err != nil || len(v.Found) > 0 || v.Windows != 3 || v.Events != 9000 {
		t.Fatalf("%+v, %v", v, err)
	}
	checkSyncProgress(t, got, 0, 9000, 9000)
	if len(got) != 4 || got[1].Done != 4096 || got[1].Reached != 4096 || got[3].Reached != 9000 {
		t.Errorf("%v is reported", got)
	}
}

// setComparedBlocks changes how often Verify reports.
func setComparedBlocks(t *testing.T, n uint64) {
	was := comparedBlocks
	comparedBlocks = n
	t.Cleanup(func() { comparedBlocks = was })
}
