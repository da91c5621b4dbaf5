package mirror_test

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"net/http"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/rstream-dev/rstream/cache"
	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/internal/mirror"
	"github.com/rstream-dev/rstream/internal/server"
	"github.com/rstream-dev/rstream/internal/wire"
)

// A slowUpstream yields a batch each time that its gate has an element.
type slowUpstream struct {
	*mirror.HTTP
	gate chan struct{}
}

func (u *slowUpstream) Follow(ctx context.Context, after mirror.Position) iter.Seq2[mirror.Batch, error] {
	return func(yield func(mirror.Batch, error) bool) {
		for b, err := range u.HTTP.Follow(ctx, after) {
			if len(b.Events) > 0 && err == nil {
				select {
				case <-u.gate:
				case <-ctx.Done():
					return
				}
			}
			if !yield(b, err) {
				return
			}
		}
	}
}

// open lets everything pass until a node has what another one has.
func (u *slowUpstream) open(n, of *node) {
	for n.db.Head() < of.db.Head() {
		select {
		case u.gate <- struct{}{}:
		case <-time.After(time.Millisecond):
		}
	}
}

// startWith serves the mirror of an upstream of a log.
func (n *node) startWith(t *testing.T, up mirror.Upstream, log string) {
	t.Helper()
	if err := newMirror.WriteNew(n.path, log); err != nil {
		t.Fatal(err)
	}
	db, err := cache.Open(context.Background(), n.path, cache.Config{Role: cache.Server, Log: log, Mirror: &cache.Mirrored{}})
	if err != nil {
		t.Fatal(err)
	}
	n.db = db
	n.mirror = mirror.New(db, mirror.Config{Upstream: up, Name: "upstream", ApplyWait: time.Second, Dir: filepath.Dir(n.path)})
	n.srv = server.New(db, server.Config{Mirror: n.mirror})
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { n.mirror.Run(ctx) })
	n.back()
	n.stop = sync.OnceFunc(func() {
		n.handler.Store(nil)
		n.srv.Stop()
		n.front.CloseClientConnections()
		cancel()
		running.Wait()
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	})
}

// A fullLog is the file of a mirror on a full disk.
type fullLog struct {
	*cache.DB
	receives atomic.Int64
	room     atomic.Bool // there is space again
}

var errFullLog = errors.New("no space left")

func (l *fullLog) Receive(ctx context.Context, evs []event.Event) error {
	if l.room.Load() {
		return l.DB.Receive(ctx, evs)
	}
	l.receives.Add(1)
	return errFullLog
}

// A mirror that cannot store what it receives is in trouble until it can: connections that are
// made in the meantime are no good news. After a while it says that it has fallen behind.
func TestFullLog(t *testing.T) {
	origin := newNode(t).serve(t)
	origin.mustPut(t, "a", 3)
	near := newNode(t).follow(t, origin, "")
	near.awaitReady(t)
	near.stop()
	origin.mustPut(t, "b", 3)
	up, err := mirror.NewHTTP(mirror.HTTPConfig{URL: origin.url})
	if err != nil {
		t.Fatal(err)
	}
	db, err := cache.Open(t.Context(), near.path, cache.Config{Role: cache.Server, Mirror: &cache.Mirrored{}})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	log := &fullLog{DB: db}
	counted := &stuckUpstream{HTTP: up}
	counted.follows.Store(1) // it is not stuck
	m := mirror.New(log, mirror.Config{Upstream: counted, Name: "upstream", RetryMin: time.Millisecond, RetryMax: 5 * time.Millisecond, StoreGrace: 20 * time.Millisecond, OnTrouble: func(err error, _ time.Duration) {
		if err == nil && !log.room.Load() || err != nil && !errors.Is(err, errFullLog) {
			t.Errorf("reported %v", err)
		}
	}})
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() { m.Run(ctx) })
	until(t, "three attempts", func() bool { return log.receives.Load() >= 3 })
	if n := counted.follows.Load(); n > 2 {
		t.Errorf("the same events were asked for %d times", n-1)
	}
	if r := m.Report(); r.Connected || r.Trouble != errFullLog.Error() && r.Trouble != "" {
		t.Errorf("it reports %+v", r)
	}
	until(t, "it says so", func() bool {
		err := m.Ready()
		return err != nil && strings.HasPrefix(err.Error(), "nothing can be stored since ") && strings.HasSuffix(err.Error(), errFullLog.Error())
	})
	log.room.Store(true)
	until(t, "ready again", func() bool { return m.Ready() == nil && db.Head() == origin.db.Head() })
	cancel()
	running.Wait()
}

func (l *fullLog) ReceiveUpTo(ctx context.Context, evs []event.Event, to event.Point) error {
	if l.room.Load() {
		return l.DB.ReceiveUpTo(ctx, evs, to)
	}
	l.receives.Add(1)
	return errFullLog
}

