package natslog

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/internal/mirror"
	"github.com/rstream-dev/rstream/internal/wire"
)

// A stream that is not the one of the file is refused before one event is taken, and takes no
// appends, whether the node notices at its start or while it runs.
func TestOtherStream(t *testing.T) {
	t.Parallel()
	url := sharedURL(t)
	same := func(cfg *jetstream.StreamConfig) {}
	for name, c := range map[string]struct {
		change func(*jetstream.StreamConfig) // of the new stream
		copied int                           // messages of the old stream that it has
		more   int                           // events that another node appends
		reason string
	}{
		"a new log":         {func(cfg *jetstream.StreamConfig) { cfg.Metadata[metaLog] = "0123456789ABCDEF" }, 0, 20, wire.ReasonLog},
		"created again":     {same, 0, 0, wire.ReasonAhead},
		"another history":   {same, 0, 20, wire.ReasonMark},
		"restored":          {same, 3, 0, wire.ReasonAhead},
		"restored, went on": {same, 3, 20, wire.ReasonMark},
		"purged":            {func(cfg *jetstream.StreamConfig) { cfg.FirstSeq = 9 }, 0, 0, wire.ReasonMark},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			a := startNode(t, newConfig(t, url, "a"), nil)
			for _, d := range drafts(10, "x") {
				a.mustAppend(d)
			}
			idle := startNode(t, newConfig(t, url, "idle"), nil) // it runs on
			awaitHead(t, 10, idle)
			before := a.lines()
			a.stop()
			await(t, "the other node commits", idle.log.lease.isMine)
			replaceStream(t, a, c.change, c.copied)
			if c.more > 0 {
				cfg := newConfig(t, url, "other")
				// As if the idle node had not been heard.
				startNode(t, cfg, func(l *Log) { l.forced = true }).mustAppend(drafts(c.more, "y")...)
			}
			a.start()
			for _, n := range []*node{a, idle} {
				var conflict *mirror.ConflictError
				await(t, n.cfg.Node+" refuses the stream", func() bool { return errors.As(n.mirror.Ready(), &conflict) })
				if conflict.Reason != c.reason && n == a {
					t.Errorf("the stream was refused for %q: %v", conflict.Reason, conflict)
				}
				if _, err := n.append(draft("p", "more")); err == nil {
					t.Error("the stream took an append")
				}
				if n.lines() != before {
					t.Error("events of another history were taken")
				}
			}
		})
	}
}

// A node to which a restored stream looks whole takes no appends while another one has more, and goes
// on when nobody has.
func TestRestoredStreamWaits(t *testing.T) {
	t.Parallel()
	url := sharedURL(t)
	ahead := startNode(t, newConfig(t, url, "ahead"), nil)
	for _, d := range drafts(10, "x") {
		ahead.mustAppend(d)
	}
	replaceStream(t, ahead, func(*jetstream.StreamConfig) {}, 3)
	await(t, "the node with more refuses the stream", func() bool { return ahead.mirror.Ready() != nil })
	cfg := newConfig(t, url, "fresh")
	cfg.AppendWait, cfg.LeaseTime = time.Second, 5*time.Second // others have time to answer
	fresh := startNode(t, cfg, nil)
	var why *aheadError
	await(t, "the new node knows why it does not commit", func() bool { return errors.As(fresh.log.lease.whyUnclaimed(), &why) })
	if want := (aheadError{"ahead", 10, fresh.db.Head()}); *why != want || why.ends == 0 || fresh.log.lease.isMine() {
		t.Errorf("the new node does not commit because %v, want %v", why, &want)
	}
	if _, err := fresh.append(draft("p", "y")); err == nil || !strings.Contains(err.Error(), why.Error()) {
		t.Errorf("an append is answered with %v, want %q", err, why)
	}
	ahead.stop()
	await(t, "the new node commits", fresh.log.lease.isMine)
	fresh.mustAppend(draft("p", "y"))
}

