package board

import (
	"cmp"
	"slices"
	"time"
)

// A Viewer looks at a board. Only one goroutine may call Next; Close may be called from any.
type Viewer struct {
	board *Board
	sees  func(*Connection) bool // nil if it sees all
	wake  func()

	// Guarded by the board's mu.
	at    Cursor // the viewer has everything up to here; zero before it has a state
	woken bool   // wake was called since Next
}

// Look returns a new viewer, which the caller must close. It continues at after if the board
// still knows the changes since then, and else begins with the state.
//
// The viewer does not learn of connections for which sees returns false; if sees is nil, it
// learns of all. wake is called when Next has something new. It must not block and must not
// use the board, and it is not called again before the next call of Next.
func (b *Board) Look(after Cursor, sees func(*Connection) bool, wake func()) *Viewer {
	v := &Viewer{board: b, sees: sees, wake: wake}
	b.looking.Lock()
	defer b.looking.Unlock()
	b.begin()
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.knows(after) {
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
			if change.Connection == nil || v.sees == nil || v.sees(change.Connection) {
				batch.Changes = append(batch.Changes, change)
			}
		}
	}
	v.at = batch.At
	return batch
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
			if v.sees == nil || v.sees(c) {
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
	if v.sees == nil && b.countedAt == at {
		defer b.mu.Unlock()
		return b.counted
	}
	conns := v.state()
	b.mu.Unlock()
	counted := CountTopics(conns)
	if v.sees == nil {
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
