package natslog

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/rstream-dev/rstream/event"
)

// partNodes is the subject on which each node answers for itself.
const partNodes = "nodes"

// Names in the metadata of a node's consumer of the stream, which the server keeps for a while
// after the node has gone. So nodes that do not answer are known, and nothing is stored for it.
const (
	metaNode = "rstream-node"
	metaBoot = "rstream-boot"
)

// An About is what a node says of its server.
type About struct {
	URL     string // where clients find it
	Version string // of the program
	Trouble string // why it is not ready, "" if it is
}

// Introduce sets what others learn of the server of this node. about is called for each answer.
// It must be called before Run.
func (l *Log) Introduce(about func() About) { l.about = about }

// A NodeStatus is how a node is, by its own answer.
type NodeStatus struct {
	Node      string
	Answers   bool // otherwise only Node and Claimed are known
	Claimed   bool // it was the last to become the committer
	Committer bool // it commits
	Following bool // it follows the stream
	Log       string
	Head      event.ID // of its file
	Seq       uint64   // the last message of the stream that is in its file
	About
}

// A nodeAnswer is the message with which a node answers.
type nodeAnswer struct {
	claim
	Log       string   `json:"log"`
	Head      event.ID `json:"head"`
	Seq       uint64   `json:"sequence"`
	Committer bool     `json:"committer"`
	Following bool     `json:"following"`
	URL       string   `json:"url,omitempty"`
	Version   string   `json:"version,omitempty"`
	Trouble   string   `json:"trouble,omitempty"`
}

// answerNodes answers one who asks for the nodes.
func (l *Log) answerNodes(msg *nats.Msg) {
	at, _ := l.state()
	a := nodeAnswer{claim: claim{l.cfg.Node, l.boot}, Log: l.db.Log(), Head: l.db.Head(), Seq: at.seq, Committer: l.lease.isMine(), Following: l.lease.isFollowing()}
	if l.about != nil {
		about := l.about()
		a.URL, a.Version, a.Trouble = about.URL, about.Version, about.Trouble
	}
	b, err := json.Marshal(&a)
	if err == nil {
		_ = msg.Respond(b) // it then counts as a node that does not answer
	}
}

// nodesWait is how long nodes have to answer. Once all that are known have, others have nodesMore.
const (
	nodesWait = 2 * time.Second
	nodesMore = 100 * time.Millisecond
)

// Nodes asks the nodes of the log how they are, and returns them by name. Nodes that do not
// answer are known from the stream: those that have read it within half a minute, and the last
// one that became the committer.
func (l *Log) Nodes(ctx context.Context) (nodes []NodeStatus, err error) {
	ctx, cancel := l.whileAllowed(ctx, "$JS.API.", l.subject(partNodes))
	defer cancel()
	known, last, err := l.knownNodes(ctx)
	if err != nil {
		return nil, refusalOr(ctx, err)
	}
	answers, err := l.askNodes(ctx, known)
	if err != nil {
		return nil, refusalOr(ctx, err)
	}
	names := map[string]bool{}
	for i := range answers {
		a := &answers[i]
		names[a.Node] = true
		nodes = append(nodes, NodeStatus{Node: a.Node, Answers: true, Claimed: a.claim == last, Committer: a.Committer, Following: a.Following, Log: a.Log, Head: a.Head, Seq: a.Seq,
			About: About{a.URL, a.Version, a.Trouble}})
	}
	for c := range known {
		if !names[c.Node] { // or it was started again
			names[c.Node] = true
			nodes = append(nodes, NodeStatus{Node: c.Node, Claimed: c.Node == last.Node})
		}
	}
	slices.SortFunc(nodes, func(a, b NodeStatus) int { return cmp.Or(cmp.Compare(a.Node, b.Node), cmp.Compare(a.URL, b.URL)) })
	return nodes, nil
}

// knownNodes returns the nodes that the stream knows, and the last claim.
func (l *Log) knownNodes(ctx context.Context) (known map[claim]bool, last claim, err error) {
	stream, err := l.js.Stream(ctx, l.cfg.Stream)
	if err != nil {
		return nil, last, l.streamError(err)
	}
	known = map[claim]bool{}
	consumers := stream.ListConsumers(ctx)
	for c := range consumers.Info() {
		if node, boot := c.Config.Metadata[metaNode], c.Config.Metadata[metaBoot]; boot != "" {
			known[claim{node, boot}] = true
		}
	}
	if err := consumers.Err(); err != nil {
		return nil, last, l.streamError(err)
	}
	m, seq, err := l.get(ctx, fmt.Sprintf(`{"last_by_subj":%q}`, l.subject(partClaim)))
	if errors.Is(err, errNoMessage) {
		return known, last, nil
	}
	if err == nil {
		last, err = m.parseClaim(seq)
	}
	if err == nil {
		known[last] = true
	}
	return known, last, err
}

// askNodes returns the answers of nodes, those of known ones and of others.
func (l *Log) askNodes(ctx context.Context, known map[claim]bool) (answers []nodeAnswer, err error) {
	inbox := l.conn.NewInbox()
	arrived := make(chan *nats.Msg, 1024)
	sub, err := l.conn.ChanSubscribe(inbox, arrived)
	if err != nil {
		return nil, l.unreachable(err)
	}
	defer func() { _ = sub.Unsubscribe() }() // the connection may be closed
	if err := l.conn.PublishRequest(l.subject(partNodes), inbox, nil); err != nil {
		return nil, l.unreachable(err)
	}
	answered := map[claim]bool{}
	missing := len(known)
	for limit := time.After(l.nodesWait); ; {
		select {
		case msg := <-arrived:
			var a nodeAnswer
			if json.Unmarshal(msg.Data, &a) == nil && a.Boot != "" && !answered[a.claim] {
				answered[a.claim] = true
				answers = append(answers, a)
				if known[a.claim] {
					missing--
				}
			} else if len(msg.Data) == 0 && msg.Header.Get("Status") == "503" {
				return nil, nil // nobody is there
			}
			if missing == 0 {
				limit = time.After(nodesMore)
			}
		case <-limit:
			return answers, nil
		case <-ctx.Done():
			return nil, l.unreachable(context.Cause(ctx))
		}
	}
}