// replaceStream deletes the stream and creates it again, with its first messages.
func replaceStream(t *testing.T, n *node, change func(*jetstream.StreamConfig), copied int) {
	t.Helper()
	conn, err := nats.Connect(n.cfg.URL)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	js, err := jetstream.New(conn)
	if err != nil {
		t.Fatal(err)
	}
	stream, err := js.Stream(t.Context(), n.cfg.Stream)
	if err != nil {
		t.Fatal(err)
	}
	cfg := stream.CachedInfo().Config
	var messages []*nats.Msg
	for seq := range copied {
		raw, err := stream.GetMsg(t.Context(), uint64(seq+1))
		if err != nil {
			t.Fatal(err)
		}
		msg := nats.NewMsg(raw.Subject)
		msg.Data = raw.Data
		for name, values := range raw.Header {
			if strings.HasPrefix(name, "Rstream-") {
				msg.Header[name] = values
			}
		}
		messages = append(messages, msg)
	}
	if err := js.DeleteStream(t.Context(), cfg.Name); err != nil {
		t.Fatal(err)
	}
	change(&cfg)
	if _, err := js.CreateStream(t.Context(), cfg); err != nil {
		t.Fatal(err)
	}
	for _, msg := range messages {
		if _, err := js.PublishMsg(t.Context(), msg); err != nil {
			t.Fatal(err)
		}
	}
}

// A server or a stream that cannot keep the log is refused.
func TestSetup(t *testing.T) {
	t.Parallel()
	url := sharedURL(t)
	for name, change := range map[string]func(*jetstream.StreamConfig){
		"set deny_delete":     func(cfg *jetstream.StreamConfig) { cfg.DenyPurge = false },
		"no atomic batches":   func(cfg *jetstream.StreamConfig) { cfg.AllowAtomicPublish = false },
		"no limits":           func(cfg *jetstream.StreamConfig) { cfg.MaxMsgsPerSubject = 5 },
		"not stored in files": func(cfg *jetstream.StreamConfig) { cfg.Storage = jetstream.MemoryStorage },
		"discard":             func(cfg *jetstream.StreamConfig) { cfg.MaxBytes, cfg.Discard = 1<<30, jetstream.DiscardOld },
		"max_msg_size":        func(cfg *jetstream.StreamConfig) { cfg.MaxMsgSize = 1 << 20 },
		"has the subjects":    func(cfg *jetstream.StreamConfig) { cfg.Subjects = []string{"a", "b"} },
		"another program":     func(cfg *jetstream.StreamConfig) { cfg.Metadata = nil },
		"of format":           func(cfg *jetstream.StreamConfig) { cfg.Metadata[metaFormat] = "a" },
	} {
		t.Run(name, func(t *testing.T) {
			l, err := Connect(t.Context(), newConfig(t, url, "a"))
			if err != nil {
				t.Fatal(err)
			}
			defer l.Close()
			cfg, err := l.streamConfig(&Creation{})
			if err != nil {
				t.Fatal(err)
			}
			change(&cfg)
			if cfg.Subjects[0] == "a" {
				cfg.Subjects[0] = t.Name()
			}
			if _, err := l.js.CreateStream(t.Context(), cfg); err != nil {
				t.Fatal(err)
			}
			defer func() { _ = l.js.DeleteStream(t.Context(), cfg.Name) }()
			_, err = l.Describe(t.Context(), mirror.Position{})
			var setup *SetupError
			if !errors.As(err, &setup) || !strings.Contains(err.Error(), name) {
				t.Errorf("the stream got %v", err)
			}
		})
	}
	l, err := Connect(t.Context(), newConfig(t, url, "a"))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if _, err := l.Describe(t.Context(), mirror.Position{}); !errors.Is(err, ErrNoStream) {
		t.Errorf("without a stream: %v", err)
	}
	d, created, err := l.Create(t.Context(), Creation{Log: "0123456789ABCDEF", Parent: "FEDCBA9876543210", ParentHead: 7, Begin: event.Point{ID: 7}})
	if err != nil || !created || d.Log != "0123456789ABCDEF" || d.Parent != "FEDCBA9876543210" || d.ParentHead != 7 || d.Head.ID != 7 {
		t.Errorf("Create: %+v, %v, %v", d, created, err)
	}
	if s, err := l.Stream(t.Context()); err != nil || s.Begin != 7 {
		t.Errorf("the stream is %+v, %v", s, err)
	}
	if again, created, err := l.Create(t.Context(), Creation{}); err != nil || created || again.Log != d.Log {
		t.Errorf("Create again: %+v, %v, %v", again, created, err)
	}
	var begins *BeginError
	if _, err := l.Describe(t.Context(), mirror.Position{Log: d.Log}); !errors.As(err, &begins) || begins.Begin != 7 {
		t.Errorf("a node without a seed: %v", err)
	}
}
