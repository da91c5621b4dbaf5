//go:build unix

package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rstream-dev/rstream/event"
)

// clusterURLs are the addresses of three nodes, which are others after each start.
type clusterURLs [3]atomic.Pointer[string]

func (u *clusterURLs) set(i int, url string) { u[i].Store(&url) }

func (u *clusterURLs) get(i int) string { return *u[i].Load() }

// clusterHTTP makes requests to nodes that may hang: all of them have a time.
var clusterHTTP = &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 8, IdleConnTimeout: 5 * time.Second}}

// A truthOfCluster is the log as readers have received it, and what was acknowledged.
type truthOfCluster struct {
	mu      sync.Mutex
	events  []seenEvent // by id
	keys    map[string]event.ID
	current map[event.Storage]bool // of the user whose values expire: it has a value
	twice   []string               // keys that came twice
	acks    []clusterAck           // that were not checked yet
	last    event.ID               // the greatest id that was acknowledged
	acked   int
	ackedAt time.Time
	longest time.Duration // between two acknowledgements
}

// A seenEvent is the part of an event that readers compare: the hash is of all the rest.
type seenEvent struct {
	hash event.Hash
	time event.Time
}

// A clusterAck is an acknowledged append of one event.
type clusterAck struct {
	key  string
	id   event.ID
	hash string
}

// expiring is the user whose values expire.
const expiring = "tmp"

func newTruthOfCluster() *truthOfCluster {
	return &truthOfCluster{keys: map[string]event.ID{}, current: map[event.Storage]bool{}}
}

// receive notes an event that a reader has received. All readers must receive the same ones.
func (c *truthOfCluster) receive(ev *event.Event) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if n := event.ID(len(c.events)); ev.ID <= n {
		if known := c.events[ev.ID-1]; known != (seenEvent{ev.Hash, ev.Time}) {
			return fmt.Errorf("event %s is %s of %s, and was %s of %s", ev.ID, ev.Hash, ev.Time, known.hash, known.time)
		}
		return nil
	} else if ev.ID != n+1 {
		return fmt.Errorf("event %s follows %s", ev.ID, n)
	}
	c.events = append(c.events, seenEvent{ev.Hash, ev.Time})
	if _, twice := c.keys[ev.Key]; twice && strings.HasPrefix(ev.Key, "w") {
		c.twice = append(c.twice, ev.Key)
	}
	c.keys[ev.Key] = ev.ID
	if ev.User == expiring {
		if ev.Type == event.Del && !c.current[ev.Storage()] {
			return fmt.Errorf("event %s ends %s, which has no value", ev.ID, ev.Storage())
		}
		c.current[ev.Storage()] = ev.Type == event.Put
	}
	return nil
}

func (c *truthOfCluster) head() event.ID {
	c.mu.Lock()
	defer c.mu.Unlock()
	return event.ID(len(c.events))
}

// acknowledge notes what a node has acknowledged.
func (c *truthOfCluster) acknowledge(acks []clusterAck) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, a := range acks {
		c.last = max(c.last, a.id)
	}
	c.acks = append(c.acks, acks...)
	c.acked += len(acks)
	c.noteAckLocked()
}

func (c *truthOfCluster) noteAckLocked() {
	now := time.Now()
	c.longest = max(c.longest, now.Sub(c.ackedAt))
	c.ackedAt = now
}

// begin begins a count: of what is acknowledged from now on, and of the longest time without.
func (c *truthOfCluster) begin() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.acked, c.longest, c.ackedAt = 0, 0, time.Now()
}

func (c *truthOfCluster) count() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.acked
}

func (c *truthOfCluster) lastAcked() event.ID {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.last
}

// check compares what was acknowledged since the last check with the log, as far as readers have
// received it.
func (c *truthOfCluster) check() (r clusterRound, lost []string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.noteAckLocked()
	r.acked, r.longest, r.twice = c.acked, c.longest, len(c.twice)
	for _, key := range c.twice {
		lost = append(lost, fmt.Sprintf("%s is in the log twice", key))
	}
	c.twice = nil
	later := c.acks[:0]
	for _, a := range c.acks {
		if a.id > event.ID(len(c.events)) {
			later = append(later, a)
		} else if at := c.keys[a.key]; at != a.id || c.events[at-1].hash.String() != a.hash {
			r.lost++
			lost = append(lost, fmt.Sprintf("%s was acknowledged as %s with the hash %s, and the log has it as %s", a.key, a.id, a.hash, at))
		}
	}
	c.acks = later
	return r, lost
}

