package board

import (
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rstream-dev/rstream/internal/longtest"
)

// A toldNode is a node as it tells a board of itself, over a network that loses, repeats and delays
// reports.
type toldNode struct {
	Node
	boot   int
	number uint64
	conns  map[uint64]*Connection
	sent   []*Report
}

func (n *toldNode) report(b *Board) *Report {
	n.number++
	r := &Report{Look: b.announced, Boot: fmt.Sprintf("%06d", n.boot), Number: n.number, From: n.Node}
	n.sent = append(n.sent, r)
	return r
}

// list reports all connections in parts.
func (n *toldNode) list(b *Board, parts int) (reports []*Report) {
	ids := slices.Sorted(maps.Keys(n.conns))
	for i := range parts {
		r := n.report(b)
		r.List = NextPart
		for _, id := range ids[i*len(ids)/parts : (i+1)*len(ids)/parts] {
			c := *n.conns[id]
			r.Opened = append(r.Opened, &c)
		}
		reports = append(reports, r)
	}
	reports[0].List, reports[parts-1].List = FirstPart, LastPart
	if parts == 1 {
		reports[0].List = WholeList
	}
	return reports
}

const someHead = "0000000000000.K7Q2M"

// TestReports sends reports of nodes that are lost, come twice or late, and are of processes that
// are gone. Once a node is heard again, the board has its connections, and each change of
// the board follows from the one before.
func TestReports(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	for round := range longtest.Size(50, 5000) {
		synctest.Test(t, func(t *testing.T) { runReports(t, rand.New(rand.NewPCG(seed, uint64(round)))) })
	}
}

func runReports(t *testing.T, r *rand.Rand) {
	var reg Registry
	b := New(&reg, Config{Node: func() Node { return Node{Name: "own"} }})
	defer b.Close()
	v := b.Look(Cursor{}, View{}, func() {})
	defer v.Close()
	page := copied{t: t}
	page.take(v.Next())
	nodes := []*toldNode{}
	for i := range 3 {
		nodes = append(nodes, &toldNode{Node: Node{Name: string(rune('b' + i)), Head: someHead}, conns: map[uint64]*Connection{}})
	}
	deliver := func(n *toldNode, reports ...*Report) (want Wanted) {
		for _, report := range reports {
			if r.IntN(4) == 0 {
				return "" // lost, and what follows on the same connection
			}
			want = sendReport(t, b, report)
		}
		return want
	}
	next := uint64(0)
	for range 200 {
		n := nodes[r.IntN(len(nodes))]
		switch k := r.IntN(20); {
		case k < 10: // changes
			report := n.report(b)
			for range r.IntN(4) {
				next++
				c := &Connection{ID: next, Topics: topics(t, "a")}
				n.conns[c.ID] = c
				sent := *c
				report.Opened = append(report.Opened, &sent)
			}
			for id, c := range n.conns {
				if r.IntN(5) == 0 {
					changed := *c
					changed.Events++
					n.conns[id] = &changed
					report.Lags = append(report.Lags, LagOf{id, changed.Lag})
				}
				if r.IntN(5) == 0 {
					delete(n.conns, id)
					report.Closed = append(report.Closed, id)
				}
			}
			if deliver(n, report) == WantList {
				deliver(n, n.list(b, 1+r.IntN(3))...)
			}
		case k < 14 && len(n.sent) > 0: // an old report, of a process that may be gone
			sendReport(t, b, n.sent[r.IntN(len(n.sent))])
		case k == 14:
			n.boot++
			n.number, n.conns = 0, map[uint64]*Connection{}
		case k == 15:
			time.Sleep(time.Duration(r.IntN(20)) * time.Second)
			synctest.Wait()
		case k == 16:
			deliver(n, n.list(b, 1+r.IntN(3))...)
		case k == 17:
			n.Version += "1"
		default:
			page.take(v.Next())
		}
	}
	// An old report may have brought back a process that was silent. It is silent again.
	time.Sleep(FreshFor)
	synctest.Wait()
	page.take(v.Next())
	if len(page.conns) > 0 || len(b.members) != 1 {
		t.Errorf("nodes that are silent have %d connections", len(page.conns))
	}
	want := map[uint64]*Connection{}
	for _, n := range nodes {
		if got := sendReport(t, b, n.report(b)); got != WantList {
			t.Errorf("a node that was gone is asked for %s", got)
		}
		for _, report := range n.list(b, 2) {
			if got := sendReport(t, b, report); got != WantChanges {
				t.Errorf("a list is answered with %s", got)
			}
		}
		maps.Copy(want, n.conns)
	}
	page.take(v.Next())
	if len(page.conns) != len(want) || b.count != len(want) {
		t.Fatalf("the page has %d connections and the board %d, want %d", len(page.conns), b.count, len(want))
	}
	for id, c := range want {
		if got := page.conns[id]; got == nil || got.Lag != c.Lag {
			t.Errorf("%d is %+v, want %+v", id, got, c)
		}
	}
}

