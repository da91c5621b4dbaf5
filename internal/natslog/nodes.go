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
	"github.com/nats-io/nats.go/jetstream"

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
// one that became the committer. incomplete says why more of them may be missing, nil if none are:
// a NATS server that is away does not say who has read from it.
func (l *Log) Nodes(ctx context.Context) (nodes []NodeStatus, incomplete, err error) {
	ctx, cancel := l.whileAllowed(ctx, "$JS.API.", l.subject(partNodes))
	defer cancel()
	known, incomplete, err := l.readers(ctx)
	if err != nil {
		return nil, nil, refusalOr(ctx, err)
	}
	last, err := l.lastClaim(ctx)
	if err != nil {
		return nil, nil, refusalOr(ctx, err)
	}
	if last.Boot != "" {
		known[last] = true
	}
	answers, err := l.askNodes(ctx, known, nodesMore, nil)
	if err != nil {
		return nil, nil, refusalOr(ctx, err)
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
	return nodes, incomplete, nil
}

// A consumerPage is an answer of a server that lists the consumers of a stream.
type consumerPage struct {
	Total     int `json:"total"` // of all pages
	Limit     int `json:"limit"` // of a page, with those whose server did not answer
	Consumers []struct {
		Config struct {
			Metadata map[string]string `json:"metadata"`
		} `json:"config"`
	} `json:"consumers"`
	Error *jetstream.APIError `json:"error"`
}

// readers returns the nodes that have read the stream lately, and why some may be missing. It does
// not use the library's list, which asks again for the consumers that are missing: a server takes
// four seconds for a page with one of them.
func (l *Log) readers(ctx context.Context) (known map[claim]bool, incomplete, err error) {
	known = map[claim]bool{}
	silent := 0
	for offset := 0; ; {
		page, err := l.consumerPage(ctx, offset)
		var refused *RefusedError
		var wrong *SetupError
		switch {
		case err != nil && (ctx.Err() != nil || errors.Is(err, ErrNoStream) || errors.As(err, &refused) || errors.As(err, &wrong)):
			return nil, nil, err
		case err != nil:
			return known, fmt.Errorf("list the consumers of the stream: %w", err), nil
		}
		for _, c := range page.Consumers {
			if node, boot := c.Config.Metadata[metaNode], c.Config.Metadata[metaBoot]; boot != "" {
				known[claim{node, boot}] = true
			}
		}
		silent += max(0, min(page.Limit, page.Total-offset)-len(page.Consumers))
		if offset += page.Limit; page.Limit <= 0 || offset >= page.Total {
			break
		}
	}
	if silent > 0 {
		return known, fmt.Errorf("a NATS server did not answer about %d consumers of the stream", silent), nil
	}
	return known, nil, nil
}

// consumerPage returns the consumers of the stream from an offset in their list.
func (l *Log) consumerPage(ctx context.Context, offset int) (page consumerPage, err error) {
	wait, cancel := context.WithTimeout(ctx, l.cfg.within(requestWait))
	defer cancel()
	msg, err := l.conn.RequestWithContext(wait, "$JS.API.CONSUMER.LIST."+l.cfg.Stream, fmt.Appendf(nil, `{"offset":%d}`, offset))
	if err != nil {
		return page, l.unreachable(cmp.Or(context.Cause(ctx), err))
	}
	if err := json.Unmarshal(msg.Data, &page); err != nil {
		return page, fmt.Errorf("read the list of consumers: %w", err)
	}
	if page.Error != nil {
		return page, l.streamError(page.Error)
	}
	return page, nil
}

// lastClaim returns the last claim in the stream, the zero one if there is none.
func (l *Log) lastClaim(ctx context.Context) (last claim, err error) {
	m, seq, err := l.get(ctx, fmt.Sprintf(`{"last_by_subj":%q}`, l.subject(partClaim)))
	if errors.Is(err, errNoMessage) {
		return last, nil
	}
	if err != nil {
		return last, err
	}
	return m.parseClaim(seq)
}

// askNodes returns the answers of nodes: those of known ones, and of others that answer within more
// of the last one. The first answer that is enough ends it; enough may be nil.
func (l *Log) askNodes(ctx context.Context, known map[claim]bool, more time.Duration, enough func(a *nodeAnswer) bool) (answers []nodeAnswer, err error) {
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
				if enough != nil && enough(&a) {
					return answers, nil
				}
				if known[a.claim] {
					missing--
				}
			} else if len(msg.Data) == 0 && msg.Header.Get("Status") == "503" {
				return nil, nil // nobody is there
			}
			if missing == 0 {
				limit = time.After(more)
			}
		case <-limit:
			return answers, nil
		case <-ctx.Done():
			return nil, l.unreachable(context.Cause(ctx))
		}
	}
}
