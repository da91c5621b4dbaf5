package board

import (
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"slices"
	"time"
)

// A Viewer looks at a board. Only one goroutine may call Next; Close may be called from any.
type Viewer struct {
	board *Board
	view  View
	wake  func()

	// Guarded by the board's mu.
	at    Cursor // the viewer has everything up to here; zero before it has a state
	woken bool   // wake was called since Next
}

// A View says what a viewer learns of a board. The zero View is everything.
type View struct {
	// Sees reports whether the viewer sees a connection. If nil, it sees all.
	Sees func(*Connection) bool
	// Veiled keeps from the viewer how many connections there are and were that it does
	// not see. Numbers that count them are replaced: ids of connections by others that
	// are in no order, and cursors by one that the board does not know.
	Veiled bool
}

// Look returns a new viewer, which the caller must close. It continues at after if the board
// still knows the changes since then, and else begins with the state.
//
// wake is called when Next has something new. It must not block and must not use the board,
// and it is not called again before the next call of Next.
func (b *Board) Look(after Cursor, view View, wake func()) *Viewer {
	v := &Viewer{board: b, view: view, wake: wake}
	b.looking.Lock()
	defer b.looking.Unlock()
	b.begin()
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.knows(after) && !view.Veiled {
		v.at = after
	}
	b.viewers[v] = struct{}{}
	return v
}

// knows reports whether the board has all changes after a cursor. The caller holds mu.
func (b *Board) knows(after Cursor) bool {
	return after.look == b.look && b.look != "" && after.number <= b.number && b.number-after.number <= uint64(len(b.changes))
}

// A Batch is what a viewer gets at a time.
type Batch struct {
	// Begins reports that Nodes and State replace all that the viewer had before.
	Begins bool
	Nodes  []Node
	State  []*Connection
	// Changes follow, oldest first.
	Changes []Change
	// At is the cursor after the batch.
	At Cursor
}

// Next returns the news for the viewer: the state if it has none yet, or else changes. It
// does not block.
func (v *Viewer) Next() Batch {
	b := v.board
	b.mu.Lock()
	defer b.mu.Unlock()
	v.woken = false
	batch := Batch{At: Cursor{b.look, b.number}}
	if b.look == "" { // it was closed
		return Batch{At: v.at}
	}
	if !b.knows(v.at) {
		batch.Begins, batch.Nodes, batch.State = true, b.nodes(), v.state()
	} else {
		for _, change := range b.changes[len(b.changes)-int(b.number-v.at.number):] {
			if change.Connection == nil || v.view.Sees == nil || v.view.Sees(change.Connection) {
				batch.Changes = append(batch.Changes, change)
			}
		}
	}
	v.at = batch.At
	if v.view.Veiled {
		b.veil(&batch)
	}
	return batch
}

// veil replaces the numbers of a batch that count connections.
func (b *Board) veil(batch *Batch) {
	batch.At = veiledCursor
	for i, c := range batch.State {
		batch.State[i] = b.veiledConnection(c)
	}
	for i := range batch.Changes {
		change := &batch.Changes[i]
		change.At = veiledCursor
		if change.Connection != nil {
			change.Connection = b.veiledConnection(change.Connection)
		}
	}
}

func (b *Board) veiledConnection(c *Connection) *Connection {
	veiled := *c
	veiled.ID = b.veiledID(c.Node, c.ID)
	return &veiled
}

// veiledID returns another number for the id of a connection of a node, the same for as long as the
// board exists, and no other id's of that node: a Feistel network is a permutation.
func (b *Board) veiledID(node string, id uint64) uint64 {
	const half = 26 // bits: JavaScript knows no integers with more than 53
	const mask = 1<<half - 1
	left, right := uint32(id>>half)&mask, uint32(id)&mask
	for round := range byte(4) {
		sum := sha256.Sum256(append(binary.BigEndian.AppendUint32(append(b.secret[:], round), right), node...))
		left, right = right, left^binary.BigEndian.Uint32(sum[:])&mask
	}
	return uint64(left)<<half | uint64(right)
}

// nodes returns the nodes in the order of their names, the own one first. The caller holds mu.
func (b *Board) nodes() []Node {
	nodes := make([]Node, 0, len(b.members))
	for _, m := range b.members {
		nodes = append(nodes, m.node)
	}
	slices.SortFunc(nodes, func(x, y Node) int { return b.compareNodes(x.Name, y.Name) })
	return nodes
}

// compareNodes puts the own node before others. The caller holds mu.
func (b *Board) compareNodes(x, y string) int {
	own := b.own.node.Name
	switch {
	case x == y:
		return 0
	case x == own:
		return -1
	case y == own:
		return 1
	}
	return cmp.Compare(x, y)
}

// state returns the connections that the viewer sees, in the order of nodes and ids. The caller
// holds the board's mu.
func (v *Viewer) state() []*Connection {
	b := v.board
	conns := make([]*Connection, 0, b.count)
	for _, m := range b.members {
		for _, c := range m.conns {
			if v.view.Sees == nil || v.view.Sees(c) {
				conns = append(conns, c)
			}
		}
	}
	slices.SortFunc(conns, func(x, y *Connection) int {
		return cmp.Or(b.compareNodes(x.Node, y.Node), cmp.Compare(x.ID, y.ID))
	})
	return conns
}

// CountTopics counts the topics of the connections that the viewer sees now, which may be
// newer than what Next has returned.
func (v *Viewer) CountTopics() []TopicCount {
	b := v.board
	b.mu.Lock()
	at := Cursor{b.look, b.number}
	if v.view.Sees == nil && b.countedAt == at {
		defer b.mu.Unlock()
		return b.counted
	}
	conns := v.state()
	b.mu.Unlock()
	counted := CountTopics(conns)
	if v.view.Sees == nil {
		b.mu.Lock()
		defer b.mu.Unlock()
		b.counted, b.countedAt = counted, at
	}
	return counted
}

// Close ends looking. It may be called more than once.
func (v *Viewer) Close() {
	b := v.board
	b.looking.Lock()
	defer b.looking.Unlock()
	b.mu.Lock()
	delete(b.viewers, v)
	left := len(b.viewers)
	b.mu.Unlock()
	if left == 0 && b.unwatch != nil && b.linger == nil {
		b.startLingering()
	}
}

// startLingering makes the board stop looking after a while unless a viewer comes. The
// caller holds looking.
func (b *Board) startLingering() {
	var timer *time.Timer
	timer = time.AfterFunc(b.cfg.Linger, func() {
		b.looking.Lock()
		defer b.looking.Unlock()
		if b.linger == timer { // else a viewer came
			b.end()
		}
	})
	b.linger = timer
}