// sendReport sends a copy of a report, as over a network.
func sendReport(t *testing.T, b *Board, r *Report) Wanted {
	t.Helper()
	sent := *r
	sent.Opened = nil
	for _, c := range r.Opened {
		once := *c
		sent.Opened = append(sent.Opened, &once)
	}
	if err := sent.Check(); err != nil {
		t.Fatal(err)
	}
	want, err := b.Report(&sent)
	var replaced *ReplacedError
	if err != nil && (!errors.As(err, &replaced) || replaced.Own) {
		t.Fatal(err)
	}
	return want
}

// TestLooks: nodes learn when looking begins and ends, once, however many look.
func TestLooks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var reg Registry
		b := New(&reg, Config{})
		defer b.Close()
		var woken atomic.Int32
		l := b.Wait("b", func() { woken.Add(1) })
		first := l.Look()
		var viewers []*Viewer
		for range 10 {
			viewers = append(viewers, b.Look(Cursor{}, View{}, func() {}))
		}
		look := l.Look()
		if woken.Load() != 1 || first.Looking || !look.Looking || look.Board != first.Board || look.Number != first.Number+1 {
			t.Errorf("woken %d times; %+v, then %+v", woken.Load(), first, look)
		}
		select {
		case <-viewers[0].Listed():
			t.Error("the list is complete without that of a node")
		default:
		}
		if want, err := b.Report(&Report{Look: look, Boot: "1", Number: 1, From: Node{Name: "b"}, List: WholeList}); want != WantChanges || err != nil {
			t.Errorf("%s, %v", want, err)
		}
		<-viewers[0].Listed()
		for _, v := range viewers {
			v.Close()
		}
		time.Sleep(9 * time.Second)
		b.Look(Cursor{}, View{}, func() {}).Close() // one that comes back
		time.Sleep(9 * time.Second)
		if woken.Load() != 1 {
			t.Errorf("woken %d times by a viewer that came back", woken.Load())
		}
		time.Sleep(2 * time.Second)
		synctest.Wait()
		if end := l.Look(); woken.Load() != 2 || end.Looking || end.Number != look.Number+1 {
			t.Errorf("woken %d times; %+v", woken.Load(), end)
		}
		if want, _ := b.Report(&Report{Look: look, Boot: "1", Number: 2, From: Node{Name: "b"}}); want != WantNothing {
			t.Errorf("a report after the end is answered with %s", want)
		}
		v := b.Look(Cursor{}, View{}, func() {}) // a node that leaves is not waited for
		defer v.Close()
		l.Close()
		<-v.Listed()
	})
}

// TestReportCheck refuses reports that would show what no node has.
func TestReportCheck(t *testing.T) {
	good := Report{Boot: "1", From: Node{Name: "b", Head: someHead, URL: "https://b.example"}}
	if err := good.Check(); err != nil {
		t.Error(err)
	}
	for name, change := range map[string]func(*Report){
		"no name":           func(r *Report) { r.From.Name = "" },
		"a long name":       func(r *Report) { r.From.Name = string(make([]byte, MaxNodeName+1)) },
		"a control":         func(r *Report) { r.From.Name = "a\x1bb" },
		"no UTF-8":          func(r *Report) { r.From.Name = "a\xff" },
		"no boot":           func(r *Report) { r.Boot = "" },
		"an unknown part":   func(r *Report) { r.List = "half" },
		"no head":           func(r *Report) { r.From.Head = "" },
		"a script as URL":   func(r *Report) { r.From.URL = "javascript:alert(1)" },
		"no host":           func(r *Report) { r.From.URL = "https:b" },
		"no topics":         func(r *Report) { r.Opened = []*Connection{{ID: 1}} },
		"a null connection": func(r *Report) { r.Opened = []*Connection{nil} },
	} {
		r := good
		if change(&r); r.Check() == nil {
			t.Errorf("%s is taken", name)
		}
	}
	// The board's own name is taken.
	var reg Registry
	b := New(&reg, Config{Node: func() Node { return Node{Name: "b"} }})
	defer b.Close()
	defer b.Look(Cursor{}, View{}, func() {}).Close()
	good.Look = b.announced
	var replaced *ReplacedError
	if _, err := b.Report(&good); !errors.As(err, &replaced) || !replaced.Own {
		t.Errorf("a report in the board's own name: %v", err)
	}
}
