package natslog

import (
	"bytes"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/nats-io/nats.go"

	"github.com/rstream-dev/rstream/cache"
	"github.com/rstream-dev/rstream/event"
)

const testLog = "0123456789ABCDEF"

// newEvents returns n events that follow a position.
func newEvents(after event.ID, n int) (evs []event.Event) {
	for i, d := range drafts(n, "x") {
		evs = append(evs, event.New(after+event.ID(i+1), 1_700_000_000_000_000, d, d.Hash()))
	}
	return evs
}

// Pages have all events in order, each follows the one before, and none is larger than it may
// be, except one with a single line.
func TestPaginate(t *testing.T) {
	t.Parallel()
	evs := newEvents(7, 3000)
	for _, most := range []int{100, 1000, 1 << 20} {
		messages, err := paginate("s", testLog, event.Point{ID: 7}, evs, pageBytes, most)
		if len(evs) > maxPages && most == 100 {
			if !errors.Is(err, errTooManyPages) {
				t.Errorf("pages of %d bytes: %v", most, err)
			}
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		at, n := event.Point{ID: 7}, 0
		for i := range messages {
			msg := messages[i].encode()
			m, err := decode(msg.Subject, msg.Header, msg.Data, 1)
			if err == nil {
				err = m.parseEvents(1)
			}
			if err != nil {
				t.Fatal(err)
			}
			if m.after != at || len(m.payload) > most && len(m.events) > 1 {
				t.Errorf("page %d follows %s and has %d bytes", i, m.after.ID, len(m.payload))
			}
			at, n = m.end(), n+len(m.events)
		}
		if n != len(evs) || at.ID != evs[n-1].ID {
			t.Errorf("pages of %d bytes have %d events", most, n)
		}
	}
}

// A message that was changed is not taken.
func TestDamagedMessage(t *testing.T) {
	t.Parallel()
	messages, err := paginate("rstream.s.log.events", testLog, event.Point{ID: 7, Mark: 12345}, newEvents(7, 3), pageBytes, 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	msg := messages[0].encode()
	if _, err := decode(msg.Subject, msg.Header, msg.Data, 1); err != nil {
		t.Fatal(err)
	}
	for i := range msg.Data {
		damaged := slices.Clone(msg.Data)
		damaged[i] ^= 4
		if _, err := decode(msg.Subject, msg.Header, damaged, 1); err == nil {
			t.Fatalf("byte %d was changed, and the message taken", i)
		}
	}
	for name, values := range msg.Header {
		h := nats.Header{}
		for n, v := range msg.Header {
			h[n] = v
		}
		h[name] = []string{strings.Replace(values[0], values[0][:1], "9", 1)}
		if _, err := decode(msg.Subject, h, msg.Data, 1); err == nil {
			t.Errorf("%s is %s, and the message was taken", name, h[name])
		}
	}
	if _, err := decode("rstream.s.log.claim", msg.Header, msg.Data, 1); err == nil {
		t.Error("a page was taken on the subject of claims")
	}
}

// Whatever a message of the stream is, it is refused or read, and read the same once written
// again.
func FuzzMessage(f *testing.F) {
	messages, err := paginate("s", testLog, event.Point{ID: 7}, newEvents(7, 2), pageBytes, 1<<20)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(messages[0].after.Cursor(testLog).String(), messages[0].payload)
	f.Add("0000000000000", []byte("{}"))
	f.Fuzz(func(t *testing.T, after string, payload []byte) {
		at, err := event.ParseCursor(after)
		if err != nil || !at.Of(testLog) {
			return
		}
		m := message{subject: "s", log: testLog, after: at.Point(), payload: payload}
		msg := m.encode()
		got, err := decode(msg.Subject, msg.Header, msg.Data, 1)
		if err != nil || got.after != m.after {
			t.Fatalf("%s: %s, %v", after, got.after.ID, err)
		}
		if got.parseEvents(1) != nil {
			return
		}
		var lines [][]byte
		for i := range got.events {
			lines = append(lines, got.events[i].Line())
		}
		if want := bytes.TrimSuffix(payload, []byte{'\n'}); !bytes.Equal(bytes.Join(lines, []byte{'\n'}), want) {
			t.Errorf("read %s, want %s", bytes.Join(lines, []byte{'\n'}), want)
		}
		if _, err := got.parseBound(1); err == nil {
			t.Error("events were read as a horizon")
		}
	})
}

// Drafts and receipts are the same after the way to the committer and back.
func TestForwardedForms(t *testing.T) {
	t.Parallel()
	list := append(drafts(5, "x"), event.Draft{User: "bob", Path: "a b", Type: event.Del, Key: "k"}, event.Draft{User: "bob", Path: "p", Type: event.Put, Value: []byte(`"ü"`)})
	var lines []byte
	a := cache.Assignment{Drafts: list}
	var receipts []event.Receipt
	for i := range list {
		lines = append(list[i].AppendJSON(lines), '\n')
		h := list[i].Hash()
		a.Hashes = append(a.Hashes, h)
		r := event.Receipt{Event: event.New(event.ID(i+1), event.Time(1e15+i), list[i], h), Duplicate: i%2 == 0}
		if i == 4 {
			r = event.Receipt{Event: event.Event{ID: 5, Draft: list[i], Hash: h}, Duplicate: true, Dropped: true}
		}
		receipts = append(receipts, r)
	}
	_, hashes, err := parseDrafts(lines)
	if err != nil || !slices.Equal(hashes, a.Hashes) {
		t.Errorf("the drafts are others: %v", err)
	}
	b := appendReceipts(nil, receipts)
	got, err := parseReceipts(b, &a)
	if err != nil {
		t.Fatal(err)
	}
	for i := range got {
		if got[i].ID != receipts[i].ID || got[i].Time != receipts[i].Time || got[i].Duplicate != receipts[i].Duplicate || got[i].Dropped != receipts[i].Dropped || got[i].Hash != receipts[i].Hash {
			t.Errorf("receipt %d is %+v, want %+v", i, got[i], receipts[i])
		}
	}
	for _, bad := range [][]byte{nil, b[1:], append(slices.Clone(b), 0), make([]byte, len(b))} {
		if _, err := parseReceipts(bad, &a); err == nil {
			t.Errorf("%d bytes were taken as receipts", len(bad))
		}
	}
	if _, _, err := parseDrafts([]byte("{}\n")); err == nil {
		t.Error("an empty object was taken as a draft")
	}
}
