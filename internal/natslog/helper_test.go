package natslog

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"

	"github.com/rstream-dev/rstream/cache"
	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/internal/longtest"
	"github.com/rstream-dev/rstream/internal/mirror"
	"github.com/rstream-dev/rstream/internal/testfile"
	"github.com/rstream-dev/rstream/internal/wire"
)

func TestMain(m *testing.M) {
	longtest.TempInMemory()
	longtest.SetDefault("test.parallel", "4") // they wait most of the time
	partBytes = 16 << 10                      // so that few events take many parts
	code := m.Run()
	if shared.server != nil {
		shared.server.Shutdown()
		shared.server.WaitForShutdown()
		os.RemoveAll(shared.dir)
	}
	os.Exit(code)
}

// shared is the server of most tests, which have a stream each.
var shared struct {
	once   sync.Once
	server *server.Server
	dir    string
	err    error
}

// sharedURL returns the address of the shared server.
func sharedURL(t testing.TB) string {
	t.Helper()
	shared.once.Do(func() {
		if shared.dir, shared.err = os.MkdirTemp("", "natslog"); shared.err == nil {
			shared.server, shared.err = startServer(shared.dir, nil)
		}
	})
	if shared.err != nil {
		t.Fatal(shared.err)
	}
	return shared.server.ClientURL()
}

// startServer starts a NATS server on a free port.
func startServer(dir string, change func(*server.Options)) (*server.Server, error) {
	o := &server.Options{Host: "127.0.0.1", Port: -1, NoSigs: true, NoLog: true, JetStream: true, StoreDir: dir,
		MaxPayload: 2 << 20, DisableJetStreamBanner: true, NoSystemAccount: false}
	if change != nil {
		change(o)
	}
	s, err := server.NewServer(o)
	if err != nil {
		return nil, err
	}
	s.Start()
	if !s.ReadyForConnections(10 * time.Second) {
		return nil, errors.New("the NATS server does not start")
	}
	return s, nil
}

// newServer starts a server of the test alone.
func newServer(t testing.TB, change func(*server.Options)) *server.Server {
	t.Helper()
	s, err := startServer(t.TempDir(), change)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		s.Shutdown()
		s.WaitForShutdown()
	})
	return s
}

// testPatience is how long a test waits for what must happen.
const testPatience = time.Minute

// A node is one node of a cluster.
type node struct {
	t      testing.TB
	cfg    Config
	path   string
	setup  func(*Log)
	file   func(*cache.DB) mirror.Log // nil: the file itself
	retain cache.Retention

	log    *Log
	db     *cache.DB
	mirror *mirror.Mirror
	stop   func()
}

// newMirror is a new file as cache.Open creates it.
var newMirror = testfile.New(func(path string) (string, error) {
	db, err := cache.Open(context.Background(), path, cache.Config{Role: cache.Server, Log: "ZZZZZZZZZZZZZZZZ", Mirror: &cache.Mirrored{}})
	if err != nil {
		return "", err
	}
	return db.Log(), db.Close()
})

// newConfig returns the configuration of a node of the test's stream, which has one replica.
func newConfig(t testing.TB, url, name string) Config {
	return Config{URL: url, Stream: streamOf(t), Node: name, Replicas: 1, LeaseTime: 500 * time.Millisecond, AppendWait: 20 * time.Second}
}

// newPatientConfig is newConfig for nodes that do not take each other for silent, however slow the
// machine is.
func newPatientConfig(t testing.TB, url, name string) Config {
	cfg := newConfig(t, url, name)
	cfg.LeaseTime = time.Minute
	return cfg
}

// streams has the streams of tests, so that a test that runs again has another one.
var streams sync.Map

// streamOf returns the name of the test's stream.
func streamOf(t testing.TB) string {
	name := strings.Map(func(c rune) rune {
		if strings.ContainsRune("/#., ", c) {
			return '-'
		}
		return c
	}, t.Name())
	unique, _ := streams.LoadOrStore(t, name+"-"+rand.Text()[:6])
	return unique.(string)
}

// startNode starts a node, and creates the stream if there is none.
func startNode(t testing.TB, cfg Config, setup func(*Log)) *node {
	t.Helper()
	n := &node{t: t, cfg: cfg, path: filepath.Join(t.TempDir(), cfg.Node+".db"), setup: setup}
	n.start()
	t.Cleanup(func() { n.stop() })
	return n
}

func (n *node) start() {
	n.t.Helper()
	if err := n.tryStart(n.t.Context()); err != nil {
		n.t.Fatal(err)
	}
}

