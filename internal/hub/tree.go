package hub

import (
	"slices"
	"strings"

	"github.com/rstream-dev/rstream/event"
)

// A node stands for the path spelled by the labels down to it; the root is the empty
// path. With a million nodes, every pointer followed is a cache miss, and most nodes have
// a single ref, so the first one is stored in the node.
type node struct {
	label string
	kids  []edge // by first byte
	subs  []ref  // the topics with this path, by kind
	ends  [kinds]int32
	ref   [1]ref
}

// An edge leads to the kid whose label begins with first. The byte is repeated here so
// that a search visits no other kid.
type edge struct {
	first byte
	kid   *node
}

// collectRefs appends to hits the topics that contain path, which is relative to n.
func (n *node) collectRefs(hits []ref, path string) []ref {
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

// search returns the index of the edge for first. If ok is false, it is the index where
// that edge would be inserted.
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

// growPath returns the node of path and creates it if necessary.
func (n *node) growPath(path string) *node {
	for path != "" {
		i, ok := n.search(path[0])
		if !ok {
			leaf := &node{label: path}
			n.link(i, leaf)
			return leaf
		}
		kid := n.kids[i].kid
		same := commonPrefix(kid.label, path)
		if same < len(kid.label) {
			// The old node keeps its path and its refs.
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

// link inserts kid at index i.
func (n *node) link(i int, kid *node) {
	n.kids = slices.Insert(n.kids, i, edge{kid.label[0], kid})
}

func commonPrefix(a, b string) int {
	i := 0
	for i < len(a) && i < len(b) && a[i] == b[i] {
		i++
	}
	return i
}

// findNode returns the node of path, which must exist.
func (n *node) findNode(path string) *node {
	for path != "" {
		i, _ := n.search(path[0])
		n = n.kids[i].kid
		path = path[len(n.label):]
	}
	return n
}

// putRef adds r to the topics of kind k. To make room, it moves one ref of each later kind.
func (n *node) putRef(k event.Kind, r ref) {
	if n.subs == nil {
		n.subs = n.ref[:0]
	}
	hole := int32(len(n.subs))
	n.subs = append(n.subs, ref{})
	for g := event.Exact; g > k; g-- {
		first := n.ends[g-1]
		n.moveRef(first, hole)
		n.ends[g]++
		hole = first
	}
	n.ends[k]++
	n.subs[hole] = r
	r.notePlace(int(hole))
}

// cutRef removes the ref of kind k at place. To close the hole, it moves one ref of that
// kind and of each later one.
func (n *node) cutRef(k event.Kind, place int32) {
	for g := k; g < kinds; g++ {
		n.ends[g]--
		n.moveRef(n.ends[g], place)
		place = n.ends[g]
	}
	n.subs[place] = ref{}
	if n.subs = n.subs[:place]; place == 0 {
		n.subs = nil
	}
}

func (n *node) moveRef(from, to int32) {
	if from == to { // the hole itself
		return
	}
	n.subs[to] = n.subs[from]
	n.subs[to].notePlace(int(to))
}

// prune removes the nodes on the way to path that are no longer needed.
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

func (n *node) hasNoReader() bool { return len(n.subs) == 0 && len(n.kids) == 0 }
