package retention

import (
	"context"
	"database/sql"
	"testing"
	"time"

	"github.com/rstream-dev/rstream/cache/internal/dbfile"
	"github.com/rstream-dev/rstream/event"
)

// What was looked through under other rules is not looked through again, as far as a rule
// counted for it.
func TestTTLScansStart(t *testing.T) {
	ctx := context.Background()
	f, err := dbfile.Open(ctx, t.TempDir()+"/log.db", dbfile.Options{Role: dbfile.Server})
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	h := History{file: f}
	for _, step := range []struct {
		rules []string
		at    []event.ID // as they are made, the narrowest first
		moved []event.ID
	}{
		{[]string{"*"}, []event.ID{0}, []event.ID{50}},
		{[]string{"*", "alice"}, []event.ID{50, 50}, []event.ID{70, 60}},
		{[]string{"alice", "*", "alice/posts"}, []event.ID{70, 70, 60}, []event.ID{75, 72, 61}},
		{[]string{"*/posts", "*"}, []event.ID{61, 61}, []event.ID{80, 90}},
		{[]string{"alice/posts"}, []event.ID{80}, []event.ID{85}},
		{[]string{"alice"}, []event.ID{0}, []event.ID{99}},
		{[]string{"alice/x$", "bob"}, []event.ID{99, 0}, nil},
	} {
		var rules []Rule
		for _, name := range step.rules {
			topic, err := event.ParseTopic(name)
			if err != nil {
				t.Fatal(err)
			}
			rules = append(rules, Rule{topic, time.Hour})
		}
		for range 2 {
			scans, err := h.scansOf(ctx, newRules(rules))
			if err != nil || len(scans) != len(step.at) {
				t.Fatalf("%v: %v, %v", step.rules, scans, err)
			}
			for i, s := range scans {
				if s.position != step.at[i] {
					t.Errorf("%v: %s begins at %d, want %d", step.rules, s.topic, s.position, step.at[i])
				}
			}
		}
		err := f.Update(ctx, func(tx *sql.Tx) error {
			scans, err := loadScans(tx)
			for i, at := range step.moved {
				if err == nil {
					_, err = tx.Exec(`UPDATE expired SET position = ? WHERE topic = ?`, at, scans[i].topic.String())
				}
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
}
