package source

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/rstream-dev/rstream/cache"
	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/internal/server"
)

// An upstream is an rstream server at one address, whose log can be replaced.
type upstream struct {
	url     string
	handler atomic.Pointer[http.Handler]
	stop    func()
}

func newUpstream(t testing.TB, db *cache.DB) *upstream {
	t.Helper()
	u := &upstream{stop: func() {}}
	u.serve(db)
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { (*u.handler.Load()).ServeHTTP(w, r) }))
	t.Cleanup(func() {
		u.stop()
		srv.Close()
	})
	u.url = srv.URL
	return u
}

// serve serves a log from now on, in place of another one.
func (u *upstream) serve(db *cache.DB) {
	u.stop()
	s := server.New(db, server.Config{Retry: time.Millisecond})
	var h http.Handler = s
	u.handler.Store(&h)
	u.stop = s.Stop
}

// put appends to a log: each text is "USER/PATH KEY", with KEY as the value, or a DEL if it
// begins with a minus.
func put(t testing.TB, db *cache.DB, texts ...string) []event.Receipt {
	t.Helper()
	var drafts []event.Draft
	for _, text := range texts {
		text, isDel := strings.CutPrefix(text, "-")
		name, key, _ := strings.Cut(text, " ")
		user, path, _ := strings.Cut(name, "/")
		d := event.Draft{User: user, Path: path, Type: event.Put, Key: key, Value: fmt.Appendf(nil, "%q", key)}
		if isDel {
			d.Type, d.Value = event.Del, nil
		}
		drafts = append(drafts, d)
	}
	receipts, err := db.Append(t.Context(), drafts)
	if err != nil {
		t.Fatal(err)
	}
	return receipts
}

// pull follows an rstream server to its end, as the source lab.
func pull(t testing.TB, address string, log *cache.DB) error {
	t.Helper()
	return pullAs(t, "lab", address, log)
}

func pullAs(t testing.TB, name, address string, log *cache.DB) error {
	t.Helper()
	_, err := Follow(t.Context(), upstreamConfig(t, name, address, log))
	return err
}

func upstreamConfig(t testing.TB, name, address string, log *cache.DB) FollowConfig {
	t.Helper()
	cfg := followConfig(t, address, "rstream", log)
	cfg.Knobs.End = Place{}
	cfg.Name, cfg.Wait = name, false
	return cfg
}

// hashesOf returns the hashes of the events of a log in its order, without those of users
// that begin with a dot.
func hashesOf(t testing.TB, db *cache.DB) (hashes []event.Hash) {
	t.Helper()
	for _, ev := range allEvents(t, db) {
		if !isUpstreamsOwn(&ev) {
			hashes = append(hashes, ev.Hash)
		}
	}
	return hashes
}