// On a full disk, a mirror of some topics cannot store what the stream brings, nor what it fetches for
// readers, at the same time. It has both once there is room. The race detector must find nothing.
func TestFullPartLog(t *testing.T) {
	origin := newNode(t).serve(t)
	origin.mustPut(t, "a", 3)
	near := newNode(t).follow(t, origin, "", "u1")
	near.awaitReady(t)
	near.stop()
	origin.mustPut(t, "b", 3)
	up, err := mirror.NewHTTP(mirror.HTTPConfig{URL: origin.url, Topics: near.db.MirroredTopics()})
	if err != nil {
		t.Fatal(err)
	}
	defer up.Close()
	db, err := cache.Open(t.Context(), near.path, cache.Config{Role: cache.Server, Mirror: &cache.Mirrored{Topics: near.db.MirroredTopics()}})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	log := &fullLog{DB: db}
	m := mirror.New(log, mirror.Config{Upstream: up, Name: "upstream", RetryMin: time.Millisecond, RetryMax: 5 * time.Millisecond})
	db.OnCommit(func([]event.Event, event.ID) { m.Advanced() })
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() { m.Run(ctx) })
	defer running.Wait()
	defer cancel()
	at := origin.db.Head()
	for i := 0; i < 20 || log.receives.Load() < 40; i++ {
		if err := m.Await(ctx, at); err == nil || !strings.Contains(err.Error(), errFullLog.Error()) {
			t.Fatalf("a reader ahead gets %v", err)
		}
	}
	log.room.Store(true)
	if err := m.Await(ctx, at); err != nil || db.Head() < at {
		t.Errorf("once there is room, a reader ahead gets %v; the mirror is at %s", err, db.Head())
	}
}

// A stuckUpstream has a proxy on the way that keeps the events of the first stream.
type stuckUpstream struct {
	*mirror.HTTP
	follows atomic.Int64
}

func (u *stuckUpstream) Follow(ctx context.Context, after mirror.Position) iter.Seq2[mirror.Batch, error] {
	return func(yield func(mirror.Batch, error) bool) {
		stuck := u.follows.Add(1) == 1
		for b, err := range u.HTTP.Follow(ctx, after) {
			if !yield(b, err) {
				return
			}
			if b.Live && stuck {
				<-ctx.Done()
				yield(mirror.Batch{}, ctx.Err())
				return
			}
		}
	}
}

