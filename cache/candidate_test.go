package cache

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/window"
)

// setImportChunk sets how much of the imported events is read and written at a time.
func setImportChunk(t testing.TB, n int) {
	t.Helper()
	was := importChunk
	t.Cleanup(func() { importChunk = was })
	importChunk = n
}

// forged returns an event with ev's id that the log does not have.
func forged(ev event.Event) event.Event {
	d := ev.Draft
	d.Key += " forged"
	return event.New(ev.ID, ev.Time, d, d.Hash())
}

func candidates(t fataler, db *DB, topic event.Topic, span window.Span) (evs []event.Event) {
	t.Helper()
	err := db.Imports().Candidates(context.Background(), topic, span, func(ev *event.Event) error {
		// This would block forever if a transaction were open.
		if err := db.CountSaved(context.Background(), 0); err != nil {
			return err
		}
		evs = append(evs, *ev)
		return nil
	})
	if err != nil {
		t.Fatalf("Candidates(%s, %s): %v", topic, span, err)
	}
	return evs
}

func foreignHashes(t fataler, db *DB, topic event.Topic) (hashes []event.Hash) {
	t.Helper()
	err := db.Imports().ForeignHashes(context.Background(), topic, func(h event.Hash) error {
		hashes = append(hashes, h)
		return db.CountSaved(context.Background(), 0)
	})
	if err != nil {
		t.Fatalf("ForeignHashes(%s): %v", topic, err)
	}
	return hashes
}

// An importModel models the imported events of a copy with two maps.
type importModel struct {
	t          *rapid.T
	db         *DB
	held       map[event.ID]bool
	candidates map[event.ID]event.Event
	foreign    map[event.Hash]event.Event
}

func TestImportsAgainstMaps(t *testing.T) {
	dir := t.TempDir()
	setImportChunk(t, 3)
	n := 0
	rapid.Check(t, func(t *rapid.T) {
		n++
		m := importModel{t, mustOpen(t, filepath.Join(dir, fmt.Sprint(n)), Config{Role: Client, Log: testLog}),
			map[event.ID]bool{}, map[event.ID]event.Event{}, map[event.Hash]event.Event{}}
		defer m.db.Close()
		t.Repeat(map[string]func(*rapid.T){
			"":        m.check,
			"import":  m.add,
			"import2": m.add,
			"foreign": m.addForeign,
			"hold":    m.hold,
			"drop":    m.drop,
			"adopt":   m.adopt,
			"adopt2":  m.adopt,
			"forget":  m.forget,
		})
	})
}

func someEvents(t *rapid.T) []event.Event {
	return rapid.SliceOfNDistinct(rapid.SampledFrom(clientLog), 0, 8, func(ev event.Event) event.ID { return ev.ID }).Draw(t, "events")
}

func (m *importModel) add(t *rapid.T) {
	evs, want, bad := someEvents(t), 0, false
	after := maps.Clone(m.candidates)
	for i := range evs {
		if rapid.IntRange(0, 4).Draw(t, "forge") == 0 {
			evs[i] = forged(evs[i])
			bad = bad || m.held[evs[i].ID]
		}
		if ev := evs[i]; !m.held[ev.ID] {
			if was, ok := after[ev.ID]; !ok || was.Hash != ev.Hash {
				want++
			}
			after[ev.ID] = ev
		}
	}
	checked := m.db.Imports().CheckCandidates(context.Background(), evs)
	added, err := m.db.Imports().AddCandidates(context.Background(), evs)
	if (err != nil) != bad || (checked != nil) != bad {
		t.Fatalf("AddCandidates: %v, CheckCandidates: %v; an event differs from a held one: %v", err, checked, bad)
	}
	if bad {
		return
	}
	if m.candidates = after; added != want {
		t.Fatalf("AddCandidates = %d, want %d", added, want)
	}
}

func (m *importModel) addForeign(t *rapid.T) {
	evs, want := someEvents(t), 0
	for _, ev := range evs {
		if _, ok := m.foreign[ev.Hash]; !ok {
			want++
		}
		m.foreign[ev.Hash] = ev
	}
	if added, err := m.db.Imports().AddForeign(context.Background(), evs); added != want || err != nil {
		t.Fatalf("AddForeign = %d, %v, want %d", added, err, want)
	}
}

