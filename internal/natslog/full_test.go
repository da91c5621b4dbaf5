package natslog

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/rstream-dev/rstream/cache"
	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/internal/mirror"
	"github.com/rstream-dev/rstream/internal/wire"
)

// bigDraft returns a draft with a value of n characters that cannot be compressed well.
func bigDraft(t *testing.T, key string, n int) event.Draft {
	t.Helper()
	var text strings.Builder
	for text.Len() < n {
		text.WriteString(rand.Text())
	}
	value, err := json.Marshal(text.String()[:n])
	if err != nil {
		t.Fatal(err)
	}
	d := draft("big", key)
	d.Value = value
	return d
}

// wantFull checks that an append was refused since the stream is full.
func wantFull(t *testing.T, err error, cause string) {
	t.Helper()
	var problem *wire.Error
	if !errors.As(err, &problem) || problem.Status != http.StatusInsufficientStorage || !strings.HasPrefix(problem.Detail, wire.NothingAppended) || !strings.Contains(problem.Detail, cause) {
		t.Errorf("the append got %v, want 507 with %q", err, cause)
	}
}

// newStreams returns access to the streams of a server, as an operator has it.
func newStreams(t *testing.T, url string) jetstream.JetStream {
	t.Helper()
	conn, err := nats.Connect(url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(conn.Close)
	js, err := jetstream.New(conn)
	if err != nil {
		t.Fatal(err)
	}
	return js
}

// changeStream changes the settings of a node's stream, as an operator can.
func changeStream(t *testing.T, n *node, change func(*jetstream.StreamConfig, jetstream.StreamState)) {
	t.Helper()
	js := newStreams(t, n.cfg.URL)
	stream, err := js.Stream(t.Context(), n.cfg.Stream)
	if err != nil {
		t.Fatal(err)
	}
	info := stream.CachedInfo()
	change(&info.Config, info.State)
	if _, err := js.UpdateStream(t.Context(), info.Config); err != nil {
		t.Fatal(err)
	}
}

// count returns how many texts have a part.
func (w *witness) count(part string) (n int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, text := range w.texts {
		if strings.Contains(text, part) {
			n++
		}
	}
	return n
}

// An append that does not fit into the stream is refused at once. The committer keeps its role, logs
// the cause once, and takes appends that fit.
func TestFullStream(t *testing.T) {
	t.Parallel()
	var w witness
	cfg := newPatientConfig(t, sharedURL(t), "a")
	cfg.OnNews = w.note
	a := startNode(t, cfg, nil)
	a.mustAppend(drafts(5, "x")...)
	b := startNode(t, newPatientConfig(t, cfg.URL, "b"), nil)
	awaitHead(t, 5, b)
	claim := a.log.Status().Claim
	changeStream(t, a, func(cfg *jetstream.StreamConfig, state jetstream.StreamState) {
		cfg.MaxBytes = int64(state.Bytes) + 64<<10
	})
	for _, n := range []*node{a, b, a} {
		_, err := n.append(bigDraft(t, "big", 100<<10))
		wantFull(t, err, "maximum bytes exceeded")
	}
	var together sync.WaitGroup
	for range 3 {
		together.Go(func() {
			_, err := a.append(bigDraft(t, "big", 100<<10))
			wantFull(t, err, "maximum bytes exceeded")
		})
		together.Go(func() { a.mustAppend(draft("p", rand.Text())) })
	}
	together.Wait()
	if n := w.count("maximum bytes exceeded"); n < 1 || n > 4 {
		t.Errorf("the cause was logged %d times: %q", n, w.texts)
	}
	if s := a.log.Status(); !s.IsCommitter || s.Claim != claim || s.Counters.Repeats+s.Counters.Unknown != 0 {
		t.Errorf("the committer is %+v", s)
	}
	changeStream(t, a, func(cfg *jetstream.StreamConfig, _ jetstream.StreamState) { cfg.MaxBytes = -1 })
	b.mustAppend(bigDraft(t, "big", 100<<10))
	if s := a.log.Status(); s.Claim != claim || w.count("takes messages again") == 0 {
		t.Errorf("the committer is %+v and said %q", s, w.texts)
	}
}

// awaitGone waits until an append that is forwarded to a node that has ended reaches nobody.
func awaitGone(t *testing.T, ended, from *node) {
	t.Helper()
	await(t, ended.cfg.Node+" takes no appends", func() bool {
		_, err := from.log.conn.Request(from.log.subject("append."+ended.log.boot), nil, time.Second)
		return errors.Is(err, nats.ErrNoResponders)
	})
}

// fillServer stores messages in another stream until a server is full, and returns that stream.
func fillServer(t *testing.T, url string) jetstream.Stream {
	t.Helper()
	js := newStreams(t, url)
	other, err := js.CreateStream(t.Context(), jetstream.StreamConfig{Name: "other", Subjects: []string{"other"}})
	if err != nil {
		t.Fatal(err)
	}
	for range 100 {
		if _, err := js.Publish(t.Context(), "other", make([]byte, 64<<10)); err != nil {
			return other
		}
	}
	t.Fatal("the server is not full")
	return nil
}

// A full server refuses appends and claims. Without a committer, appends are refused at once, too,
// and go on without a restart once there is room.
func TestFullServer(t *testing.T) {
	t.Parallel()
	s := newServer(t, func(o *server.Options) { o.JetStreamMaxStore = 1 << 20 })
	var w witness
	cfg := newConfig(t, s.ClientURL(), "a")
	cfg.OnNews = w.note
	a := startNode(t, cfg, nil)
	a.mustAppend(drafts(5, "x")...)
	other := fillServer(t, cfg.URL)
	for range 3 {
		_, err := a.append(draft("p", "lost"))
		wantFull(t, err, "insufficient resources")
	}
	if n := w.count("insufficient resources"); n != 1 || !a.log.lease.isMine() {
		t.Errorf("the cause was logged %d times: %q", n, w.texts)
	}
	b := startNode(t, newConfig(t, cfg.URL, "b"), nil)
	awaitHead(t, 5, b)
	a.stop()
	awaitGone(t, a, b)
	_, err := b.append(draft("p", "lost"))
	wantFull(t, err, "insufficient resources")
	if err := other.Purge(t.Context()); err != nil {
		t.Fatal(err)
	}
	await(t, "an append goes through", func() bool {
		_, err := b.append(draft("p", "found"))
		return err == nil
	})
	if lines := b.lines(); strings.Contains(lines, "lost") {
		t.Errorf("the log has an append that was refused: %s", lines)
	}
}

// A batch of which a server alone stores some messages and refuses the last one was not refused: its
// outcome is unknown.
func TestTornBatch(t *testing.T) {
	t.Parallel()
	s := newServer(t, func(o *server.Options) { o.JetStreamMaxStore = 1 << 20 })
	cfg := newConfig(t, s.ClientURL(), "a")
	cfg.AppendWait = time.Second
	a := startNode(t, cfg, func(l *Log) { l.pageBytes = 1 })
	a.mustAppend(drafts(5, "x")...)
	_, err := a.append(bigDraft(t, "1", 300<<10), bigDraft(t, "2", 900<<10), bigDraft(t, "3", 300<<10))
	var problem *wire.Error
	if !errors.As(err, &problem) || problem.Status != http.StatusServiceUnavailable || strings.Contains(problem.Detail, wire.NothingAppended) {
		t.Errorf("the append got %v", err)
	}
	awaitHead(t, 7, a)
	if lines := slices.Collect(strings.Lines(a.lines())); len(lines) != 7 {
		t.Errorf("the log has %d events", len(lines))
	}
}

// A fullFile is the file of a node on a disk that may be full.
type fullFile struct {
	*cache.DB
	full atomic.Bool
}

func (f *fullFile) Receive(ctx context.Context, evs []event.Event) error {
	if f.full.Load() && len(evs) > 0 {
		return cache.ErrFull
	}
	return f.DB.Receive(ctx, evs)
}

// A committer that cannot store what it commits gives up its role, and does not claim it while it
// cannot. Another node takes it.
func TestFullFile(t *testing.T) {
	t.Parallel()
	var file *fullFile
	cfg := newConfig(t, sharedURL(t), "a")
	cfg.AppendWait, cfg.LeaseTime = 2*time.Second, 3*time.Second // which is longer than the pauses between attempts to store
	a := &node{t: t, cfg: cfg, path: filepath.Join(t.TempDir(), "a.db"), file: func(db *cache.DB) mirror.Log {
		file = &fullFile{DB: db}
		return file
	}}
	a.start()
	t.Cleanup(func() { a.stop() })
	a.mustAppend(draft("p", "first"))
	b := startNode(t, newConfig(t, cfg.URL, "b"), nil)
	awaitHead(t, 1, b)
	file.full.Store(true)
	b.mustAppend(drafts(5, "x")...) // a commits it
	await(t, "the other node commits", b.log.lease.isMine)
	b.mustAppend(drafts(5, "y")...)
	if a.log.lease.isMine() || a.db.Head() != 1 {
		t.Errorf("the node with the full file commits, or has stored events: %s", a.db.Head())
	}
	b.stop()
	if _, err := a.append(draft("p", "lost")); err == nil || a.log.lease.isMine() {
		t.Errorf("a node with a full file commits: %v", err)
	}
	file.full.Store(false)
	a.mustAppend(draft("p", "last"))
	b.start()
	awaitHead(t, 12, a, b)
	checkEqual(t, 12, a, b)
}
