package natslog

import (
	"bytes"
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/internal/mirror"
	"github.com/rstream-dev/rstream/internal/wire"
)

// publishAs publishes what a node of another version might write, at the end of the log of n,
// and returns its sequence.
func publishAs(t *testing.T, n *node, part string, payload []byte, change func(*nats.Msg)) uint64 {
	t.Helper()
	m := message{subject: n.log.subject(part), log: n.db.Log(), after: n.db.HeadPoint(), payload: payload}
	msg := m.encode()
	change(msg)
	ack, err := n.log.js.PublishMsg(t.Context(), msg)
	if err != nil {
		t.Fatal(err)
	}
	return ack.Sequence
}

// page returns the payload of a page with one event that follows the log of n.
func page(n *node, key string) []byte {
	d := draft("p", key)
	ev := event.New(n.db.Head()+1, event.TimeOf(time.Now()), d, d.Hash())
	return ev.Line()
}

// A node stops before a message that a newer version has written, whatever comes after it: it
// says so, takes nothing more, and has what it had.
func TestNewerMessage(t *testing.T) {
	t.Parallel()
	url := sharedURL(t)
	newer := func(msg *nats.Msg) { msg.Header.Set(headerFormat, "2") }
	same := func(*nats.Msg) {}
	for name, c := range map[string]struct {
		part    string
		payload func(n *node) []byte
		change  func(*nats.Msg)
		text    string
	}{
		"page":    {partEvents, func(n *node) []byte { return page(n, "new") }, newer, " is of format 2, and this node knows format 1: this node needs a newer version of rstream"},
		"claim":   {partClaim, func(*node) []byte { return []byte(`{"node":"n","boot":"B"}`) }, newer, " is of format 2, "},
		"unknown": {"log.else", func(*node) []byte { return []byte("?") }, same, ".log.else, which this node does not know: this node needs a newer version"},
		"any":     {partEvents, func(*node) []byte { return []byte("?") }, func(msg *nats.Msg) { msg.Header = nats.Header{headerFormat: {"10"}} }, " is of format 10, "},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			a := startNode(t, newConfig(t, url, "a"), nil)
			a.mustAppend(drafts(5, "x")...)
			b := startNode(t, newConfig(t, url, "b"), nil)
			late := startNode(t, newConfig(t, url, "late"), nil)
			awaitHead(t, 5, b, late)
			before := a.lines()
			late.stop()
			seq := publishAs(t, a, c.part, c.payload(a), c.change)
			check := func(nodes ...*node) {
				t.Helper()
				for _, n := range nodes {
					var conflict *mirror.ConflictError
					await(t, n.cfg.Node+" stops", func() bool { return errors.As(n.mirror.Ready(), &conflict) })
					if conflict.Reason != wire.ReasonVersion || !strings.Contains(conflict.Detail, c.text) {
						t.Errorf("%s stopped with %q: %v", n.cfg.Node, conflict.Reason, conflict)
					}
					if _, err := n.append(draft("p", "more")); err == nil || !strings.Contains(err.Error(), c.text) {
						t.Errorf("%s appends: %v", n.cfg.Node, err)
					}
					if n.lines() != before {
						t.Errorf("%s has other events", n.cfg.Node)
					}
				}
			}
			check(a, b)
			late.start()
			check(late)
			last := publishAs(t, a, partEvents, page(a, "after"), same) // it would fit if the message before were skipped
			if last != seq+1 {
				t.Fatalf("message %d follows %d: somebody has written after a message that nobody knows", last, seq)
			}
			a.stop()
			a.start()
			check(a, b, late)
			if _, err := a.log.Describe(t.Context(), mirror.Position{}); err != nil {
				t.Errorf("the newest message is of this version, and Describe returns %v", err)
			}
		})
	}
}

// A stream of a newer format is refused, whether the node notices at its start or while it runs.
func TestNewerStream(t *testing.T) {
	t.Parallel()
	url := sharedURL(t)
	a := startNode(t, newConfig(t, url, "a"), nil)
	a.mustAppend(drafts(5, "x")...)
	stream, err := a.log.js.Stream(t.Context(), a.cfg.Stream)
	if err != nil {
		t.Fatal(err)
	}
	cfg := stream.CachedInfo().Config
	cfg.Metadata[metaFormat] = "2"
	if _, err := a.log.js.UpdateStream(t.Context(), cfg); err != nil {
		t.Fatal(err)
	}
	check := func() {
		t.Helper()
		var conflict *mirror.ConflictError
		await(t, "the stream is refused", func() bool { return errors.As(a.mirror.Ready(), &conflict) })
		if want := "stream " + a.cfg.Stream + " is of format 2, and this node knows format 1: "; conflict.Reason != wire.ReasonVersion || !strings.Contains(conflict.Detail, want) {
			t.Errorf("the stream was refused with %q: %v", conflict.Reason, conflict)
		}
	}
	check()
	a.stop()
	a.start()
	check()
	cfg.Metadata[metaFormat] = format
	if _, err := a.log.js.UpdateStream(t.Context(), cfg); err != nil {
		t.Fatal(err)
	}
	a.stop()
	a.start()
	a.mustAppend(draft("p", "more"))
}

