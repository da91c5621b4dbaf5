package client

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/rstream-dev/rstream/cache"
	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/internal/longtest"
	"github.com/rstream-dev/rstream/window"
)

// The environment of a child process: a copy, its log, its servers and topics.
const (
	childCopy   = "RSTREAM_CLIENT_COPY"
	childLog    = "RSTREAM_CLIENT_LOG"
	childServer = "RSTREAM_CLIENT_SERVER"
	childTopics = "RSTREAM_CLIENT_TOPICS"
)

// runChild does the work of a child process, if this is one.
func runChild() {
	if os.Getenv(childCopy) == "" {
		return
	}
	if err := syncChild(context.Background()); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

// syncChild syncs topics as a group.
func syncChild(ctx context.Context) error {
	db, err := cache.Open(ctx, os.Getenv(childCopy), cache.Config{Role: cache.Client, Log: os.Getenv(childLog)})
	if err != nil {
		return err
	}
	defer db.Close()
	c, err := New(db, hasty(strings.Fields(os.Getenv(childServer))...))
	if err != nil {
		return err
	}
	defer c.Close()
	var topics []event.Topic
	for name := range strings.SplitSeq(os.Getenv(childTopics), "\n") {
		topic, err := event.ParseTopic(name)
		if err != nil {
			return err
		}
		topics = append(topics, topic)
	}
	_, err = syncGroup(ctx, c, topics)
	return err
}

// syncGroup syncs topics as a group and returns the spans.
func syncGroup(ctx context.Context, c *Client, topics []event.Topic) (synced []Synced, err error) {
	group := NewTopicGroup(topics)
	for _, topic := range topics {
		s, err := c.Sync(ctx, topic, SyncOptions{Group: group})
		if err != nil {
			return nil, err
		}
		synced = append(synced, s)
	}
	return synced, nil
}

// A killer is a server for a child process, which it kills at one of its requests.
type killer struct {
	next   http.Handler
	ready  func() // called before the kill
	killed chan struct{}

	mu    sync.Mutex
	left  int // requests until the kill
	child *exec.Cmd
}

func (k *killer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	k.mu.Lock()
	k.left--
	now := k.left == 0
	k.mu.Unlock()
	if !now {
		k.next.ServeHTTP(w, r)
		return
	}
	defer close(k.killed)
	k.ready()
	k.mu.Lock()
	_ = k.child.Process.Kill() // fails only if it has ended, which the test notices
	k.mu.Unlock()
	panic(http.ErrAbortHandler)
}

// start starts the child, with one server or several with spaces between them.
func (k *killer) start(t *testing.T, copied, log, server string, topics []event.Topic) {
	k.mu.Lock()
	defer k.mu.Unlock()
	var names []string
	for _, topic := range topics {
		names = append(names, topic.String())
	}
	k.child = exec.Command(os.Args[0])
	k.child.Env = append(os.Environ(), childCopy+"="+copied, childLog+"="+log, childServer+"="+server, childTopics+"="+strings.Join(names, "\n"))
	k.child.Stderr = os.Stderr
	if err := k.child.Start(); err != nil {
		t.Fatal(err)
	}
}

// reachedOf returns the position up to which all topics are held, which begin together.
func reachedOf(t *testing.T, db *cache.DB, topics []event.Topic) event.ID {
	held, err := db.Held(t.Context(), topics...)
	if err != nil {
		t.Error(err)
	}
	if len(held) == 0 {
		return event.Beginning
	}
	return held[0].To
}

// isPulled reports whether there is a window that is being pulled, or was.
func isPulled(t *testing.T, db *cache.DB) bool {
	windows, err := db.Windows(t.Context())
	if err != nil {
		t.Error(err)
	}
	return len(windows) > 0
}

// A process that fills the windows of many topics is killed. Another one, which waits for
// it or comes later, takes over all of them. It fetches no event that was stored.
func TestTopicGroupKilled(t *testing.T) {
	seed := rand.Uint64()
	random := rand.New(rand.NewPCG(seed, 0))
	const topicCount, eventCount = 20, 2000 // 20 pages
	f := newFixture(t)
	topics := f.putInTurn(topicCount, eventCount)
	head := f.db.Head()
	for round := range longtest.Scale(2, 12, 40) {
		path := filepath.Join(t.TempDir(), "copy.db")
		db := f.openCache(path, nil)
		// Request 1 is the sum of the first topic; the sums of the others follow the pages.
		waits, kill := round%2 == 0, 3+random.IntN(eventCount/100+topicCount-4)
		var atLeast event.ID
		k := &killer{next: f.srv, killed: make(chan struct{}), left: kill, ready: func() {
			eventually(t, "an event", func() bool { return reachedOf(t, db, topics) > 0 })
			atLeast = reachedOf(t, db, topics)
		}}
		web := httptest.NewServer(k)
		k.start(t, path, f.db.Log(), web.URL, topics)
		c := newTestClient(t, db, hasty(f.http.URL))
		takeOver := func() ([]Synced, error) { return syncGroup(t.Context(), c, topics) }
		var synced []Synced
		var failed error
		var waiting sync.WaitGroup
		if waits {
			eventually(t, "a lease", func() bool { return isPulled(t, db) })
			waiting.Go(func() { synced, failed = takeOver() })
		}
		<-k.killed
		if err := k.child.Wait(); err == nil || k.child.ProcessState.Exited() {
			t.Errorf("seed %d: the child has ended by itself: %v", seed, err)
		}
		web.Close()
		if !waits {
			atLeast = reachedOf(t, db, topics)
			synced, failed = takeOver()
		}
		waiting.Wait()
		if failed != nil {
			t.Fatalf("seed %d: %v", seed, failed)
		}
		got, most := c.Stats().Events, int64(head-atLeast)
		if got > most || !waits && got < most {
			t.Errorf("seed %d: killed at request %d, with all up to %d held: %d events were fetched, want %d", seed, kill, atLeast, got, most)
		}
		for i, topic := range topics {
			sameEvents(t, topic.String(), held(t, db, topic, synced[i]), f.truth(topic.String(), "", ""))
		}
		windows, err := db.Windows(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for _, w := range windows {
			if w.State != window.Committed || !w.Proven || w.Held() != (window.Span{To: head}) {
				t.Errorf("seed %d: killed at request %d: %s is %s %s, proven %v", seed, kill, w.Topic, w.State, w.Held(), w.Proven)
			}
		}
		if len(windows) != len(topics) {
			t.Errorf("seed %d: killed at request %d: there are %d windows, want %d", seed, kill, len(windows), len(topics))
		}
	}
}
