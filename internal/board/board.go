package board

import (
	"cmp"
	"crypto/rand"
	"slices"
	"sync"
	"time"

	"github.com/rstream-dev/rstream/event"
)

// A Config configures a Board. Its zero value works.
type Config struct {
	// Node describes this process. It is called every few seconds while somebody looks.
	// If nil, the node has no name.
	Node func() Node
	// Linger is how long the board goes on after its last viewer has left. If not
	// positive, 10 seconds.
	Linger time.Duration
	// SampleEvery is how often the lags of all connections are read while somebody
	// looks. If not positive, 5 seconds.
	SampleEvery time.Duration
	// Ring is the least number of changes that are kept for viewers. If not positive,
	// 4,096.
	Ring int
}

// A Board has the connections of a Registry, and those of the nodes that report to it, while
// somebody looks. Its methods may be called from any goroutine.
type Board struct {
	cfg    Config
	local  *Registry
	secret [16]byte // of veiled ids

	// looking is held while looking begins or ends. It is locked before the registry, and
	// the registry before mu.
	looking sync.Mutex
	unwatch func()      // guarded by looking; nil while nobody looks
	sampler *time.Timer // guarded by looking
	linger  *time.Timer // guarded by looking; set while the last viewer has left
	closed  bool        // guarded by looking

	mu      sync.Mutex
	look    string             // of the cursors; "" while nobody looks
	members map[string]*member // by name, the own one included
	own     *member            // the node of the registry
	count   int                // number of connections
	number  uint64             // of the last change
	changes []Change           // the last ones, up to number
	viewers map[*Viewer]struct{}

	announced Look
	lookouts  map[*Lookout]struct{}
	expected  map[string]struct{} // the nodes whose lists have not come since looking began
	listed    chan struct{}       // closed once there is none of them

	counted   []TopicCount // for viewers that see all
	countedAt Cursor
}

// A Change is one change of a board. Connection is the one that has changed, as it is now or,
// if it was closed, as it was; it is nil if Node has changed or left.
type Change struct {
	Kind       Kind
	At         Cursor // after it
	Connection *Connection
	Node       *Node
}

// A Kind is a kind of changes.
type Kind uint8

// The kinds of changes.
const (
	Opened Kind = iota
	Closed
	Lagged      // the lag is another one
	NodeChanged // a node has come, or says something else of itself
	NodeLeft    // a node is gone; each of its connections was Closed before
)

// New returns a board of the connections in local.
func New(local *Registry, cfg Config) *Board {
	cfg.Linger = cmp.Or(max(cfg.Linger, 0), 10*time.Second)
	cfg.SampleEvery = cmp.Or(max(cfg.SampleEvery, 0), 5*time.Second)
	cfg.Ring = cmp.Or(max(cfg.Ring, 0), 4096)
	if cfg.Node == nil {
		cfg.Node = func() Node { return Node{} }
	}
	b := &Board{cfg: cfg, local: local, viewers: map[*Viewer]struct{}{}, announced: Look{Board: rand.Text()[:8]}, lookouts: map[*Lookout]struct{}{}}
	rand.Read(b.secret[:]) // never fails
	return b
}

// Close stops looking, for all viewers. A closed board stays empty.
func (b *Board) Close() {
	b.looking.Lock()
	defer b.looking.Unlock()
	b.closed = true
	b.end()
}

// Viewers returns the number of viewers.
func (b *Board) Viewers() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.viewers)
}

// IsWatching reports whether the board follows its connections: it has a viewer, or had one
// a moment ago.
func (b *Board) IsWatching() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.look != ""
}

// begin begins to look. The caller holds looking.
func (b *Board) begin() {
	if b.linger != nil {
		b.linger.Stop()
		b.linger = nil
	}
	if b.unwatch != nil || b.closed {
		return
	}
	node := b.cfg.Node()
	b.unwatch = b.local.Watch(&Watcher{
		List: func(conns []*Connection) {
			b.mu.Lock()
			defer b.mu.Unlock()
			b.look, b.number, b.changes, b.count = rand.Text()[:8], 0, nil, len(conns)
			b.own = &member{node: node, conns: make(map[uint64]*Connection, len(conns))}
			b.members = map[string]*member{node.Name: b.own}
			for _, c := range conns {
				b.belong(c, b.own)
				b.own.conns[c.ID] = c
			}
			b.announce(true)
		},
		Opened: b.noteOpened,
		Closed: b.noteClosed,
	})
	b.sampler = time.AfterFunc(b.cfg.SampleEvery, func() {
		b.looking.Lock()
		defer b.looking.Unlock()
		if b.unwatch != nil {
			b.sample()
			b.sampler.Reset(b.cfg.SampleEvery)
		}
	})
}

// end stops looking and forgets all. The caller holds looking.
func (b *Board) end() {
	if b.linger != nil {
		b.linger.Stop()
		b.linger = nil
	}
	if b.unwatch == nil {
		return
	}
	b.unwatch()
	b.unwatch = nil
	b.sampler.Stop()
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, m := range b.members {
		if m.silence != nil {
			m.silence.Stop()
		}
	}
	b.look, b.own, b.members, b.changes, b.counted = "", nil, nil, nil, nil
	b.announce(false)
	b.wakeViewers()
}

// Sample reads the lags of all connections of this process now, if somebody looks.
func (b *Board) Sample() {
	b.looking.Lock()
	defer b.looking.Unlock()
	if b.unwatch != nil {
		b.sample()
	}
}

func (b *Board) sample() {
	lags := map[uint64]Lag{}
	b.local.Lags(func(id uint64, lag Lag) { lags[id] = lag })
	node := b.cfg.Node()
	b.mu.Lock()
	defer b.mu.Unlock()
	for id, lag := range lags {
		if old := b.own.conns[id]; old != nil { // else it was closed meanwhile
			b.setLag(b.own, old, lag)
		}
	}
	if node != b.own.node {
		b.own.node = node
		b.add(Change{Kind: NodeChanged, Node: &node})
	}
}

func (b *Board) noteOpened(c *Connection) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.belong(c, b.own)
	b.open(b.own, c)
}

func (b *Board) noteClosed(id uint64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.close(b.own, b.own.conns[id])
}

// add appends a change and wakes the viewers. The caller holds mu.
func (b *Board) add(change Change) {
	b.number++
	change.At = Cursor{b.look, b.number}
	b.changes = append(b.changes, change)
	// Dropped in large pieces, so that each change is moved about once.
	if most := max(b.cfg.Ring, 2*b.count); len(b.changes) >= 2*most {
		b.changes = slices.Clone(b.changes[len(b.changes)-most:])
	}
	b.wakeViewers()
}

func (b *Board) wakeViewers() {
	for v := range b.viewers {
		if !v.woken {
			v.woken = true
			v.wake()
		}
	}
}

func compareTopics(a, b event.Topic) int { return cmp.Compare(a.String(), b.String()) }
