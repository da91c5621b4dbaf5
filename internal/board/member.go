package board

import (
	"errors"
	"fmt"
	"net/url"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/rstream-dev/rstream/event"
)

// A Report is what a node tells a board about its connections. Its opened connections come
// before its lags, and these before its closed connections.
type Report struct {
	Look   Look   `json:"look"`   // the one in answer to which it is made
	Boot   string `json:"boot"`   // of the process; a later one is greater
	Number uint64 `json:"number"` // one more than that of the report before, of the same process
	From   Node   `json:"from"`
	// List is set if the report is a part of a list of all connections of the node: Opened
	// are those of this part. If empty, the report has changes.
	List   ListPart      `json:"list,omitempty"`
	Opened []*Connection `json:"opened,omitempty"`
	Lags   []LagOf       `json:"lags,omitempty"`
	Closed []uint64      `json:"closed,omitempty"`
	// Left reports that the node ends, and all of its connections with it.
	Left bool `json:"left,omitempty"`
}

// A ListPart is a part of a list of all connections of a node.
type ListPart string

// The parts of a list. The last one may be the first one as well.
const (
	FirstPart ListPart = "first"
	NextPart  ListPart = "next"
	LastPart  ListPart = "last"
	WholeList ListPart = "whole"
)

// LagOf is the new lag of a connection.
type LagOf struct {
	ID uint64 `json:"id"`
	Lag
}

// Wanted is what a board wants from a node after a report.
type Wanted string

// What a board may want.
const (
	WantChanges Wanted = "changes" // the report was taken
	WantList    Wanted = "list"    // a report before it is missing
	WantNothing Wanted = "nothing" // the look has ended
)

// MaxNodeName is the greatest length of the name of a node, in bytes.
const MaxNodeName = 64

// CheckNodeName returns an error unless name can be that of a node.
func CheckNodeName(name string) error {
	if name == "" || len(name) > MaxNodeName {
		return fmt.Errorf("want 1 to %d bytes", MaxNodeName)
	}
	for _, r := range name {
		if !unicode.IsPrint(r) || r == utf8.RuneError {
			return errors.New("want printable characters")
		}
	}
	return nil
}

// A ReplacedError reports that another process has the name of a node.
type ReplacedError struct {
	Node string
	Own  bool // it is the board's own
}

func (e *ReplacedError) Error() string {
	if e.Own {
		return fmt.Sprintf("node %q is the board's own server", e.Node)
	}
	return fmt.Sprintf("node %q was started again later; give each node another name", e.Node)
}

// A member is a node with a state on the board.
type member struct {
	node    Node
	boot    string // "" of the board's own node
	number  uint64 // of the last report
	conns   map[uint64]*Connection
	listing map[uint64]*Connection // of the parts of a list, up to the last
	whole   bool                   // conns are all, since a list was whole
	silence *time.Timer            // nil of the board's own node
	seen    time.Time              // of the last report
}

// Check returns an error for a report that no node makes.
func (r *Report) Check() error {
	if err := CheckNodeName(r.From.Name); err != nil {
		return fmt.Errorf("node %.80q: %w", r.From.Name, err)
	}
	if r.Boot == "" {
		return errors.New("boot: want that of the process")
	}
	if _, err := event.ParseCursor(r.From.Head); err != nil { // those who look would refuse all
		return fmt.Errorf("head: %w", err)
	}
	if u, err := url.Parse(r.From.URL); r.From.URL != "" && (err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "") {
		return fmt.Errorf("url: %.80q is no URL of a server", r.From.URL)
	}
	switch r.List {
	case "", FirstPart, NextPart, LastPart, WholeList:
	default:
		return fmt.Errorf("list %.40q: want first, next, last or whole", r.List)
	}
	for _, c := range r.Opened {
		if c == nil || len(c.Topics) == 0 { // with none, everybody could see it
			return errors.New("opened: a connection has no topics")
		}
	}
	return nil
}

