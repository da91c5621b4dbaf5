package hub

import (
	"hash/maphash"
	"slices"
	"sync"

	"github.com/rstream-dev/rstream/event"
)

// A table finds the subscriptions that ask for a storage. It holds the topics of
// each user that someone asks for, and those of any user; a match looks into two of
// these sets and never at the topics of others. Its methods may be called from any
// goroutine: the users are spread over shards, so that who joins or leaves one stops
// hardly anybody else.
type table struct {
	shards [256]shard
	any    struct {
		sync.RWMutex
		set
	}
	all roster
}

// A set holds the topics of one user: a few in a list, more in a radix tree over the
// paths. It never goes back to the list.
//
// Among a million subscriptions what costs is waiting for memory. A match follows
// two addresses that it knows at the same time: those of the names and of the list.
type set struct {
	names string // the user, then the paths of the list, one behind the other
	list  []entry
	tree  *node
	user  uint8 // how long the user's name is
}

// few is how many topics a list holds. Beyond about this many a tree is faster.
const few = 16

// An entry is a topic in a list. Its path are the names from the end of the entry
// before up to its own.
type entry struct {
	sub   *Subscription
	topic int32
	end   uint16 // at most event.MaxUser and few times event.MaxPath
	kind  event.Kind
}

// A ref is one topic of one subscription.
type ref struct {
	sub   *Subscription
	topic int32
}

// kinds is how many kinds of topics there are; event.Exact is the last.
const kinds = event.Exact + 1

// add enters s under each of its topics.
func (t *table) add(s *Subscription) {
	t.all.add(s)
	for i, topic := range s.topics {
		path, k := topic.Path(), topic.Kind()
		r := ref{s, int32(i)}
		user, ok := topic.User()
		if !ok {
			t.any.Lock()
			t.any.add(path, k, r)
			t.any.Unlock()
			continue
		}
		shard, hash := t.shard(user)
		shard.add(hash, user, path, k, r)
	}
}

// remove takes out s, which has been added.
func (t *table) remove(s *Subscription) {
	t.all.remove(s)
	for i, topic := range s.topics {
		path, k := topic.Path(), topic.Kind()
		r := ref{s, int32(i)}
		user, ok := topic.User()
		if !ok {
			t.any.Lock()
			t.any.remove(path, k, r)
			t.any.Unlock()
			continue
		}
		shard, hash := t.shard(user)
		shard.remove(hash, user, path, k, r)
	}
}

// match appends to hits the topics that hold the storage user/path.
func (t *table) match(hits []ref, user, path string) []ref {
	shard, hash := t.shard(user)
	hits = shard.match(hits, hash, user, path)
	t.any.RLock()
	hits = t.any.match(hits, path)
	t.any.RUnlock()
	return hits
}

// seed makes the hashes of users ones that nobody can choose.
var seed = maphash.MakeSeed()

func (t *table) shard(user string) (*shard, uint32) {
	h := maphash.String(seed, user)
	return &t.shards[h>>56], uint32(h)
}

func (u *set) match(hits []ref, path string) []ref {
	if u.tree != nil {
		return u.tree.match(hits, path)
	}
	from := uint16(u.user)
	for i := range u.list {
		e := &u.list[i]
		if e.kind.Matches(u.names[from:e.end], path) {
			hits = append(hits, ref{e.sub, e.topic})
		}
		from = e.end
	}
	return hits
}

func (u *set) add(path string, k event.Kind, r ref) {
	if u.tree == nil && len(u.list) == few {
		u.plant()
	}
	if u.tree != nil {
		u.tree.grow(path).put(k, r)
		return
	}
	u.names += path
	// Most users have one or two topics: no room for more.
	list := make([]entry, len(u.list)+1)
	list[copy(list, u.list)] = entry{r.sub, r.topic, uint16(len(u.names)), k}
	u.list = list
}

// plant turns the list into a tree.
func (u *set) plant() {
	u.tree = new(node)
	from := uint16(u.user)
	for _, e := range u.list {
		u.tree.grow(u.names[from:e.end]).put(e.kind, ref{e.sub, e.topic})
		from = e.end
	}
	u.list, u.names = nil, u.names[:u.user]
}

func (u *set) remove(path string, k event.Kind, r ref) {
	if u.tree != nil {
		u.tree.find(path).cut(k, r.sub.places[r.topic])
		u.tree.prune(path)
		return
	}
	at := slices.IndexFunc(u.list, func(e entry) bool { return e.sub == r.sub && e.topic == r.topic })
	end := int(u.list[at].end)
	u.names = u.names[:end-len(path)] + u.names[end:]
	u.list = slices.Concat(u.list[:at], u.list[at+1:])
	for i := at; i < len(u.list); i++ {
		u.list[i].end -= uint16(len(path))
	}
}

func (u *set) empty() bool { return len(u.list) == 0 && (u.tree == nil || u.tree.empty()) }

// settle tells the subscription where in a node its topic is now, to be found when
// it leaves.
func (r ref) settle(place int) { r.sub.places[r.topic] = int32(place) }

// A roster is all subscriptions. Each knows its place.
type roster struct {
	sync.RWMutex
	subs []*Subscription
}

func (r *roster) add(s *Subscription) {
	r.Lock()
	defer r.Unlock()
	s.index = int32(len(r.subs))
	r.subs = append(r.subs, s)
}

func (r *roster) remove(s *Subscription) {
	r.Lock()
	defer r.Unlock()
	last := len(r.subs) - 1
	r.subs[s.index] = r.subs[last]
	r.subs[s.index].index = s.index
	r.subs[last] = nil
	r.subs = r.subs[:last]
}

func (r *roster) each(f func(*Subscription)) {
	r.RLock()
	defer r.RUnlock()
	for _, s := range r.subs {
		f(s)
	}
}
