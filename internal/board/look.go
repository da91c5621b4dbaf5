package board

import "time"

const (
	// RenewEvery is how often a Look is announced again while it lasts, and how often a node
	// reports at least.
	RenewEvery = 5 * time.Second
	// FreshFor is how long an announcement of a Look and the report of a node hold, by the
	// clock of the receiver.
	FreshFor = 15 * time.Second
)

// A Look says whether somebody looks at a board. Each board numbers its looks.
type Look struct {
	Board   string `json:"board"`  // random, another one for each process
	Number  uint64 `json:"number"` // grows when looking begins and when it ends
	Looking bool   `json:"looking"`
}

// A Lookout waits on behalf of a node for somebody to look.
type Lookout struct {
	board *Board
	node  string
	wake  func()
}

// Wait returns a lookout for the node of that name, which the caller must close. wake is called
// when the Look is another one. It must not block and must not use the board.
func (b *Board) Wait(node string, wake func()) *Lookout {
	l := &Lookout{board: b, node: node, wake: wake}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.lookouts[l] = struct{}{}
	return l
}

// Look returns the current look of the board.
func (l *Lookout) Look() Look {
	b := l.board
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.announced
}

// Close ends waiting. It may be called more than once.
func (l *Lookout) Close() {
	b := l.board
	b.mu.Lock()
	defer b.mu.Unlock()
	if _, ok := b.lookouts[l]; ok {
		delete(b.lookouts, l)
		b.expectNo(l.node)
	}
}

// Lookouts returns the number of nodes that wait.
func (b *Board) Lookouts() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.lookouts)
}

// announce begins or ends a look. The caller holds mu.
func (b *Board) announce(looking bool) {
	b.announced.Number++
	b.announced.Looking = looking
	b.expectNone()
	b.expected = map[string]struct{}{}
	if looking {
		b.listed = make(chan struct{})
	}
	for l := range b.lookouts {
		if looking {
			b.expected[l.node] = struct{}{}
		}
		l.wake()
	}
	if looking && len(b.expected) == 0 {
		close(b.listed)
	}
}

// expectNo notes that the list of a node has come, or will not come. The caller holds mu.
func (b *Board) expectNo(node string) {
	if _, ok := b.expected[node]; !ok {
		return
	}
	if delete(b.expected, node); len(b.expected) == 0 {
		close(b.listed)
	}
}

// expectNone notes that no more lists will come. The caller holds mu.
func (b *Board) expectNone() {
	if len(b.expected) > 0 {
		b.expected = nil
		close(b.listed)
	}
}

// StopWaiting closes the channel of Listed: the missing lists are not worth waiting for.
func (v *Viewer) StopWaiting() {
	v.board.mu.Lock()
	defer v.board.mu.Unlock()
	v.board.expectNone()
}

// Listed returns a channel that is closed once the board has the connections of all nodes that
// waited when looking began.
func (v *Viewer) Listed() <-chan struct{} {
	b := v.board
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.look == "" { // it was closed
		closed := make(chan struct{})
		close(closed)
		return closed
	}
	return b.listed
}
