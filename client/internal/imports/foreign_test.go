package imports

import (
	"bytes"
	"context"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/reconcile"
	"github.com/rstream-dev/rstream/window"
)

const examplesDir = "../../../testdata/wire/"

func readExample(t *testing.T, name string) string {
	t.Helper()
	b, err := os.ReadFile(examplesDir + name)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// An examplePeer answers as an example does.
type examplePeer struct{ sent, answer string }

func (p *examplePeer) Ask(_ context.Context, request []byte) ([]byte, error) {
	p.sent += string(request)
	return []byte(p.answer), nil
}

type exampleServer struct {
	Server
	peer *examplePeer
}

func (s exampleServer) Peer(event.Topic) reconcile.Peer { return s.peer }

// The request for the ids of foreign events, and its response, match the specification's
// example.
func TestResolveByExample(t *testing.T) {
	request, response, _ := strings.Cut(readExample(t, "bloom-stubs.http"), "\n--- response\n")
	_, asked, _ := strings.Cut(request, "\n\n")
	_, answer, _ := strings.Cut(response, "\n\n")
	var evs []event.Event
	for line := range strings.Lines(readExample(t, "log.ndjson")) {
		ev, err := event.ParseLine(bytes.TrimSpace([]byte(line)))
		if err != nil {
			t.Fatal(err)
		}
		evs = append(evs, ev)
	}
	topic, err := event.ParseTopic("alice/posts")
	if err != nil {
		t.Fatal(err)
	}
	peer := &examplePeer{answer: answer}
	m := Importer{Server: exampleServer{peer: peer}}
	m.Reconcile.Salt = func() (s reconcile.Salt) { copy(s[:], "a salt of 16 byt"); return s }
	l := &localSet{}
	l.foreign.hashes = []event.Hash{evs[5].Hash, evs[0].Hash}
	if err := m.resolveByStubs(t.Context(), topic, window.Spans{{From: 0, To: 6}}, 4, byAll, l); err != nil {
		t.Fatal(err)
	}
	want := []reconcile.Item{{ID: 1, Time: evs[0].Time, Hash: evs[0].Hash}, {ID: 6, Time: evs[5].Time, Hash: evs[5].Hash}}
	if !slices.Equal(l.candidates, want) || !slices.Equal(l.foreign.ids, []event.ID{1, 2, 4, 6}) {
		t.Errorf("%+v, want %+v", l, want)
	}
	if peer.sent != asked {
		t.Errorf("sent %x, want %x", peer.sent, asked)
	}
}

// For any numbers of known and missing events, the method picked transfers the fewest
// bytes.
func TestPickMethod(t *testing.T) {
	for _, tt := range []struct {
		known, lacking uint64
		want           lookupMethod
	}{
		{1000, 10, byAll}, {1000, 2000, byAll}, {1000, 2001, byFilter}, {1000, 1_000_000, byFilter}, {1000, 1_000_001, byHash}, {1, 1001, byHash},
	} {
		if got := pickMethod(tt.known, tt.lacking); got != tt.want {
			t.Errorf("pickMethod(%d, %d) = %d, want %d", tt.known, tt.lacking, got, tt.want)
		}
	}
}