// expired reports whether no value is left that expires.
func (c *truthOfCluster) expired() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, is := range c.current {
		if is {
			return false
		}
	}
	return true
}

// A clusterWriter appends events through the nodes, each until it is acknowledged.
type clusterWriter struct {
	name   string
	urls   *clusterURLs
	truth  *truthOfCluster
	random *rand.Rand
	on     int // the node
	n      int // the last number of a key
	failed atomic.Int64
}

func (w *clusterWriter) key() string {
	w.n++
	return fmt.Sprintf("w%s-%d", w.name, w.n)
}

// fillBlock appends more events than a block has: horizons move by blocks, and the rest of a short
// test would fill none.
func (w *clusterWriter) fillBlock(ctx context.Context) error {
	var body bytes.Buffer
	var keys []string
	for range event.BlockSize + 100 {
		keys = append(keys, w.key())
		fmt.Fprintf(&body, `{"user":"alice","path":"first","key":%q,"value":1}`+"\n", keys[len(keys)-1])
	}
	return w.append(ctx, "/set", body.Bytes(), keys)
}

// write appends until stop is closed: the last append, too, is repeated until it is acknowledged, so
// that nothing comes later.
func (w *clusterWriter) write(ctx context.Context, stop <-chan struct{}) error {
	large := time.Now().Add(2 * time.Second)
	for {
		var body bytes.Buffer
		target, keys := "/set", []string(nil)
		line := func(user, path string, value any) {
			keys = append(keys, w.key())
			fmt.Fprintf(&body, `{"user":%q,"path":%q,"key":%q,"value":%q}`+"\n", user, path, keys[len(keys)-1], value)
		}
		switch kind := w.random.IntN(4); {
		case time.Now().After(large): // an append of several messages
			large = time.Now().Add(2*time.Second + rand.N(8*time.Second))
			text := strings.Repeat("x", 110_000)
			for range 3 {
				line("bob", "large", text)
			}
		case kind == 0:
			for range 1 + w.random.IntN(9) {
				line("alice", fmt.Sprintf("p%d", w.random.IntN(20)), "v")
			}
		case kind == 1:
			line(expiring, fmt.Sprintf("p%d", w.random.IntN(40)), "v")
		default:
			keys = []string{w.key()}
			target = fmt.Sprintf("/set/alice/p%d", w.random.IntN(20))
			fmt.Fprintf(&body, `{"key":%q,"value":%d}`, keys[0], w.n)
		}
		if err := w.append(ctx, target, body.Bytes(), keys); err != nil {
			return err
		}
		select {
		case <-time.After(rand.N(60 * time.Millisecond)):
		case <-stop:
			return nil
		case <-ctx.Done():
			return nil
		}
	}
}

// append sends one append to node after node until one of them acknowledges it.
func (w *clusterWriter) append(ctx context.Context, target string, body []byte, keys []string) error {
	for ctx.Err() == nil {
		acks, err := w.try(ctx, target, body, keys)
		if err != nil {
			return err
		}
		if acks != nil {
			w.truth.acknowledge(acks)
			return nil
		}
		w.failed.Add(1)
		w.on = (w.on + 1 + w.random.IntN(2)) % len(w.urls)
		select {
		case <-time.After(5 * time.Millisecond):
		case <-ctx.Done():
		}
	}
	return nil
}

