package source

import (
	"context"
	"database/sql"
	"errors"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/rstream-dev/rstream/cache"
	"github.com/rstream-dev/rstream/event"
)

// An unsteadyLog fails the next look-ups of hashes, as a disk can.
type unsteadyLog struct {
	*cache.DB
	failures int
}

var errDisk = errors.New("disk I/O error")

func (l *unsteadyLog) Taken(ctx context.Context, hashes []event.Hash) (map[event.Hash]event.ID, error) {
	if l.failures--; l.failures >= 0 {
		return nil, errDisk
	}
	return l.DB.Taken(ctx, hashes)
}

// followRestored returns a relay that has followed a server across a restore from a backup, the
// server, and its log.
func followRestored(t *testing.T) (relay *cache.DB, u *upstream, restored *cache.DB) {
	t.Helper()
	relay = newLog(t)
	lab := openLog(t, filepath.Join(t.TempDir(), "lab.db"))
	put(t, lab, "alice/a 1")
	backup := filepath.Join(t.TempDir(), "backup.db")
	if err := lab.BackupTo(t.Context(), backup); err != nil {
		t.Fatal(err)
	}
	restored = openLog(t, backup)
	u = newUpstream(t, lab)
	put(t, lab, "alice/a 2")
	if err := pull(t, u.url, relay); err != nil {
		t.Fatal(err)
	}
	u.serve(restored)
	put(t, restored, "alice/b 1")
	if err := pull(t, u.url, relay); err != nil {
		t.Fatal(err)
	}
	return relay, u, restored
}

// An error of the relay's own file ends the follower, and its cursor does not pass the events that
// were not stored.
func TestReadErrorAfterRestore(t *testing.T) {
	relay, u, restored := followRestored(t)
	gaps := len(gapsOf(t, relay, "lab"))
	put(t, restored, "alice/new 1", "alice/new 2")
	cfg := upstreamConfig(t, "lab", u.url, relay)
	cfg.Log = &unsteadyLog{relay, 1}
	if _, err := Follow(t.Context(), cfg); !errors.Is(err, errDisk) {
		t.Errorf("follow with an error of the disk: %v", err)
	}
	if err := pull(t, u.url, relay); err != nil {
		t.Fatal(err)
	}
	checkState(t, "after an error of the disk", relay, restored)
	if n := len(gapsOf(t, relay, "lab")); n != gaps {
		t.Errorf("%d new gaps", n-gaps)
	}
}

// Nothing is passed either if a row of the relay's own file is damaged for good.
func TestDamagedOriginAfterRestore(t *testing.T) {
	relay, u, restored := followRestored(t)
	file, err := sql.Open("sqlite", relay.Path())
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	flip := func(by int) {
		if _, err := file.Exec(`UPDATE source1_origin SET sum = sum + ? WHERE last = 2`, by); err != nil {
			t.Fatal(err)
		}
	}
	flip(1)
	put(t, restored, "alice/new 1", "alice/a 2") // an author sends again what the restore has lost
	for range 2 {
		if err := pull(t, u.url, relay); !errors.Is(err, cache.ErrCorrupt) {
			t.Errorf("follow with a damaged origin: %v", err)
		}
	}
	flip(-1)
	if err := pull(t, u.url, relay); err != nil {
		t.Fatal(err)
	}
	checkState(t, "once the origin is repaired", relay, restored)
}

// A relay finds where a server's log was rolled back although its own history was dropped since.
func TestRolledBackBelowHorizon(t *testing.T) {
	path, relay := filepath.Join(t.TempDir(), "lab.db"), newLog(t)
	lab := openLog(t, path)
	put(t, lab, "alice/a 1", "alice/b 1")
	if err := lab.Close(); err != nil {
		t.Fatal(err)
	}
	copied := filepath.Join(t.TempDir(), "copied.db")
	b, err := os.ReadFile(path)
	if err := errors.Join(err, os.WriteFile(copied, b, 0o600)); err != nil {
		t.Fatal(err)
	}
	lab = openLog(t, path)
	u := newUpstream(t, lab)
	put(t, lab, "alice/a 2")
	if err := pull(t, u.url, relay); err != nil {
		t.Fatal(err)
	}
	fill(t, relay, "x")
	fill(t, relay, "y")
	dropHistory(t, relay)
	renamed, err := cache.Open(t.Context(), copied, cache.Config{Role: cache.Server, AsNewLog: true})
	if err != nil {
		t.Fatal(err)
	}
	defer renamed.Close()
	u.serve(renamed)
	put(t, renamed, "alice/new 1")
	if err := pull(t, u.url, relay); err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, s := range stateOf(t, relay) {
		if strings.HasPrefix(s, "alice/") {
			got = append(got, s)
		}
	}
	if want := stateOf(t, renamed); len(want) != 3 || !slices.Equal(got, want) {
		t.Errorf("the relay has %q, want %q", got, want)
	}
}

// A relay knows where a value is from also after the history with its event was dropped.
func TestOriginBelowHorizon(t *testing.T) {
	lab, relay := newLog(t), newLog(t)
	put(t, lab, "alice/value 1")
	if err := pull(t, newUpstream(t, lab).url, relay); err != nil {
		t.Fatal(err)
	}
	fill(t, relay, "a")
	fill(t, relay, "b")
	dropHistory(t, relay)
	resp, err := http.Get(newUpstream(t, relay).url + "/origin?id=" + relay.Head().String() + "&id=0000000000001&id=0000000000002&id=1000000000000&id=0000000000000")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	want := `{"origins":[{"id":"0000000000001","source":"lab","log":"` + lab.Log() + `","event":"0000000000001"},{"id":"0000000000002"},{"id":"` + relay.Head().String() + `"}]}`
	if got := strings.TrimSpace(string(b)); err != nil || resp.StatusCode != http.StatusOK || got != want {
		t.Errorf("%s %s, %v, want %s", resp.Status, got, err, want)
	}
}