// hold pulls the missing part of a span.
func (m *importModel) hold(t *rapid.T) {
	topic := topics(t, rapid.SampledFrom([]string{"alice", "alice2", "bob", "alice/posts", "bob/p*"}).Draw(t, "topic"))[0]
	l, busy, err := m.db.Leases().Claim(context.Background(), []event.Topic{topic}, window.Span{From: anyPosition(t, "from"), To: anyPosition(t, "to")})
	if l == nil || busy || err != nil {
		return
	}
	var evs []event.Event
	for _, ev := range clientLog {
		if l.Span().Contains(spanOf(ev.ID)) && topic.Matches(ev.User, ev.Path) {
			evs = append(evs, ev)
			if !m.held[ev.ID] { // one that comes again changes nothing
				delete(m.candidates, ev.ID)
				delete(m.foreign, ev.Hash)
			}
			m.held[ev.ID] = true
		}
	}
	if _, err := l.Apply(context.Background(), evs, l.Span().To); err != nil {
		t.Fatalf("%v", err)
	}
	if err := l.Commit(context.Background()); err != nil {
		t.Fatalf("%v", err)
	}
}

// adopt turns candidates into events if the log has no others in their span.
func (m *importModel) adopt(t *rapid.T) {
	ctx := context.Background()
	topic := topics(t, rapid.SampledFrom([]string{"alice", "alice2", "bob", "alice/posts", "bob/p*"}).Draw(t, "topic"))[0]
	span := window.Span{From: anyPosition(t, "from"), To: anyPosition(t, "to")}
	var log, here window.Leafer
	blocks := map[uint64]bool{}
	for _, ev := range clientLog {
		if !span.Contains(spanOf(ev.ID)) || !topic.Matches(ev.User, ev.Path) {
			continue
		}
		log.Add(ev.ID, ev.Time, ev.Hash)
		if c, ok := m.candidates[ev.ID]; ok {
			here.Add(c.ID, c.Time, c.Hash)
			blocks[c.ID.Block()] = true
		} else if m.held[ev.ID] {
			here.Add(ev.ID, ev.Time, ev.Hash)
		}
	}
	leaves, err := m.db.Imports().ImportedLeaves(ctx, topic, span)
	if want := here.Leaves(); err != nil || !slices.Equal(leaves, want) {
		t.Fatalf("ImportedLeaves(%s, %s) = %v, %v, want %v", topic, span, leaves, err, want)
	}
	if !slices.Equal(leaves, log.Leaves()) {
		for i := range leaves {
			leaves[i].Sum[0]++ // as if they had changed
		}
		err := m.db.Imports().PromoteCandidates(ctx, topic, span, leaves, nil)
		if len(blocks) > 0 {
			wantError(t, "candidates that are not the log's", err, ErrLost)
		}
		return
	}
	var adopted []event.ID
	err = m.db.Imports().PromoteCandidates(ctx, topic, span, leaves, func(evs []event.Event) error {
		adopted = append(adopted, ids(evs)...)
		return m.db.CountSaved(ctx, 0)
	})
	if err != nil {
		t.Fatalf("PromoteCandidates(%s, %s): %v", topic, span, err)
	}
	var want []event.ID
	for _, ev := range clientLog {
		if _, ok := m.candidates[ev.ID]; ok && span.Contains(spanOf(ev.ID)) && topic.Matches(ev.User, ev.Path) {
			want = append(want, ev.ID)
			m.held[ev.ID] = true
			delete(m.candidates, ev.ID)
			delete(m.foreign, ev.Hash)
		}
	}
	if !slices.Equal(adopted, want) {
		t.Fatalf("adopted were %v, want %v", adopted, want)
	}
	held := mustHeld(t, m.db, topic)
	for b := range blocks {
		part := window.BlockSpan(b).Intersect(span)
		if !held.Contains(part) {
			t.Fatalf("%s of %s is not held: %v", part, topic, held)
		}
		var want []event.ID
		for _, ev := range clientLog {
			if part.Contains(spanOf(ev.ID)) && topic.Matches(ev.User, ev.Path) {
				want = append(want, ev.ID)
			}
		}
		checkIDs(t, topic.String(), readAll(t, m.db, []event.Topic{topic}, part, 3), want)
	}
}