// try sends an append once. It returns nothing if the outcome is not known.
func (w *clusterWriter) try(ctx context.Context, target string, body []byte, keys []string) ([]clusterAck, error) {
	ctx, cancel := context.WithTimeout(ctx, time.Second+time.Duration(w.random.IntN(14_000))*time.Millisecond)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, w.urls.get(w.on)+target, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	resp, err := clusterHTTP.Do(req)
	if err != nil {
		return nil, nil
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	switch {
	case err != nil || resp.StatusCode == http.StatusServiceUnavailable:
		return nil, nil
	case resp.StatusCode != http.StatusOK && resp.StatusCode != http.StatusCreated:
		return nil, fmt.Errorf("node %d answers %s to %s: %s", w.on, resp.Status, keys, answer)
	}
	var acks []clusterAck
	for line := range bytes.Lines(answer) {
		var receipt struct {
			ID   event.ID `json:"id"`
			Hash string   `json:"hash"`
		}
		if err := json.Unmarshal(line, &receipt); err != nil || len(acks) == len(keys) {
			return nil, fmt.Errorf("node %d sends the receipt %.200q: %w", w.on, line, err)
		}
		acks = append(acks, clusterAck{keys[len(acks)], receipt.ID, receipt.Hash})
	}
	if len(acks) != len(keys) {
		return nil, fmt.Errorf("node %d sends %d receipts for %d events", w.on, len(acks), len(keys))
	}
	return acks, nil
}

// A clusterReader reads all events as an EventSource does: with its Last-Event-ID, from node to
// node, whenever a stream ends, hangs, or it has been there for a while.
type clusterReader struct {
	urls   *clusterURLs
	truth  *truthOfCluster
	random *rand.Rand
	on     int // the node
	cursor string

	at          atomic.Uint64 // the last event
	connections atomic.Int64
}

// readerIdle is how long a stream may be silent: nodes send a heartbeat each second.
const readerIdle = 4 * time.Second

// read reads until ctx ends.
func (r *clusterReader) read(ctx context.Context) error {
	for ctx.Err() == nil {
		if err := r.readFrom(ctx); err != nil {
			return fmt.Errorf("a reader of node %d, after %s: %w", r.on, r.cursor, err)
		}
		r.on = (r.on + 1 + r.random.IntN(2)) % len(r.urls)
		select {
		case <-time.After(5 * time.Millisecond):
		case <-ctx.Done():
		}
	}
	return nil
}

// readFrom reads one stream until it ends. Only what must not happen is an error.
func (r *clusterReader) readFrom(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 200*time.Millisecond+time.Duration(r.random.IntN(5000))*time.Millisecond)
	defer cancel()
	idle := time.AfterFunc(readerIdle, cancel)
	defer idle.Stop()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, r.urls.get(r.on)+"/events?topic=*", nil)
	if err != nil {
		return err
	}
	req.Header.Set("Accept", "text/event-stream")
	if r.cursor != "" {
		req.Header.Set("Last-Event-ID", r.cursor)
	}
	resp, err := clusterHTTP.Do(req)
	if err != nil {
		return nil
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		answer, _ := io.ReadAll(resp.Body) // may be cut
		if resp.StatusCode == http.StatusServiceUnavailable {
			return nil
		}
		return fmt.Errorf("%s: %s", resp.Status, answer)
	}
	r.connections.Add(1)
	lines := bufio.NewScanner(resp.Body)
	lines.Buffer(nil, 4<<20)
	var id, data string
	for lines.Scan() {
		idle.Reset(readerIdle)
		switch line := lines.Text(); {
		case strings.HasPrefix(line, "id: "):
			id = line[len("id: "):]
		case strings.HasPrefix(line, `data: {"id"`):
			data = line[len("data: "):]
		case line == "" && id != "": // the block is whole
			if err := r.receive(id, data); err != nil {
				return err
			}
			id, data = "", ""
		}
	}
	if errors.Is(lines.Err(), bufio.ErrTooLong) {
		return lines.Err()
	}
	return nil
}

// receive takes one block of a stream: an event or a position.
func (r *clusterReader) receive(id, data string) error {
	at, err := event.ParseCursor(id)
	if err != nil {
		return err
	}
	before := event.ID(r.at.Load())
	if data == "" {
		if at.ID != before {
			return fmt.Errorf("a position at %s follows event %s", at.ID, before)
		}
		r.cursor = id
		return nil
	}
	ev, err := event.ParseLine([]byte(data))
	if err != nil {
		return err
	}
	if ev.ID != before+1 || ev.ID != at.ID {
		return fmt.Errorf("event %s with the id %s follows event %s", ev.ID, id, before)
	}
	if err := r.truth.receive(&ev); err != nil {
		return err
	}
	r.cursor = id
	r.at.Store(uint64(ev.ID))
	return nil
}