// Report takes a report of another node, which passes Check, and returns what the board wants
// next. The only error is a *ReplacedError.
func (b *Board) Report(r *Report) (Wanted, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	name := r.From.Name
	if b.look == "" || r.Look != b.announced {
		return WantNothing, nil
	}
	if name == b.own.node.Name {
		return WantNothing, &ReplacedError{name, true}
	}
	m := b.members[name]
	if m != nil && r.Boot < m.boot {
		return WantNothing, &ReplacedError{name, false}
	}
	if m != nil && (r.Boot > m.boot || r.Left) {
		b.dropMember(m)
		m = nil
	}
	if r.Left {
		b.expectNo(name)
		return WantNothing, nil
	}
	begins := r.List == FirstPart || r.List == WholeList
	if m == nil {
		if !begins {
			return WantList, nil
		}
		m = b.addMember(r)
	} else {
		m.seen = time.Now()
		m.silence.Reset(FreshFor)
		switch {
		case r.Number <= m.number: // a copy: the answer to the first one was lost
			return WantChanges, nil
		case r.Number != m.number+1 && !begins, r.List != "" && !begins && m.listing == nil, r.List == "" && !m.whole:
			return WantList, nil
		}
	}
	m.number = r.Number
	if r.From != m.node {
		m.node = r.From
		b.add(Change{Kind: NodeChanged, Node: &r.From})
	}
	if r.List != "" {
		b.takeList(m, r, begins)
	} else {
		m.listing = nil
		b.takeChanges(m, r)
	}
	return WantChanges, nil
}

// addMember adds a node, without connections. The caller holds mu.
func (b *Board) addMember(r *Report) *member {
	node := r.From
	m := &member{node: node, boot: r.Boot, conns: map[uint64]*Connection{}, seen: time.Now()}
	m.silence = time.AfterFunc(FreshFor, func() { b.checkSilence(m) })
	b.members[node.Name] = m
	b.add(Change{Kind: NodeChanged, Node: &node})
	return m
}

// checkSilence drops a node that has been silent. If this very process has not run in the
// meantime, the reports may still wait for it.
func (b *Board) checkSilence(m *member) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.members[m.node.Name] != m {
		return
	}
	late := time.Since(m.seen) - FreshFor
	switch {
	case late < 0: // a report came
	case late > time.Second:
		m.seen = time.Now().Add(RenewEvery - FreshFor)
		m.silence.Reset(RenewEvery)
	default:
		b.dropMember(m)
	}
}

// dropMember drops a node and its connections. The caller holds mu.
func (b *Board) dropMember(m *member) {
	m.silence.Stop()
	delete(b.members, m.node.Name)
	for _, c := range m.conns {
		b.add(Change{Kind: Closed, Connection: c})
	}
	b.count -= len(m.conns)
	node := m.node
	b.add(Change{Kind: NodeLeft, Node: &node})
	b.expectNo(node.Name)
}

// takeList takes a part of a list. The caller holds mu.
func (b *Board) takeList(m *member, r *Report, begins bool) {
	if begins {
		m.listing = map[uint64]*Connection{}
	}
	for _, c := range r.Opened {
		b.belong(c, m)
		m.listing[c.ID] = c
	}
	if r.List != LastPart && r.List != WholeList {
		return
	}
	for id, c := range m.conns {
		if m.listing[id] == nil {
			b.close(m, c)
		}
	}
	for id, c := range m.listing {
		if old := m.conns[id]; old == nil {
			b.open(m, c)
		} else {
			b.setLag(m, old, c.Lag)
		}
	}
	m.listing, m.whole = nil, true
	b.expectNo(m.node.Name)
}

// takeChanges takes the changes of a report. The caller holds mu.
func (b *Board) takeChanges(m *member, r *Report) {
	for _, c := range r.Opened {
		if m.conns[c.ID] == nil {
			b.belong(c, m)
			b.open(m, c)
		}
	}
	for _, l := range r.Lags {
		if c := m.conns[l.ID]; c != nil {
			b.setLag(m, c, l.Lag)
		}
	}
	for _, id := range r.Closed {
		if c := m.conns[id]; c != nil {
			b.close(m, c)
		}
	}
}

func (b *Board) belong(c *Connection, m *member) { c.Node, c.Log = m.node.Name, m.node.Log }

// open, setLag and close change one connection. The caller holds mu.
func (b *Board) open(m *member, c *Connection) {
	m.conns[c.ID] = c
	b.count++
	b.add(Change{Kind: Opened, Connection: c})
}

func (b *Board) setLag(m *member, old *Connection, lag Lag) {
	if old.Lag == lag {
		return
	}
	c := *old
	c.Lag = lag
	m.conns[c.ID] = &c
	b.add(Change{Kind: Lagged, Connection: &c})
}

func (b *Board) close(m *member, c *Connection) {
	delete(m.conns, c.ID)
	b.count--
	b.add(Change{Kind: Closed, Connection: c})
}