func allEvents(t testing.TB, db *cache.DB) []event.Event {
	t.Helper()
	horizon, err := db.Horizon(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	var all []event.Event
	for at, head := horizon, db.Head(); at < head; {
		evs, next, err := db.Read(context.Background(), []event.Topic{event.All}, at, head, 1000)
		if err != nil {
			t.Fatal(err)
		}
		all, at = append(all, evs...), next
	}
	return all
}

// stateOf returns the state of a log as "USER/PATH VALUE", without that of users that begin
// with a dot.
func stateOf(t testing.TB, db *cache.DB) (state []string) {
	t.Helper()
	err := db.StateAfter(context.Background(), event.All, db.Head(), event.Storage{}, func(ev *event.Event) error {
		if !isUpstreamsOwn(ev) {
			state = append(state, ev.Storage().String()+" "+string(ev.Value))
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return state
}

// gapsOf returns the reasons of the gaps of a source.
func gapsOf(t testing.TB, db *cache.DB, name string) (gaps []string) {
	t.Helper()
	for _, ev := range allEvents(t, db) {
		if ev.User == Gaps && ev.Path == name {
			gaps = append(gaps, jsonMember(ev.Value, "gap"))
		}
	}
	return gaps
}

func checkState(t *testing.T, what string, got, want *cache.DB) {
	t.Helper()
	if g, w := stateOf(t, got), stateOf(t, want); !slices.Equal(g, w) {
		t.Errorf("%s: the state is not the server's: %d values, want %d: %s", what, len(g), len(w), firstDifference(g, w))
	}
}

// Two servers with the same users become one log with both histories: hashes as the authors
// made them, and each event's origin.
func TestUpstreams(t *testing.T) {
	lab, home, relay := newLog(t), newLog(t), newLog(t)
	put(t, lab, "alice/x 1", "alice/x 2", "-alice/x 3", ".hidden/x 1", "bob/y 1")
	put(t, home, "alice/x 1", "alice/x other", "carol/z 1") // the first is one that lab has, too
	labServer, homeServer := newUpstream(t, lab), newUpstream(t, home)
	for range 2 { // the second time there is nothing new
		if err := errors.Join(pull(t, labServer.url, relay), pullAs(t, "home", homeServer.url+"/events?topic=alice&topic=carol/z", relay)); err != nil {
			t.Fatal(err)
		}
	}
	want := append(hashesOf(t, lab), hashesOf(t, home)[1:]...)
	if got := hashesOf(t, relay); !slices.Equal(got, want) {
		t.Errorf("%d events, want %d", len(got), len(want))
	}
	origins, err := relay.Origins(t.Context(), []event.ID{1, 2, 3, 4, 5, 6})
	if err != nil {
		t.Fatal(err)
	}
	for i, want := range []event.Origin{
		{Source: "lab", Log: lab.Log(), ID: event.ID(1).String()}, {Source: "lab", Log: lab.Log(), ID: event.ID(2).String()},
		{Source: "lab", Log: lab.Log(), ID: event.ID(3).String()}, {Source: "lab", Log: lab.Log(), ID: event.ID(5).String()},
		{Source: "home", Log: home.Log(), ID: event.ID(2).String()}, {Source: "home", Log: home.Log(), ID: event.ID(3).String()},
	} {
		if origins[i] != want {
			t.Errorf("event %d is from %v, want %v", i+1, origins[i], want)
		}
	}
	if err := pull(t, labServer.url+"/events?topic=alice", relay); !errors.Is(err, ErrMapping) {
		t.Errorf("with other topics: %v", err)
	}
	if gaps := append(gapsOf(t, relay, "lab"), gapsOf(t, relay, "home")...); len(gaps) > 0 {
		t.Errorf("gaps %q", gaps)
	}
}

// Relays in a circle take each event once.
func TestUpstreamCircle(t *testing.T) {
	logs := []*cache.DB{newLog(t), newLog(t), newLog(t)}
	var servers []*upstream
	for i, log := range logs {
		put(t, log, fmt.Sprintf("u%d/x 1", i), "all/x same")
		servers = append(servers, newUpstream(t, log))
	}
	heads := func() (ids []event.ID) {
		for _, log := range logs {
			ids = append(ids, log.Head())
		}
		return ids
	}
	var before []event.ID
	for round := 0; round < 10 && !slices.Equal(heads(), before); round++ {
		before = heads()
		for i, log := range logs {
			if err := pull(t, servers[(i+1)%len(servers)].url, log); err != nil {
				t.Fatal(err)
			}
		}
	}
	for i, log := range logs {
		if log.Head() != 4 || len(stateOf(t, log)) != 4 {
			t.Errorf("log %d has %d events", i, log.Head())
		}
	}
	if err := pullAs(t, "self", servers[0].url, logs[0]); err == nil || !strings.Contains(err.Error(), "itself") {
		t.Errorf("a log that follows itself: %v", err)
	}
}

// Torn at any byte, each event of an rstream server is stored once.
func TestUpstreamTorn(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	lab, relay := newLog(t), newLog(t)
	for i := range 600 {
		put(t, lab, fmt.Sprintf("alice/%d %d", i%7, i))
	}
	u := newUpstream(t, lab)
	var cuts atomic.Int32
	proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		cuts.Add(1)
		(*u.handler.Load()).ServeHTTP(&tornWriter{ResponseWriter: w, left: rng.IntN(40_000)}, r)
	}))
	defer proxy.Close()
	cfg := upstreamConfig(t, "lab", proxy.URL, relay)
	cfg.Wait = true
	if _, err := Follow(t.Context(), cfg); err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(hashesOf(t, relay), hashesOf(t, lab)) || len(gapsOf(t, relay, "lab")) > 0 || cuts.Load() < 3 {
		t.Errorf("%d events of 600 over %d connections, gaps %q", relay.Head(), cuts.Load(), gapsOf(t, relay, "lab"))
	}
}

// A tornWriter ends the connection after some bytes.
type tornWriter struct {
	http.ResponseWriter
	left int
}

func (w *tornWriter) Write(b []byte) (int, error) {
	if w.left -= len(b); w.left < 0 {
		_, _ = w.ResponseWriter.Write(b[:max(0, len(b)+w.left)])
		_ = http.NewResponseController(w.ResponseWriter).Flush()
		panic(http.ErrAbortHandler)
	}
	return w.ResponseWriter.Write(b)
}

func (w *tornWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// dropHistory drops all history of a log that can be dropped.
func dropHistory(t *testing.T, db *cache.DB) {
	t.Helper()
	if err := db.RetainOnce(t.Context(), cache.Retention{MaxBytes: 1}); err != nil {
		t.Fatal(err)
	}
	if at, err := db.Horizon(t.Context()); err != nil || at == event.Beginning {
		t.Fatalf("horizon %s, %v", at, err)
	}
}

// fill appends events until a block is full, so that history before them can be dropped.
func fill(t *testing.T, db *cache.DB, key string) {
	t.Helper()
	texts := make([]string, event.BlockSize)
	for i := range texts {
		texts[i] = fmt.Sprintf("filler/x %s%d", key, i)
	}
	put(t, db, texts...)
}

// A relay that was away for longer than a server keeps its history ends with the server's
// state, and a gap. What others have appended to the relay stays.
func TestUpstreamAway(t *testing.T) {
	lab, relay := newLog(t), newLog(t)
	u := newUpstream(t, lab)
	put(t, lab, "alice/stays 1", "alice/changes 1", "alice/goes 1", "alice/comes-back 1", "bob/goes 1", "bob/local 1", "both/x 1")
	if err := pull(t, u.url, relay); err != nil {
		t.Fatal(err)
	}
	put(t, relay, "local/x 1", "bob/local mine", "both/x 1")
	put(t, lab, "alice/changes 2", "-alice/goes 2", "-alice/comes-back 2", "alice/comes-back 3", "-bob/goes 2", "carol/new 1")
	fill(t, lab, "a")
	dropHistory(t, lab)
	put(t, lab, "alice/later 1")
	if err := pull(t, u.url, relay); err != nil {
		t.Fatal(err)
	}
	want := append(stateOf(t, lab), `local/x "1"`)
	i := slices.Index(want, `bob/local "1"`)
	want[i] = `bob/local "mine"`
	slices.Sort(want)
	if got := stateOf(t, relay); !slices.Equal(got, want) {
		t.Errorf("state %q, want %q", got, want)
	}
	if gaps := gapsOf(t, relay, "lab"); !slices.Equal(gaps, []string{"the server has dropped events"}) {
		t.Errorf("gaps %q", gaps)
	}
	var removed []string
	for _, ev := range allEvents(t, relay) {
		if key, ok := strings.CutPrefix(ev.Key, gapKey); ok && ev.Type == event.Del {
			hash, err := event.ParseHash(key)
			if err != nil {
				t.Errorf("key %s", ev.Key)
			}
			for _, gone := range allEvents(t, relay) {
				if gone.Hash == hash && gone.Storage() == ev.Storage() {
					removed = append(removed, ev.Storage().String())
				}
			}
		}
	}
	if !slices.Equal(removed, []string{"alice/goes", "bob/goes"}) {
		t.Errorf("removed %q", removed)
	}
	head := relay.Head()
	if err := pull(t, u.url, relay); err != nil || relay.Head() != head {
		t.Errorf("again: %d more events, %v", relay.Head()-head, err)
	}
	// A relay that begins now has the state, and no gap: it has missed nothing.
	late := newLog(t)
	if err := pull(t, u.url, late); err != nil || len(gapsOf(t, late, "lab")) > 0 {
		t.Errorf("a late relay: gaps %q, %v", gapsOf(t, late, "lab"), err)
	}
	checkState(t, "a late relay", late, lab)
}

// A server that was restored from a backup is followed from where its log has parted: the
// relay ends with its state, also when authors send again what was lost.
func TestUpstreamRestored(t *testing.T) {
	for _, known := range []bool{true, false} {
		t.Run(fmt.Sprintf("parted known %v", known), func(t *testing.T) {
			path, relay := filepath.Join(t.TempDir(), "lab.db"), newLog(t)
			lab := openLog(t, path)
			put(t, lab, "alice/a 1", "alice/b 1", "alice/c 1", "alice/d 1")
			backup := filepath.Join(t.TempDir(), "backup.db")
			if known {
				if err := lab.BackupTo(t.Context(), backup); err != nil {
					t.Fatal(err)
				}
			} else { // a copy of the file, put in its place while nobody looked
				lab.Close()
				b, err := os.ReadFile(path)
				if err := errors.Join(err, os.WriteFile(backup, b, 0o600)); err != nil {
					t.Fatal(err)
				}
				lab = openLog(t, path)
			}
			restored, err := cache.Open(t.Context(), backup, cache.Config{Role: cache.Server, AsNewLog: !known})
			if err != nil {
				t.Fatal(err)
			}
			defer restored.Close()
			u := newUpstream(t, lab)
			put(t, lab, "alice/a 2", "-alice/b 2", "alice/lost 1", "alice/again 1", "alice/d 2")
			if err := pull(t, u.url, relay); err != nil {
				t.Fatal(err)
			}
			u.serve(restored)
			put(t, restored, "alice/c 2", "alice/again 1", "alice/new 1")
			if err := pull(t, u.url, relay); err != nil {
				t.Fatal(err)
			}
			checkState(t, "after the restore", relay, restored)
			put(t, restored, "alice/lost 1", "-alice/new 2", "alice/d 2", "alice/a 2", "alice/a 3") // sent again, late
			if err := pull(t, u.url, relay); err != nil {
				t.Fatal(err)
			}
			checkState(t, "sent again", relay, restored)
			if gaps := gapsOf(t, relay, "lab"); len(gaps) != 1 || !strings.Contains(gaps[0], "restored") {
				t.Errorf("gaps %q", gaps)
			}
			head := relay.Head()
			if err := pull(t, u.url, relay); err != nil || relay.Head() != head {
				t.Errorf("once more: %d more events, %v", relay.Head()-head, err)
			}
		})
	}
}

// A log that is another one, or that was rolled back, is not followed: nothing is mixed.
func TestUpstreamOther(t *testing.T) {
	path, relay := filepath.Join(t.TempDir(), "lab.db"), newLog(t)
	lab := openLog(t, path)
	put(t, lab, "alice/x 1")
	u := newUpstream(t, lab)
	lab.Close()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	lab = openLog(t, path)
	u.serve(lab)
	put(t, lab, "alice/x 2")
	if err := pull(t, u.url, relay); err != nil {
		t.Fatal(err)
	}
	rolledBack := filepath.Join(t.TempDir(), "old.db")
	if err := os.WriteFile(rolledBack, b, 0o600); err != nil {
		t.Fatal(err)
	}
	old, other := openLog(t, rolledBack), newLog(t)
	put(t, other, "alice/other 1", "alice/other 2", "alice/other 3")
	for _, wrong := range []struct {
		db     *cache.DB
		before func()
		reason string
	}{
		{other, func() {}, "belongs to another log"},
		{old, func() {}, "ahead"},
		{old, func() { put(t, old, "alice/forked 1", "alice/forked 2") }, "another event"},
	} {
		wrong.before()
		u.serve(wrong.db)
		err := pull(t, u.url, relay)
		if err == nil || !strings.Contains(err.Error(), "409") {
			t.Errorf("%s: %v", wrong.reason, err)
		}
		if got := hashesOf(t, relay); len(got) != 2 {
			t.Errorf("%s: %d events", wrong.reason, len(got))
		}
		if status, err := readStatusOf(t, relay, "lab"); err != nil || !strings.Contains(status.Trouble, "409") {
			t.Errorf("%s: status %v, %v", wrong.reason, status, err)
		}
	}
	u.serve(lab)
	put(t, lab, "alice/x 3")
	if err := pull(t, u.url, relay); err != nil || len(hashesOf(t, relay)) != 3 {
		t.Errorf("the right log again: %d events, %v", len(hashesOf(t, relay)), err)
	}
}

func readStatusOf(t *testing.T, db *cache.DB, name string) (Status, error) {
	t.Helper()
	b, _, err := db.Source(t.Context(), name)
	if err != nil {
		t.Fatal(err)
	}
	return ReadStatus(b)
}

// What a server must not send is refused before any of it is stored.
func TestUpstreamLies(t *testing.T) {
	const id = "K7Q2M4X9C0V3B8RT"
	line := func(n event.ID, user, key string) string {
		d := event.Draft{User: user, Path: "x", Type: event.Put, Key: key, Value: []byte("1")}
		ev := event.New(n, 1, d, d.Hash())
		return string(ev.Line())
	}
	block := func(cursor, typ, data string) string {
		return "id: " + cursor + "\nevent: " + typ + "\ndata: " + data + "\n\n"
	}
	at := func(n event.ID) string { return event.CursorOf(n, id).String() }
	good := block(at(2), "PUT", line(2, "alice", "k"))
	for name, lie := range map[string]struct {
		header map[string]string
		body   string
		err    string
		stored int
	}{
		"nothing wrong":    {nil, good + block(at(2), "live", "{}"), "", 1},
		"a hash":           {nil, good + block(at(3), "PUT", strings.Replace(line(3, "alice", "k3"), `"key":"k3"`, `"key":"k4"`, 1)), "sent a bad event", 1},
		"not JSON":         {nil, good + block(at(3), "PUT", "{"), "sent a bad event", 1},
		"an id":            {nil, good + block(at(4), "PUT", line(3, "alice", "k3")), "as PUT", 1},
		"going back":       {nil, good + block(at(1), "PUT", line(1, "alice", "k1")), "after 0000000000002", 1},
		"the type":         {nil, good + block(at(3), "DEL", line(3, "alice", "k3")), "as DEL", 1},
		"a user":           {nil, good + block(at(3), "PUT", line(3, "bob", "k3")), "was not asked for", 1},
		"a bad cursor":     {nil, good + block("x\x01y", "PUT", line(3, "alice", "k3")), "invalid id", 1},
		"another's cursor": {nil, good + block(event.CursorOf(3, "ZZZZZZZZZZZZZZZZ").String(), "PUT", line(3, "alice", "k3")), "not of its log", 1},
		"a long value":     {nil, good + block(at(3), "PUT", longLiarLine(3)), "is longer than 1048576 bytes", 1},
		"no cursor":        {nil, "event: PUT\ndata: " + line(3, "alice", "k3") + "\n\n", "invalid id", 0},
		"the beginning":    {map[string]string{"Rstream-From": at(7)}, good, "begins at", 0},
		"no beginning":     {map[string]string{"Rstream-From": ""}, good, "begins at", 0},
		"no log":           {map[string]string{"Rstream-Log": ""}, good, "names no log", 0},
		"a bad log":        {map[string]string{"Rstream-Log": "no\tlog"}, good, "is no id of a log", 0},
		"compressed":       {map[string]string{"Content-Encoding": "gzip"}, good, "compressed", 0},
		"a page":           {map[string]string{"Content-Type": "text/html"}, good, "not an rstream server", 0},
		"endless":          {nil, good + "data: " + strings.Repeat("x", 5<<20), "larger than", 1},
	} {
		address := serveFunc(t, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Rstream-Log", id)
			w.Header().Set("Rstream-From", at(0))
			for name, value := range lie.header {
				w.Header().Set(name, value)
			}
			_, _ = w.Write([]byte(lie.body))
		})
		relay := newLog(t)
		err := pull(t, address+"/events?topic=alice", relay)
		if (err == nil) != (lie.err == "") || err != nil && !strings.Contains(err.Error(), lie.err) {
			t.Errorf("%s: %v, want %q", name, err, lie.err)
		}
		if got := len(hashesOf(t, relay)); got != lie.stored {
			t.Errorf("%s: %d events were stored, want %d", name, got, lie.stored)
		}
	}
}
