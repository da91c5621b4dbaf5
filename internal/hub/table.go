package hub

import (
	"hash/maphash"
	"slices"
	"sync"

	"github.com/rstream-dev/rstream/event"
)

// A table finds the subscriptions to a storage. It has one set of topics for each
// subscribed user, and one for the topics of any user. A match searches only two of
// these sets, no matter how many there are. Its methods are safe for concurrent use: the
// users are spread over shards, so that adding or removing a topic blocks few others.
type table struct {
	shards [256]shard
	any    struct {
		sync.RWMutex
		set
	}
	all roster
}

// A set holds the topics of one user: a few in a list, more in a radix tree over the
// paths. It never goes back from the tree to the list.
//
// With a million subscriptions, cache misses dominate the cost. A match of a list follows
// two pointers, to the names and to the list, and can load both at the same time.
type set struct {
	names string // the user, followed by the paths of the list
	list  []entry
	tree  *node
	user  uint8 // length of the user's name
}

// few is the most topics in a list. With more, a tree is faster.
const few = 16

// An entry is a topic in a list. Its path is in names, between the end of the previous
// entry and its own.
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

// kinds is the number of kinds of topics; event.Exact is the last.
const kinds = event.Exact + 1

// addSubscription adds s under each of its topics.
func (t *table) addSubscription(s *Subscription) {
	t.all.enlist(s)
	t.eachTopic(s, (*set).addPath, (*shard).addTopic)
}

// removeSubscription removes s, which must have been added.
func (t *table) removeSubscription(s *Subscription) {
	t.all.strike(s)
	t.eachTopic(s, (*set).removePath, (*shard).removeTopic)
}

// eachTopic calls ofAny with each topic of s that is of any user, and ofUser with each other
// one.
func (t *table) eachTopic(s *Subscription,
	ofAny func(u *set, path string, k event.Kind, r ref),
	ofUser func(d *shard, hash uint32, user, path string, k event.Kind, r ref),
) {
	for i, topic := range s.topics {
		path, k := topic.Path(), topic.Kind()
		r := ref{s, int32(i)}
		user, ok := topic.User()
		if !ok {
			t.any.Lock()
			ofAny(&t.any.set, path, k, r)
			t.any.Unlock()
			continue
		}
		shard, hash := t.shard(user)
		ofUser(shard, hash, user, path, k, r)
	}
}

// matchStorage appends to hits the topics that contain the storage user/path.
func (t *table) matchStorage(hits []ref, user, path string) []ref {
	shard, hash := t.shard(user)
	hits = shard.matchTopics(hits, hash, user, path)
	t.any.RLock()
	hits = t.any.matchPath(hits, path)
	t.any.RUnlock()
	return hits
}

// seed keeps authors from choosing users whose hashes collide.
var seed = maphash.MakeSeed()

func (t *table) shard(user string) (*shard, uint32) {
	h := maphash.String(seed, user)
	return &t.shards[h>>56], uint32(h)
}

func (u *set) matchPath(hits []ref, path string) []ref {
	if u.tree != nil {
		return u.tree.collectRefs(hits, path)
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

func (u *set) addPath(path string, k event.Kind, r ref) {
	if u.tree == nil && len(u.list) == few {
		u.plant()
	}
	if u.tree != nil {
		u.tree.growPath(path).putRef(k, r)
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
		u.tree.growPath(u.names[from:e.end]).putRef(e.kind, ref{e.sub, e.topic})
		from = e.end
	}
	u.list, u.names = nil, u.names[:u.user]
}

func (u *set) removePath(path string, k event.Kind, r ref) {
	if u.tree != nil {
		u.tree.findNode(path).cutRef(k, r.sub.places[r.topic])
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

func (u *set) empty() bool { return len(u.list) == 0 && (u.tree == nil || u.tree.hasNoReader()) }

// notePlace records in the subscription where in a node its topic is, for its removal.
func (r ref) notePlace(place int) { r.sub.places[r.topic] = int32(place) }

// A roster is the list of all subscriptions. Each subscription knows its index.
type roster struct {
	sync.RWMutex
	subs []*Subscription
}

func (r *roster) enlist(s *Subscription) {
	r.Lock()
	defer r.Unlock()
	s.index = int32(len(r.subs))
	r.subs = append(r.subs, s)
}

func (r *roster) strike(s *Subscription) {
	r.Lock()
	defer r.Unlock()
	last := len(r.subs) - 1
	r.subs[s.index] = r.subs[last]
	r.subs[s.index].index = s.index
	r.subs[last] = nil
	r.subs = r.subs[:last]
}

func (r *roster) eachSubscription(f func(*Subscription)) {
	r.RLock()
	defer r.RUnlock()
	for _, s := range r.subs {
		f(s)
	}
}
