package natslog

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/rstream-dev/rstream/cache"
	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/internal/mirror"
)

// Counters count what this node has done since Connect.
type Counters struct {
	Batches   int64 // batches that were stored in the stream
	Messages  int64 // their messages
	Events    int64 // their events
	Bytes     int64 // of their payloads, as they are stored
	Conflicts int64 // batches that were not stored since another node had committed
	Repeats   int64 // batches that were sent again since no answer came
	Unknown   int64 // batches whose outcome is not known
	Claims    int64 // claims of this node that were stored
	Forwarded int64 // appends that were passed on to the committer

	ReceivedMessages, ReceivedBytes int64 // from NATS servers, of all kinds
	SentBytes                       int64 // to them
}

// A Status says how the cluster is, as this node sees it.
type Status struct {
	Log         string
	Stream      string
	Node        string   // this node
	Committer   string   // the node that commits, "" if none is known
	IsCommitter bool     // it is this node
	Claim       uint64   // the message with which it became the committer
	Following   bool     // this node follows the stream
	Seq         uint64   // the last message of the stream that is in the file
	Last        uint64   // the last message of the stream, as far as is known
	Head        event.ID // of the file
	Horizon     event.ID // of the log
	Server      string   // the NATS server of the connection, "" if there is none
	Version     string   // its version
	Counters    Counters
}

// Status returns how the cluster is. It asks nobody.
func (l *Log) Status() Status {
	holder, seq := l.lease.current()
	s := Status{Stream: l.cfg.Stream, Node: l.cfg.Node, Committer: holder.Node, IsCommitter: l.lease.isMine(), Claim: seq, Following: l.lease.isFollowing()}
	if l.conn.IsConnected() {
		s.Server, s.Version = l.conn.ConnectedServerName(), l.conn.ConnectedServerVersion()
	}
	traffic := l.conn.Stats()
	l.mu.Lock()
	defer l.mu.Unlock()
	s.Log, s.Seq, s.Last, s.Head, s.Horizon, s.Counters = l.log, l.applied.seq, l.applied.last, l.applied.at.ID, l.horizon.ID, l.counters
	s.Counters.ReceivedMessages, s.Counters.ReceivedBytes, s.Counters.SentBytes = int64(traffic.InMsgs), int64(traffic.InBytes), int64(traffic.OutBytes)
	return s
}

// A Replica is one copy of the stream.
type Replica struct {
	Server  string
	Leader  bool
	Current bool   // it has everything
	Offline bool   // it acknowledges nothing: NATS says so, or its leader has heard nothing of it for a while
	Lag     uint64 // operations that it lacks
}

// offlineTime is how long a leader has heard nothing of a replica that is offline: replicas answer
// each second. Of a server that was killed, NATS says so only after some minutes.
const offlineTime = 5 * time.Second

// A StreamStatus says how the stream is.
type StreamStatus struct {
	Log         string
	Begin       event.ID // where the stream begins
	Created     time.Time
	Messages    uint64
	Bytes       uint64
	First, Last uint64
	Replicas    []Replica // none on a server that is not part of a NATS cluster
}

// Stream asks the server how the stream is.
func (l *Log) Stream(ctx context.Context) (s StreamStatus, err error) {
	ctx, done := l.whileAllowed(ctx, "$JS.API.STREAM.")
	defer done()
	info, err := l.info(ctx)
	if err != nil {
		return s, refusalOr(ctx, err)
	}
	d, err := describeMetadata(info.Config.Metadata)
	if err != nil {
		return s, err
	}
	s = StreamStatus{Log: d.Log, Begin: d.Horizon.ID, Created: info.Created, Messages: info.State.Msgs, Bytes: info.State.Bytes,
		First: info.State.FirstSeq, Last: info.State.LastSeq}
	if c := info.Cluster; c != nil {
		if c.Leader != "" {
			s.Replicas = append(s.Replicas, Replica{Server: c.Leader, Leader: true, Current: true})
		}
		for _, r := range c.Replicas {
			s.Replicas = append(s.Replicas, Replica{Server: r.Name, Current: r.Current, Offline: r.Offline || r.Active > offlineTime, Lag: r.Lag})
		}
	}
	return s, nil
}

// A ServerSync says when a NATS server syncs its files.
type ServerSync struct {
	Server   string
	Always   bool          // before it confirms a message
	Interval time.Duration // otherwise
}