func (n *node) tryStart(ctx context.Context) error {
	n.stop = func() {}
	l, err := Connect(ctx, n.cfg)
	if err != nil {
		return err
	}
	l.patience = time.Second
	if n.setup != nil {
		n.setup(l)
	}
	file := cache.Config{Role: cache.Server, Mirror: &cache.Mirrored{}}
	if _, err := os.Stat(n.path); err != nil { // otherwise it says which log it has
		d, _, err := l.Create(ctx, Creation{})
		if err != nil {
			l.Close()
			return err
		}
		file.Log, file.Mirror = d.Log, &cache.Mirrored{Parent: d.Parent, ParentHead: d.ParentHead}
	}
	if file.Log != "" && file.Mirror.Parent == "" {
		if err := newMirror.WriteNew(n.path, file.Log); err != nil {
			l.Close()
			return err
		}
	}
	db, err := cache.Open(ctx, n.path, file)
	if err != nil {
		l.Close()
		return err
	}
	n.log, n.db = l, db
	var into mirror.Log = db
	if n.file != nil {
		into = n.file(db)
	}
	n.mirror = mirror.New(into, l.MirrorConfig(mirror.Config{Upstream: l, Name: l.String(), RetryMin: 10 * time.Millisecond, RetryMax: 500 * time.Millisecond, Refresh: time.Second,
		OnTrouble: func(err error, _ time.Duration) { n.t.Logf("%s: %v", n.cfg.Node, err) }}))
	db.OnCommit(func([]event.Event, event.ID) { n.mirror.Advanced() })
	running, cancel := context.WithCancel(context.Background())
	var group sync.WaitGroup
	group.Go(func() { n.mirror.Run(running) })
	group.Go(func() { _ = l.Run(running, db) })
	if !n.retain.None() {
		r := l.Retention(n.retain)
		group.Go(func() {
			if err := db.Retain(running, r); err != nil && running.Err() == nil {
				n.t.Errorf("%s: retain: %v", n.cfg.Node, err)
			}
		})
	}
	var once sync.Once
	n.stop = func() {
		once.Do(func() {
			cancel()
			group.Wait()
			if err := db.Close(); err != nil {
				n.t.Error(err)
			}
			l.Close()
		})
	}
	return nil
}

func (n *node) append(drafts ...event.Draft) ([]event.Receipt, error) {
	return n.mirror.Append(n.t.Context(), wire.Caller{}, drafts)
}

func (n *node) mustAppend(drafts ...event.Draft) []event.Receipt {
	n.t.Helper()
	receipts, err := n.append(drafts...)
	if err != nil {
		n.t.Fatalf("%s: append: %v", n.cfg.Node, err)
	}
	return receipts
}

// draft returns a draft with a key.
func draft(path, key string) event.Draft {
	return event.Draft{User: "alice", Path: path, Type: event.Put, Key: key, Value: []byte(`"` + key + `"`)}
}

func drafts(n int, prefix string) (list []event.Draft) {
	for i := range n {
		list = append(list, draft(fmt.Sprintf("p%d", i%10), fmt.Sprintf("%s%d", prefix, i)))
	}
	return list
}

// await waits until is returns true.
func await(t testing.TB, what string, is func() bool) {
	t.Helper()
	for limit := time.After(testPatience); !is(); {
		select {
		case <-limit:
			t.Fatalf("waited in vain until %s", what)
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// awaitHead waits until nodes have a position.
func awaitHead(t testing.TB, at event.ID, nodes ...*node) {
	t.Helper()
	for _, n := range nodes {
		await(t, fmt.Sprintf("%s is at %s", n.cfg.Node, at), func() bool { return n.db.Head() >= at })
	}
}

// lines returns all lines of a node's file.
func (n *node) lines() string {
	n.t.Helper()
	var b []byte
	for at, head := event.Beginning, n.db.Head(); at < head; { // a call returns a megabyte at most
		var err error
		if b, at, err = n.db.AppendLines(context.Background(), b, []event.Topic{event.All}, at, head, 1<<30); err != nil {
			n.t.Fatal(err)
		}
	}
	return string(b)
}

// kill ends a node as if its process was killed, as far as others can see: it says nothing more.
func (n *node) kill() {
	n.log.conn.Close()
	n.stop()
}

// checkEqual checks that nodes have the same lines, with dense ids.
func checkEqual(t testing.TB, count int, nodes ...*node) {
	t.Helper()
	for _, n := range nodes {
		if at := n.db.Head(); at != event.ID(count) {
			t.Errorf("%s is at %s, want %d events", n.cfg.Node, at, count)
		}
		if lines := n.lines(); strings.Count(lines, "\n") != count {
			t.Errorf("%s has %d events, want %d", n.cfg.Node, strings.Count(lines, "\n"), count)
		}
		if n.lines() != nodes[0].lines() {
			t.Errorf("%s and %s have other lines", n.cfg.Node, nodes[0].cfg.Node)
		}
		if err := n.db.Check(context.Background()); err != nil {
			t.Errorf("%s: %v", n.cfg.Node, err)
		}
	}
}