// What a later version adds to messages without a new format is passed over, and members of
// events are kept.
func TestUnknownMembers(t *testing.T) {
	t.Parallel()
	url := sharedURL(t)
	a := startNode(t, newConfig(t, url, "a"), nil)
	a.mustAppend(drafts(5, "x")...)
	b := startNode(t, newConfig(t, url, "b"), nil)
	awaitHead(t, 5, b)
	more := func(msg *nats.Msg) { msg.Header.Set("Rstream-More", "1") }
	line := bytes.Replace(page(a, "extra"), []byte(`,"value":`), []byte(`,"more":{"a":[1]},"value":`), 1)
	publishAs(t, a, partEvents, line, more)
	awaitHead(t, 6, a, b)
	publishAs(t, a, partBound, []byte(`{"more":1,"horizon":"`+event.CursorOf(event.Beginning, a.db.Log()).String()+`"}`), more)
	seq := publishAs(t, a, partClaim, []byte(`{"node":"other","boot":"OTHER","more":true}`), more)
	for _, n := range []*node{a, b} {
		await(t, "the claim is read", func() bool { return n.log.Status().Seq >= seq && n.log.Status().Claim >= seq })
		if !strings.Contains(n.lines(), `"more":{"a":[1]}`) {
			t.Errorf("%s has lost members of an event", n.cfg.Node)
		}
	}
	b.mustAppend(draft("p", "more")) // once nobody has heard of the other node
	awaitHead(t, 7, a, b)
	checkEqual(t, 7, a, b)
}

// A committer refuses an append that a node of another version has forwarded, in a form that it
// does not know.
func TestForwardedFormat(t *testing.T) {
	t.Parallel()
	a := startNode(t, newConfig(t, sharedURL(t), "a"), nil)
	a.mustAppend(draft("p", "first"))
	d := draft("p", "second")
	for _, v := range []string{format, "2", ""} {
		msg := divide(a.log.subject("append."+a.log.boot), append(d.AppendJSON(nil), '\n'))[0]
		msg.Header.Set(headerFormat, v)
		msg.Header.Set(headerLog, a.db.Log())
		answer, err := a.log.conn.RequestMsgWithContext(t.Context(), msg)
		if err != nil {
			t.Fatal(err)
		}
		status := answer.Header.Get(headerStatus)
		if v == format && status != "" || v != format && (status != "503" || !strings.Contains(string(answer.Data), "is of another version, and does not know the format")) {
			t.Errorf("format %q: %q %s", v, status, answer.Data)
		}
	}
	awaitHead(t, 2, a) // the answer does not wait for the file
	checkEqual(t, 2, a)
}

// A program that knows a newer format must go on with the one of the stream, so these stay as
// they are: what is written now must be read by all later versions.
func TestFormatIsStable(t *testing.T) {
	t.Parallel()
	m := message{subject: "rstream.s." + partEvents, log: testLog, after: event.Point{ID: 7, Mark: 12345}, payload: []byte("{}")}
	msg := m.encode()
	var lines []string
	for name, values := range msg.Header {
		lines = append(lines, name+": "+strings.Join(values, ", "))
	}
	slices.Sort(lines)
	want := "Rstream-After: 0000000000007.01234.000C1S, Rstream-Format: 1, Rstream-Log: 0123456789ABCDEF, Rstream-Sum: c4f233c0"
	if got := strings.Join(lines, ", "); got != want {
		t.Errorf("a message has the headers %s, want %s", got, want)
	}
	for want, v := range map[string]any{
		`{"node":"n","boot":"B"}`:                                 claim{"n", "B"},
		`{"horizon":"0000000000400.01234"}`:                       bound{event.CursorOf(event.BlockSize, testLog)},
		`{"node":"n","boot":"B","log":"` + testLog + `","seq":7}`: presence{claim{"n", "B"}, testLog, 7},
	} {
		if got, err := json.Marshal(v); err != nil || string(got) != want {
			t.Errorf("%T is written as %s, want %s (%v)", v, got, want, err)
		}
	}
}
