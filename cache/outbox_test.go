package cache

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/rstream-dev/rstream/event"
)

// outboxText describes the outbox: places, storages, keys, and the reasons of refusals.
func outboxText(t fataler, db *DB, limit int) string {
	t.Helper()
	var list []string
	for after := int64(0); ; {
		some, err := db.Outbox().List(context.Background(), after, limit)
		if err != nil {
			t.Fatalf("%v", err)
		}
		if len(some) == 0 {
			return strings.Join(list, ", ")
		}
		for i := range some {
			q := &some[i]
			text := fmt.Sprintf("%d %s/%s %s", q.Number, q.User, q.Path, q.Key)
			if q.Refused != "" {
				text += ": " + q.Refused
			}
			list, after = append(list, text), q.Number
		}
	}
}

func checkOutbox(t fataler, db *DB, want string) {
	t.Helper()
	if got := outboxText(t, db, 2); got != want {
		t.Fatalf("the outbox is %s, want %s", got, want)
	}
}

// An outboxModel is two processes on one file and the expected entries.
type outboxModel struct {
	dbs  [2]*DB
	last int64
	want []Queued
}

func TestOutboxAgainstList(t *testing.T) {
	alone(t)
	dir := t.TempDir()
	n := 0
	rapid.Check(t, func(t *rapid.T) {
		n++
		var m outboxModel
		for i := range m.dbs {
			m.dbs[i] = mustOpen(t, filepath.Join(dir, fmt.Sprint(n)), Config{Role: Client, Log: testLog})
			defer m.dbs[i].Close()
		}
		t.Repeat(map[string]func(*rapid.T){"": m.check, "queue": m.queue, "queue2": m.queue, "acknowledge": m.acknowledge, "refuse": m.refuse})
	})
}

func (m *outboxModel) db(t *rapid.T) *DB { return m.dbs[rapid.IntRange(0, 1).Draw(t, "process")] }

func (m *outboxModel) queue(t *rapid.T) {
	var ds []event.Draft
	for range rapid.IntRange(0, 3).Draw(t, "drafts") {
		d := draft("alice", rapid.SampledFrom(modelPaths).Draw(t, "path"), fmt.Sprint("k", rapid.IntRange(0, 9).Draw(t, "key")))
		ds = append(ds, d)
		i := slices.IndexFunc(m.want, func(q Queued) bool { return q.Hash == d.Hash() })
		if i >= 0 {
			m.want[i].Refused = ""
			continue
		}
		m.want = append(m.want, Queued{Hash: d.Hash(), Draft: d})
	}
	got, err := m.db(t).Outbox().Queue(context.Background(), ds)
	if err != nil || len(got) != len(ds) {
		t.Fatalf("Queue of %d = %v, %v", len(ds), got, err)
	}
	for i := range got {
		j := slices.IndexFunc(m.want, func(q Queued) bool { return q.Hash == ds[i].Hash() })
		switch q := &m.want[j]; {
		case q.Number == 0 && got[i].Number <= m.last, q.Number != 0 && got[i].Number != q.Number:
			t.Fatalf("%s got place %d, had %d, the last one was %d", ds[i].Key, got[i].Number, q.Number, m.last)
		default:
			q.Number, m.last = got[i].Number, max(m.last, got[i].Number)
		}
	}
}

func (m *outboxModel) some(t *rapid.T) (numbers []int64) {
	for i := range m.want {
		if rapid.Bool().Draw(t, "this") {
			numbers = append(numbers, m.want[i].Number)
		}
	}
	return numbers
}

func (m *outboxModel) acknowledge(t *rapid.T) {
	numbers := m.some(t)
	if err := m.db(t).Outbox().Acknowledge(context.Background(), append(numbers, m.last+1)); err != nil {
		t.Fatalf("%v", err)
	}
	m.want = slices.DeleteFunc(m.want, func(q Queued) bool { return slices.Contains(numbers, q.Number) })
}

func (m *outboxModel) refuse(t *rapid.T) {
	for _, number := range m.some(t) {
		if err := m.db(t).Outbox().Refuse(context.Background(), []int64{number}, "bad"); err != nil {
			t.Fatalf("%v", err)
		}
		m.want[slices.IndexFunc(m.want, func(q Queued) bool { return q.Number == number })].Refused = "bad"
	}
}

func (m *outboxModel) check(t *rapid.T) {
	var list []string
	waiting := int64(0)
	for _, q := range m.want {
		text := fmt.Sprintf("%d %s/%s %s", q.Number, q.User, q.Path, q.Key)
		if q.Refused != "" {
			text += ": " + q.Refused
		} else {
			waiting++
		}
		list = append(list, text)
	}
	checkOutbox(t, m.db(t), strings.Join(list, ", "))
	n, err := m.db(t).Aside(context.Background())
	if err != nil || n.Queued != waiting || n.Refused != int64(len(m.want))-waiting {
		t.Fatalf("Aside = %+v, %v", n, err)
	}
}

// Entries of the outbox are not held events, and a log has no outbox.
func TestOutboxStays(t *testing.T) {
	db := openClient(t)
	ctx := context.Background()
	store(t, db, "alice", madeEvent("alice", "x", 2))
	if _, err := db.Outbox().Queue(ctx, drafts("alice", "x", "k", 2)); err != nil {
		t.Fatal(err)
	}
	if _, err := db.Outbox().Queue(ctx, []event.Draft{draft("alice", "y", "k"), {User: "alice"}}); err == nil {
		t.Error("a bad draft was queued")
	}
	if _, err := db.Forget(ctx, event.All, event.MaxID); err != nil {
		t.Fatal(err)
	}
	checkOutbox(t, db, "1 alice/x k-0, 2 alice/x k-1")
	_, err := openServer(t).Outbox().Queue(ctx, drafts("alice", "x", "k", 1))
	wantError(t, "a server's outbox", err, ErrRole)
}