// openMirror opens a new file for a mirror of a node, and the upstream to follow.
func openMirror(t *testing.T, origin *node) (*mirror.HTTP, *cache.DB) {
	t.Helper()
	up, err := mirror.NewHTTP(mirror.HTTPConfig{URL: origin.url})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(up.Close)
	db, err := cache.Open(t.Context(), newNode(t).path, cache.Config{Role: cache.Server, Log: origin.db.Log(), Mirror: &cache.Mirrored{}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	return up, db
}

// A connection that brings nothing although the log grows is made again, and the cause is named.
func TestStaleStream(t *testing.T) {
	origin := newNode(t).serve(t)
	origin.mustPut(t, "a", 3)
	client, db := openMirror(t, origin)
	up := &stuckUpstream{HTTP: client}
	var stale atomic.Pointer[mirror.StaleError]
	m := mirror.New(db, mirror.Config{Upstream: up, Name: "upstream", RetryMin: time.Millisecond, Refresh: 10 * time.Millisecond, Stale: 30 * time.Millisecond, OnTrouble: func(err error, _ time.Duration) {
		var e *mirror.StaleError
		if errors.As(err, &e) {
			stale.CompareAndSwap(nil, e)
		} else if err != nil {
			t.Errorf("reported %v", err)
		}
	}})
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() { m.Run(ctx) })
	defer running.Wait()
	defer cancel()
	until(t, "ready", func() bool { return m.Ready() == nil && m.Report().Connected })
	at := db.Head()
	origin.mustPut(t, "b", 3)
	until(t, "the rest", func() bool { return db.Head() == origin.db.Head() })
	if e := stale.Load(); e == nil || e.At != at || e.Head <= at || !strings.Contains(e.Error(), "does a proxy on the way keep the stream?") {
		t.Errorf("it says %+v", e)
	}
}

// A slowState yields states whose first value comes when its gate is closed.
type slowState struct {
	*mirror.HTTP
	asked, gate chan struct{}
}

func (u *slowState) State(ctx context.Context, at mirror.Position) (event.Time, iter.Seq2[event.Event, error], error) {
	t, state, err := u.HTTP.State(ctx, at)
	return t, func(yield func(event.Event, error) bool) {
		close(u.asked)
		<-u.gate
		state(yield)
	}, err
}

// While the state at the horizon is downloaded, others may write. A mirror that is killed meanwhile leaves
// nothing of it: the system removes the file.
func TestSlowState(t *testing.T) {
	origin := newNode(t).serve(t)
	origin.mustPut(t, "a", event.BlockSize+5)
	if err := origin.db.RetainOnce(t.Context(), cache.Retention{MaxBytes: 1}); err != nil {
		t.Fatal(err)
	}
	client, err := mirror.NewHTTP(mirror.HTTPConfig{URL: origin.url})
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	up := &slowState{client, make(chan struct{}), make(chan struct{})}
	near := newNode(t)
	near.startWith(t, up, origin.db.Log())
	<-up.asked
	if err := near.db.Remember(t.Context(), nil, "http://127.0.0.1:1"); err != nil {
		t.Error(err)
	}
	downloads := func() []string {
		names, err := filepath.Glob(filepath.Join(filepath.Dir(near.path), "rstream-state-*"))
		if err != nil {
			t.Fatal(err)
		}
		return names
	}
	if left := downloads(); len(left) > 0 && runtime.GOOS != "windows" { // there the name goes with the process
		t.Errorf("a mirror that is killed leaves %s", left)
	}
	close(up.gate)
	near.awaitReady(t)
	if left := downloads(); len(left) > 0 {
		t.Errorf("the mirror has left %s", left)
	}
	near.awaitHead(t, origin)
	sameAnswers(t, origin, near)
}

// A mirror that was cut off for too long is not ready from when it learns so until it has everything: its
// readers would be far behind.
func TestBeginAgain(t *testing.T) {
	origin := newNode(t).serve(t)
	origin.mustPut(t, "a", 3)
	client, err := mirror.NewHTTP(mirror.HTTPConfig{URL: origin.url})
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	up := &gatedUpstream{&slowUpstream{HTTP: client, gate: make(chan struct{})}, &slowState{client, make(chan struct{}), make(chan struct{})}}
	near := newNode(t)
	near.startWith(t, up, origin.db.Log())
	up.open(near, origin)
	near.awaitReady(t)
	origin.leave()
	until(t, "away", func() bool { return near.mirror.Report().Trouble != "" })
	var drafts []event.Draft
	for i := range event.BlockSize + 5 {
		drafts = append(drafts, event.Draft{User: "u", Path: "p", Type: event.Put, Key: fmt.Sprint(i), Value: []byte("1")})
	}
	if _, err := origin.db.Append(t.Context(), drafts); err != nil {
		t.Fatal(err)
	}
	if err := origin.db.RetainOnce(t.Context(), cache.Retention{MaxBytes: 1}); err != nil {
		t.Fatal(err)
	}
	horizon, err := origin.db.Horizon(t.Context())
	if err != nil || horizon <= near.db.Head() {
		t.Fatalf("the horizon is %s, %v", horizon, err)
	}
	origin.back()
	<-up.state.asked
	notReady := func() {
		t.Helper()
		near.want(t, "/readyz", http.StatusServiceUnavailable, "")
		if near.mirror.Report().Ready {
			t.Error("the mirror reports that it is ready")
		}
	}
	notReady()
	close(up.state.gate)
	until(t, "the beginning", func() bool { return near.db.Head() == horizon })
	notReady()
	up.open(near, origin)
	near.awaitReady(t)
	sameAnswers(t, origin, near)
}

// A gatedUpstream yields a state, and then batches, when their gates let it.
type gatedUpstream struct {
	*slowUpstream
	state *slowState
}

func (u *gatedUpstream) State(ctx context.Context, at mirror.Position) (event.Time, iter.Seq2[event.Event, error], error) {
	return u.state.State(ctx, at)
}

// A cutUpstream loses its first connection.
type cutUpstream struct {
	*mirror.HTTP
	follows atomic.Int64
}

func (u *cutUpstream) Follow(ctx context.Context, after mirror.Position) iter.Seq2[mirror.Batch, error] {
	if u.follows.Add(1) > 1 {
		return u.HTTP.Follow(ctx, after)
	}
	return func(yield func(mirror.Batch, error) bool) {
		yield(mirror.Batch{}, errors.New("the connection is lost"))
	}
}

// An append that was passed on shows that the upstream is there: the mirror connects at once.
func TestAppendEndsPause(t *testing.T) {
	origin := newNode(t).serve(t)
	origin.mustPut(t, "a", 3)
	client, db := openMirror(t, origin)
	m := mirror.New(db, mirror.Config{Upstream: &cutUpstream{HTTP: client}, Name: "upstream", RetryMin: time.Hour, RetryMax: 2 * time.Hour, ApplyWait: time.Minute})
	db.OnCommit(func([]event.Event, event.ID) { m.Advanced() })
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() { m.Run(ctx) })
	defer running.Wait()
	defer cancel()
	until(t, "away", func() bool { return m.Report().Trouble != "" })
	receipts, err := m.Append(ctx, wire.Caller{}, []event.Draft{{User: "u", Path: "p", Type: event.Put, Key: "k", Value: []byte("1")}})
	if err != nil || len(receipts) != 1 || db.Head() != receipts[0].ID {
		t.Errorf("append: %v, %v; the mirror is at %s", receipts, err, db.Head())
	}
}