func (m *importModel) drop(t *rapid.T) {
	var some []event.ID
	for _, ev := range someEvents(t) {
		some = append(some, ev.ID)
		delete(m.candidates, ev.ID)
	}
	if err := m.db.Imports().DropCandidates(context.Background(), some); err != nil {
		t.Fatalf("%v", err)
	}
}

// forget forgets everything of a user.
func (m *importModel) forget(t *rapid.T) {
	user := rapid.SampledFrom(modelUsers).Draw(t, "user")
	if _, err := m.db.Forget(context.Background(), topics(t, user)[0], event.MaxID); err != nil {
		t.Fatalf("%v", err)
	}
	for _, ev := range clientLog {
		if ev.User == user {
			delete(m.held, ev.ID)
			delete(m.candidates, ev.ID)
			delete(m.foreign, ev.Hash)
		}
	}
}

func (m *importModel) check(t *rapid.T) {
	topic := topics(t, rapid.SampledFrom(clientTopics).Draw(t, "topic"))[0]
	span := window.Span{From: anyPosition(t, "from"), To: anyPosition(t, "to")}
	var want []event.Event
	var hashes []event.Hash
	for _, ev := range clientLog {
		if c, ok := m.candidates[ev.ID]; ok && span.Contains(spanOf(ev.ID)) && topic.Matches(ev.User, ev.Path) {
			want = append(want, c)
		}
		if _, ok := m.foreign[ev.Hash]; ok && topic.Matches(ev.User, ev.Path) {
			hashes = append(hashes, ev.Hash)
		}
	}
	m.checkForeign(t)
	got := candidates(t, m.db, topic, span)
	checkIDs(t, "candidates of "+topic.String(), got, ids(want))
	for i := range got {
		if got[i].Hash != want[i].Hash {
			t.Fatalf("candidate %s is not the one that came last", got[i].ID)
		}
	}
	slices.SortFunc(hashes, event.Hash.Compare)
	if got := foreignHashes(t, m.db, topic); !slices.Equal(got, hashes) {
		t.Fatalf("foreign hashes of %s are %v, want %v", topic, got, hashes)
	}
	if n, err := m.db.Count(context.Background()); err != nil || n.Events != int64(len(m.held)) {
		t.Fatalf("%d events are stored, %v, want %d", n.Events, err, len(m.held))
	}
}

// checkForeign looks up every hash that ever existed, in any order.
func (m *importModel) checkForeign(t *rapid.T) {
	var hashes []event.Hash
	var want, got []string
	for _, ev := range rapid.Permutation(clientLog).Draw(t, "asked") {
		hashes = append(hashes, ev.Hash)
		if _, ok := m.foreign[ev.Hash]; ok {
			want = append(want, string(ev.Line()))
		}
	}
	err := m.db.Imports().Foreign(context.Background(), hashes, func(ev *event.Event) error {
		got = append(got, string(ev.Line()))
		return nil
	})
	if err != nil || !slices.Equal(got, want) {
		t.Fatalf("Foreign = %q, %v, want %q", got, err, want)
	}
}

