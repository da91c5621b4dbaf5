package hub

import (
	"slices"
	"strings"

	"github.com/rstream-dev/rstream/event"
)

// A node stands for the path spelled by the labels down to it. The empty path is
// the root. Among a million nodes every address followed is a wait for memory, and
// most have one ref, so the first lives in the node.
type node struct {
	label string
	kids  []edge // by first byte
	subs  []ref  // the topics that name this path, by kind
	ends  [kinds]int32
	ref   [1]ref
}

// An edge leads to the kid whose label begins with first, which is repeated here so
// that a search touches no kid but the right one.
type edge struct {
	first byte
	kid   *node
}

// match appends to hits the topics that hold path, of which n's own has been cut off.
func (n *node) match(hits []ref, path string) []ref {
	for {
		if path == "" {
			return append(hits, n.subs...)
		}
		end := n.ends[event.Prefix]
		if path[0] == '/' {
			end = n.ends[event.Subtree]
		}
		hits = append(hits, n.subs[:end]...)
		i, ok := n.search(path[0])
		if !ok {
			return hits
		}
		n = n.kids[i].kid
		if !strings.HasPrefix(path, n.label) {
			return hits
		}
		path = path[len(n.label):]
	}
}

// search returns where the edge for first is, or would be.
func (n *node) search(first byte) (at int, ok bool) {
	lo, hi := 0, len(n.kids)
	for lo < hi {
		if mid := (lo + hi) / 2; n.kids[mid].first < first {
			lo = mid + 1
		} else {
			hi = mid
		}
	}
	return lo, lo < len(n.kids) && n.kids[lo].first == first
}

// grow returns the node of path, which it makes if there is none.
func (n *node) grow(path string) *node {
	for path != "" {
		i, ok := n.search(path[0])
		if !ok {
			leaf := &node{label: path}
			n.link(i, leaf)
			return leaf
		}
		kid := n.kids[i].kid
		same := common(kid.label, path)
		if same < len(kid.label) {
			// The old node stays the node of its own path.
			upper := &node{label: kid.label[:same]}
			kid.label = kid.label[same:]
			upper.link(0, kid)
			n.kids[i].kid = upper
			kid = upper
		}
		n, path = kid, path[same:]
	}
	return n
}

// link makes kid the kid at place i.
func (n *node) link(i int, kid *node) {
	n.kids = slices.Insert(n.kids, i, edge{kid.label[0], kid})
}

func common(a, b string) int {
	i := 0
	for i < len(a) && i < len(b) && a[i] == b[i] {
		i++
	}
	return i
}

// find returns the node of path, which exists.
func (n *node) find(path string) *node {
	for path != "" {
		i, _ := n.search(path[0])
		n = n.kids[i].kid
		path = path[len(n.label):]
	}
	return n
}

// put enters r among the topics of kind k, making room by moving one ref of each
// kind behind it.
func (n *node) put(k event.Kind, r ref) {
	if n.subs == nil {
		n.subs = n.ref[:0]
	}
	hole := int32(len(n.subs))
	n.subs = append(n.subs, ref{})
	for g := event.Exact; g > k; g-- {
		first := n.ends[g-1]
		n.move(first, hole)
		n.ends[g]++
		hole = first
	}
	n.ends[k]++
	n.subs[hole] = r
	r.settle(int(hole))
}

// cut takes out the ref at place, which is of kind k, and closes the hole by moving
// one ref of that kind and of each behind it.
func (n *node) cut(k event.Kind, place int32) {
	for g := k; g < kinds; g++ {
		n.ends[g]--
		n.move(n.ends[g], place)
		place = n.ends[g]
	}
	n.subs[place] = ref{}
	if n.subs = n.subs[:place]; place == 0 {
		n.subs = nil
	}
}

func (n *node) move(from, to int32) {
	if from == to { // the hole itself
		return
	}
	n.subs[to] = n.subs[from]
	n.subs[to].settle(int(to))
}

// prune removes the nodes on the way to path that are of no more use.
func (n *node) prune(path string) {
	if path == "" {
		return
	}
	i, _ := n.search(path[0])
	kid := n.kids[i].kid
	kid.prune(path[len(kid.label):])
	switch {
	case len(kid.subs) > 0:
	case len(kid.kids) == 0:
		n.unlink(i)
	case len(kid.kids) == 1:
		only := kid.kids[0].kid
		only.label = kid.label + only.label
		n.kids[i].kid = only
	}
}

func (n *node) unlink(i int) {
	if n.kids = slices.Delete(n.kids, i, i+1); len(n.kids) == 0 {
		n.kids = nil
	}
}

func (n *node) empty() bool { return len(n.subs) == 0 && len(n.kids) == 0 }
