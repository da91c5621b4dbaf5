package hub

import (
	"slices"
	"strings"

	"github.com/rstream-dev/rstream/event"
)

// A table finds the subscriptions that ask for a storage. It holds the topics of
// each user that someone asks for, and those of any user; a match looks into two of
// these sets and never at the topics of others.
type table struct {
	users map[string]*set
	any   set
	all   []*Subscription // each knows its place here
}

// A set holds the topics of one user: a few in a list that one look at memory
// brings in whole, more in a radix tree over the paths. It never goes back to the
// list.
type set struct {
	list  []entry
	names string // the paths of the list, one behind the other
	tree  *node
}

// few is how many topics a list holds. Beyond about this many a tree is faster.
const few = 16

// An entry is a topic in a list. Its path is names[from:to].
type entry struct {
	ref      ref
	from, to uint16
	kind     kind
}

// A ref is one topic of one subscription.
type ref struct {
	sub   *Subscription
	topic int32
}

type kind uint8

// What a topic that names a path asks for. They are the kinds of event.Topic.
const (
	prefix  kind = iota // any path that begins with it
	subtree             // it, and what is below it by segment
	exact               // it alone
	kinds
)

// split takes a topic apart; user is empty if it asks for any. The ranges of paths
// tell the kinds apart: only a subtree has two, and only the range of a single path
// ends with a longer string than it begins with.
func split(t event.Topic) (user, path string, k kind) {
	user, _ = t.User()
	ranges := t.PathRanges()
	switch r := ranges[0]; {
	case len(ranges) == 2:
		return user, r.From, subtree
	case len(r.To) > len(r.From):
		return user, r.From, exact
	default:
		return user, r.From, prefix
	}
}

// add enters s under each of its topics.
func (t *table) add(s *Subscription) {
	s.index = len(t.all)
	t.all = append(t.all, s)
	for i, topic := range s.topics {
		user, path, k := split(topic)
		t.set(user).add(path, k, ref{s, int32(i)})
	}
}

// remove takes out s, which has been added.
func (t *table) remove(s *Subscription) {
	last := len(t.all) - 1
	t.all[s.index] = t.all[last]
	t.all[s.index].index = s.index
	t.all[last] = nil
	t.all = t.all[:last]
	for i, topic := range s.topics {
		user, path, k := split(topic)
		set := t.set(user)
		set.remove(path, k, s.places[i])
		if user != "" && set.empty() {
			delete(t.users, user)
		}
	}
}

// set returns the topics of user, or of any user if it is empty.
func (t *table) set(user string) *set {
	if user == "" {
		return &t.any
	}
	u := t.users[user]
	if u == nil {
		if t.users == nil {
			t.users = make(map[string]*set)
		}
		u = new(set)
		t.users[user] = u
	}
	return u
}

// match appends to hits the topics that hold the storage user/path.
func (t *table) match(hits []ref, user, path string) []ref {
	if u := t.users[user]; u != nil {
		hits = u.match(hits, path)
	}
	return t.any.match(hits, path)
}

func (u *set) match(hits []ref, path string) []ref {
	if u.tree != nil {
		return u.tree.match(hits, path)
	}
	for i := range u.list {
		if e := &u.list[i]; matchesPath(e.kind, u.names[e.from:e.to], path) {
			hits = append(hits, e.ref)
		}
	}
	return hits
}

func matchesPath(k kind, name, path string) bool {
	if !strings.HasPrefix(path, name) {
		return false
	}
	switch rest := path[len(name):]; k {
	case exact:
		return rest == ""
	case subtree:
		return rest == "" || rest[0] == '/'
	}
	return true
}

func (u *set) add(path string, k kind, r ref) {
	if u.tree == nil && len(u.list) == few {
		u.plant()
	}
	if u.tree != nil {
		u.tree.grow(path).put(k, r)
		return
	}
	from := uint16(len(u.names)) // at most few times event.MaxPath
	u.names += path
	u.list = append(u.list, entry{r, from, uint16(len(u.names)), k})
	r.settle(len(u.list) - 1)
}

// plant turns the list into a tree.
func (u *set) plant() {
	u.tree = new(node)
	for _, e := range u.list {
		u.tree.grow(u.names[e.from:e.to]).put(e.kind, e.ref)
	}
	u.list, u.names = nil, ""
}

func (u *set) remove(path string, k kind, place int32) {
	if u.tree != nil {
		u.tree.find(path).cut(k, place)
		u.tree.prune(path)
		return
	}
	gone := u.list[place]
	u.names = u.names[:gone.from] + u.names[gone.to:]
	u.list = slices.Delete(u.list, int(place), int(place)+1)
	for i := int(place); i < len(u.list); i++ {
		u.list[i].from -= gone.to - gone.from
		u.list[i].to -= gone.to - gone.from
		u.list[i].ref.settle(i)
	}
}

func (u *set) empty() bool { return len(u.list) == 0 && (u.tree == nil || u.tree.empty()) }

// settle tells the subscription where its topic is now, to be found when it leaves.
func (r ref) settle(place int) { r.sub.places[r.topic] = int32(place) }