// Candidates that a proven window does not hold are refused, and those that waited in a
// window are removed when it is proven.
func TestCandidatesBesideProof(t *testing.T) {
	db := openClient(t)
	ctx := context.Background()
	alice := topics(t, "alice")[0]
	if _, err := db.Imports().AddCandidates(ctx, []event.Event{madeEvent("alice", "x", 3), madeEvent("alice", "x", 9), madeEvent("bob", "x", 4)}); err != nil {
		t.Fatal(err)
	}
	store(t, db, "alice", madeEvent("alice", "x", 2), madeEvent("alice", "x", 5))
	removals, err := db.Removals(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if err := db.Prove(ctx, alice, window.Span{To: 5}, removals, 0); err != nil {
		t.Fatal(err)
	}
	checkIDs(t, "candidates", candidates(t, db, event.All, window.Span{To: event.MaxID}), []event.ID{4, 9})
	_, err = db.Imports().AddCandidates(ctx, []event.Event{madeEvent("alice", "x", 6), madeEvent("alice", "y", 3)})
	wantError(t, "an event that a proven window is without", err, ErrNotInLog)
	more := event.Event{ID: 7, Time: 7, Draft: draft("alice", "y", "k"), Extra: []byte(`"snapshot":true`)}
	_, err = db.Imports().AddCandidates(ctx, []event.Event{madeEvent("alice", "y", 8), more})
	wantError(t, "an event with a member more", err, ErrUnproven)
	_, err = openServer(t).Imports().AddCandidates(ctx, nil)
	wantError(t, "an import into the log itself", err, ErrRole)
	checkIDs(t, "candidates", candidates(t, db, event.All, window.Span{To: event.MaxID}), []event.ID{4, 9})
}

// Large events of other logs are read a few at a time, so those that follow are not read
// yet.
func TestLargeForeign(t *testing.T) {
	db := openClient(t)
	value := []byte(`"` + strings.Repeat("x", maxReadBytes/2) + `"`)
	var evs []event.Event
	var hashes []event.Hash
	for i := range 4 {
		d := event.Draft{User: "erin", Path: "x", Type: event.Put, Key: fmt.Sprint(i), Value: value}
		evs = append(evs, event.New(event.ID(i+1), 1, d, d.Hash()))
		hashes = append(hashes, d.Hash())
	}
	if _, err := db.Imports().AddForeign(t.Context(), evs); err != nil {
		t.Fatal(err)
	}
	shown := 0
	show := func(ev *event.Event) error {
		if ev.Hash != hashes[shown] {
			t.Errorf("event %d has another hash", shown)
		}
		shown++
		return nil
	}
	if err := db.Imports().Foreign(t.Context(), hashes, show); err != nil || shown != 4 {
		t.Fatalf("%d events, %v", shown, err)
	}
	if err := rawExec(db, `UPDATE foreign_event SET line = 'damaged' WHERE hash = ?`, hashes[3][:]); err != nil {
		t.Fatal(err)
	}
	shown = 0
	if err := db.Imports().Foreign(t.Context(), hashes, show); !errors.Is(err, ErrCorrupt) || shown != 2 {
		t.Errorf("%d events are shown before %v, want 2", shown, err)
	}
}

// The fates of a block of large candidates are returned a few at a time, without those
// forgotten in the meantime.
func TestLargeCandidates(t *testing.T) {
	value := []byte(`"` + strings.Repeat("x", maxReadBytes/2) + `"`)
	var evs []event.Event
	for i := range 6 {
		d := event.Draft{User: "erin", Path: "x", Type: event.Put, Key: fmt.Sprint(i), Value: value}
		evs = append(evs, event.New(event.ID(i+1), 1, d, d.Hash()))
	}
	span, ctx := window.Span{To: 6}, t.Context()
	for _, forget := range []bool{false, true} {
		db := openClient(t)
		if _, err := db.Imports().AddCandidates(ctx, evs); err != nil {
			t.Fatal(err)
		}
		leaves, err := db.Imports().ImportedLeaves(ctx, event.All, span)
		if err != nil {
			t.Fatal(err)
		}
		var shown []event.ID
		err = db.Imports().PromoteCandidates(ctx, event.All, span, leaves, func(some []event.Event) error {
			if len(some) > 2 {
				t.Errorf("%d events are shown at a time", len(some))
			}
			shown = append(shown, ids(some)...)
			if !forget {
				return nil
			}
			_, err := db.Forget(ctx, event.All, event.MaxID)
			return err
		})
		want := ids(evs)
		if forget {
			want = want[:2]
		}
		if err != nil || !slices.Equal(shown, want) {
			t.Errorf("forget %v: %v are shown, %v, want %v", forget, shown, err, want)
		}
	}
}