// CheckDurable asks the servers of the NATS cluster when they sync, through the system account
// of Config. It waits some seconds for those in expected, and shortly for others; only those that
// answer in time are in the result. Servers without JetStream are not: they acknowledge nothing.
// Without that account, clients cannot know.
func (l *Log) CheckDurable(ctx context.Context, expected []string) (servers []ServerSync, err error) {
	if l.cfg.SystemURL == "" && l.cfg.SystemCredentials == "" {
		return nil, setupErrorf("sync_interval can be read only with the system account")
	}
	options, err := l.cfg.options(l.cfg.SystemCredentials)
	if err != nil {
		return nil, err
	}
	system := l.cfg
	system.URL = cmp.Or(l.cfg.SystemURL, l.cfg.URL)
	denied := make(chan error, 1)
	options = append(options, nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) {
		select {
		case denied <- err:
		default: // the first one ends it
		}
	}))
	conn, err := connect(ctx, system.URL, options)
	if err != nil {
		return nil, system.systemError(err)
	}
	defer conn.Close()
	inbox := conn.NewInbox()
	answers := make(chan *nats.Msg, 1024)
	sub, err := conn.ChanSubscribe(inbox, answers)
	if err != nil {
		return nil, system.systemError(err)
	}
	defer func() { _ = sub.Unsubscribe() }() // the connection is closed anyway
	if err := conn.PublishRequest("$SYS.REQ.SERVER.PING.VARZ", inbox, nil); err != nil {
		return nil, system.systemError(err)
	}
	missing := map[string]bool{}
	for _, name := range expected {
		missing[name] = true
	}
	routers := 0
	limit := time.After(l.cfg.within(requestWait))
	for {
		select {
		case msg := <-answers:
			s, stores, err := parseVarz(msg)
			if err != nil {
				return nil, err
			}
			if stores {
				servers = append(servers, s)
			} else {
				routers++
			}
			if delete(missing, s.Server); len(missing) == 0 {
				limit = time.After(500 * time.Millisecond) // nobody says how many there are
			}
		case err := <-denied:
			return nil, system.systemError(err)
		case <-limit:
			switch {
			case len(servers) > 0:
				return servers, nil
			case routers > 0:
				return nil, setupErrorf("none of the NATS servers that answer has JetStream")
			}
			return nil, setupErrorf("no NATS server answers: is it a user of the system account?")
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// systemError returns the error of a connection of the user of the system account.
func (c *Config) systemError(err error) error {
	refused := refusedBy(c.shown(), err)
	if refused == nil && isRefusal(err) {
		refused = &RefusedError{URL: c.shown(), Err: err}
	}
	if refused == nil {
		return &mirror.UnreachableError{URL: c.shown(), Unsent: true, Err: err}
	}
	refused.System = true
	return refused
}

// parseVarz returns what a server says of itself. stores says that it has JetStream.
func parseVarz(msg *nats.Msg) (s ServerSync, stores bool, err error) {
	var answer struct {
		Server struct {
			Name string `json:"name"`
		} `json:"server"`
		Data struct {
			JetStream struct {
				Config *struct {
					SyncAlways   bool          `json:"sync_always"`
					SyncInterval time.Duration `json:"sync_interval"`
				} `json:"config"`
			} `json:"jetstream"`
		} `json:"data"`
	}
	if err := json.Unmarshal(msg.Data, &answer); err != nil {
		return s, false, fmt.Errorf("read what a NATS server says of itself: %w", err)
	}
	s.Server = answer.Server.Name
	c := answer.Data.JetStream.Config
	if c != nil {
		s.Always, s.Interval = c.SyncAlways, c.SyncInterval
	}
	return s, c != nil, nil
}

// Retention adds to r that the cluster as a whole drops history and expires values: the
// committer decides, with its own r, and says it in the stream.
func (l *Log) Retention(r cache.Retention) cache.Retention {
	r.Horizon = func() event.ID {
		l.mu.Lock()
		defer l.mu.Unlock()
		return min(l.horizon.ID, l.applied.at.ID)
	}
	r.Decider = decider{l}
	return r
}

// A decider decides about retention when this node is the committer.
type decider struct{ l *Log }

// Decides implements cache.Decider.
func (d decider) Decides() bool { return d.l.lease.isMine() }

// MoveHorizon implements cache.Decider.
func (d decider) MoveHorizon(ctx context.Context, to event.ID) error {
	return d.l.committer.submit(ctx, &request{bound: to})
}

// Expire implements cache.Decider.
func (d decider) Expire(ctx context.Context, old []cache.Expiry) error {
	return d.l.committer.submit(ctx, &request{Assignment: cache.Assignment{Expired: old}})
}

func (l *Log) count(add func(c *Counters)) {
	l.mu.Lock()
	defer l.mu.Unlock()
	add(&l.counters)
}
