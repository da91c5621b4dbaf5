package cache

import (
	"context"
	"crypto/sha256"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/window"
)

// Each golden file has a text with its contents, written by the version that wrote the file,
// or by the last one that kept events as rows: lines, states, digests, windows, cursors and
// everything else in a file.
func TestGoldenText(t *testing.T) {
	alone(t)
	paths, err := filepath.Glob(filepath.Join(goldenDir, "*.db"))
	if err != nil || len(paths) < 14 {
		t.Fatalf("%d files, %v", len(paths), err)
	}
	for _, path := range paths {
		t.Run(filepath.Base(path), func(t *testing.T) { checkGoldenText(t, filepath.Base(path)) })
	}
}

func checkGoldenText(t *testing.T, name string) {
	text := strings.TrimSuffix(filepath.Join(goldenDir, name), ".db") + ".txt"
	role := Client
	if strings.Contains(name, "server") {
		role = Server
	}
	db := mustOpen(t, upgradedGolden(t, name), Config{Role: role, Log: testLog, Now: newClock().now})
	defer db.Close()
	got := describe(t, db)
	if *update {
		if err := os.WriteFile(text, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(text)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("%s says\n%s\nwant\n%s", name, got, want)
	}
	integrity(t, db)
}

// describe returns the contents of a golden file as text.
func describe(t *testing.T, db *DB) string {
	d := describer{t: t, db: db}
	d.file()
	for _, topic := range topics(t, "*", "alice", "alice/posts/1$", "alice/posts/2", "bob", "carol", "dave", "erin") {
		held := mustHeld(t, db, topic)
		d.say("%s held %v", topic, held)
		for _, span := range held {
			d.topic(topic, span)
		}
	}
	d.marks()
	d.aside()
	return d.text.String()
}

type describer struct {
	t    *testing.T
	db   *DB
	text strings.Builder
}

func (d *describer) say(format string, args ...any) { fmt.Fprintf(&d.text, format+"\n", args...) }

// must is for calls of a value and an error.
func must[T any](v T, err error) func(t *testing.T) T {
	return func(t *testing.T) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func (d *describer) file() {
	ctx := context.Background()
	d.say("log %s %s", d.db.Log(), d.db.Role())
	d.say("head %v", d.db.HeadPoint())
	n := must(d.db.Count(ctx))(d.t)
	d.say("events %d, storages %d", n.Events, n.Storages)
	d.say("tally %+v", must(d.db.Tally(ctx))(d.t))
	d.say("windows %s", list(d.t, d.db))
}

// topic describes a topic in a span that is held: lines, digest and states.
func (d *describer) topic(topic event.Topic, span window.Span) {
	ctx := context.Background()
	evs := readAll(d.t, d.db, []event.Topic{topic}, span, 1000)
	var lines []string
	for i := range evs {
		lines = append(lines, string(evs[i].Line()))
	}
	d.lines(fmt.Sprint("  lines ", span), lines)
	leaves := must(d.db.Leaves(ctx, topic, span))(d.t)
	for _, l := range leaves {
		d.say("  leaf %d %d %x", l.Block, l.Count, l.Sum)
	}
	digest, count := window.DigestOf(leaves)
	d.say("  digest %s %s %d", span, digest, count)
	for _, at := range []event.ID{span.From, (span.From + span.To) / 2, span.To, event.BlockSize} {
		if d.db.Role() == Client || span.From <= at && at <= span.To {
			d.state(topic, at)
		}
	}
}

func (d *describer) state(topic event.Topic, at event.ID) {
	var state []string
	err := d.db.State(context.Background(), topic, at, func(ev *event.Event) error {
		state = append(state, string(ev.Line()))
		return nil
	})
	if err != nil {
		d.say("  state at %d: %v", at, err)
		return
	}
	d.lines(fmt.Sprint("  state at ", int64(at)), state)
}

func (d *describer) lines(what string, lines []string) {
	d.say("%s: %d, %x", what, len(lines), sha256.Sum256([]byte(strings.Join(lines, "\n"))))
}

// marks describes positions.
func (d *describer) marks() {
	ctx := context.Background()
	for _, at := range []event.ID{0, 1, 5, 13, 33, event.BlockSize, 4120, 9000, 11_000} {
		p, err := d.db.LastStored(ctx, at)
		d.say("last stored at %d: %v %v", at, p, err)
		tm, ok, err := d.db.TimeAt(ctx, at)
		d.say("time at %d: %v %v %v", at, tm, ok, err)
		at, err := d.db.PositionAt(ctx, event.TimeOf(newClock().at)+event.Time(at))
		d.say("position then: %v %v", at, err)
	}
}

// aside describes the contents that are not events of the log.
func (d *describer) aside() {
	ctx := context.Background()
	for _, c := range must(d.db.Cursors(ctx))(d.t) {
		d.say("cursor %s %v at %s", c.Name, c.Topics, c.Position)
	}
	d.say("followed %v", must(d.db.Followed(ctx))(d.t))
	d.say("sources %v", must(d.db.Sources(ctx))(d.t))
	d.say("doubts %v", must(d.db.Doubts(ctx))(d.t))
	if d.db.Role() == Client {
		d.say("outbox %s", outboxText(d.t, d.db, 2))
		evs := candidates(d.t, d.db, event.All, window.Span{To: event.MaxID})
		for i := range evs {
			d.say("candidate %s", evs[i].Line())
		}
		d.say("foreign %v", foreignHashes(d.t, d.db, event.All))
	}
}
