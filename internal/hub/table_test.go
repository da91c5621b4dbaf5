package hub

import (
	"fmt"
	"math/rand/v2"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/rstream-dev/rstream/event"
	"pgregory.net/rapid"
)

var (
	users = rapid.SampledFrom([]string{"a", "b", "ab"})
	paths = rapid.Custom(func(t *rapid.T) string {
		segment := rapid.StringOfN(rapid.SampledFrom([]rune("po-é")), 1, 3, -1)
		return strings.Join(rapid.SliceOfN(segment, 1, 3).Draw(t, "segments"), "/")
	})
	anyTopic = rapid.Custom(func(t *rapid.T) event.Topic {
		name := rapid.OneOf(users, rapid.Just("*")).Draw(t, "user")
		if tail := rapid.SampledFrom([]string{"all", "", "/", "*", "$"}).Draw(t, "tail"); tail != "all" {
			name += "/" + paths.Draw(t, "path") + tail
		}
		topic, err := event.ParseTopic(name)
		if err != nil {
			t.Fatal(err)
		}
		return topic
	})
)

// A table agrees with Topic.Matches, no matter which subscriptions were added and removed, and
// is empty when all are removed.
func TestTableFindsWhatMatches(t *testing.T) { rapid.Check(t, findsWhatMatches) }

func FuzzTable(f *testing.F) { f.Fuzz(rapid.MakeFuzz(findsWhatMatches)) }

func findsWhatMatches(t *rapid.T) {
	var tab table
	var subs []*Subscription
	t.Repeat(map[string]func(*rapid.T){
		"add": func(t *rapid.T) {
			s := asking(rapid.SliceOfN(anyTopic, 0, 4).Draw(t, "topics")...)
			tab.addSubscription(s)
			subs = append(subs, s)
		},
		"remove": func(t *rapid.T) {
			if len(subs) == 0 {
				t.Skip("nobody")
			}
			i := rapid.IntRange(0, len(subs)-1).Draw(t, "sub")
			tab.removeSubscription(subs[i])
			subs = append(subs[:i], subs[i+1:]...)
		},
		"": func(t *rapid.T) {
			checkMatch(t, &tab, subs, users.Draw(t, "user"), paths.Draw(t, "path"))
		},
	})
	for _, s := range subs {
		tab.removeSubscription(s)
	}
	if n := tab.users(); n != 0 || !tab.any.empty() || len(tab.all.subs) != 0 {
		t.Errorf("empty table still holds %d users, %v, %v", n, tab.any.set, tab.all.subs)
	}
}

func asking(ts ...event.Topic) *Subscription {
	return &Subscription{topics: ts, places: make([]int32, len(ts))}
}

func checkMatch(t *rapid.T, tab *table, subs []*Subscription, user, path string) {
	got := make(map[ref]int)
	for _, hit := range tab.matchStorage(nil, user, path) {
		got[hit]++
	}
	for _, s := range subs {
		for i, topic := range s.topics {
			want := 0
			if topic.Matches(user, path) {
				want = 1
			}
			if n := got[ref{s, int32(i)}]; n != want {
				t.Errorf("match(%s/%s) found %s %d times, want %d", user, path, topic, n, want)
			}
			delete(got, ref{s, int32(i)})
		}
	}
	if len(got) != 0 {
		t.Errorf("match(%s/%s) found %d topics of nobody", user, path, len(got))
	}
}

// users returns the number of users that the shards count, or -1 if it is not the number of
// used slots.
func (t *table) users() (n int) {
	for i := range t.shards {
		used := 0
		for _, s := range t.shards[i].slots {
			if s.user > 0 {
				used++
			}
		}
		if used != t.shards[i].used {
			return -1
		}
		n += used
	}
	return n
}

// Users whose hashes collide, including at the end of the slots, are found until they are
// removed.
func TestShardKeepsUsers(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var d shard
		there := make(map[string]*Subscription)
		t.Repeat(map[string]func(*rapid.T){
			"add": func(t *rapid.T) {
				user := crowding.Draw(t, "user")
				if there[user] == nil {
					there[user] = asking(event.All)
					d.addTopic(crowdedHash(user), user, "", event.Prefix, ref{there[user], 0})
				}
			},
			"remove": func(t *rapid.T) {
				user := crowding.Draw(t, "user")
				if s := there[user]; s != nil {
					d.removeTopic(crowdedHash(user), user, "", event.Prefix, ref{s, 0})
					delete(there, user)
				}
			},
			"": func(t *rapid.T) {
				for i := range crowd {
					user := string(rune('A' + i))
					hits := d.matchTopics(nil, crowdedHash(user), user, "p")
					if s := there[user]; s == nil && len(hits) > 0 || s != nil && !slices.Equal(hits, []ref{{s, 0}}) {
						t.Fatalf("match(%s) = %v, want %v", user, hits, s)
					}
				}
				if d.used != len(there) || len(d.slots) > max(leastSlots, 8*len(there)) {
					t.Fatalf("%d of %d slots are used by %d users", d.used, len(d.slots), len(there))
				}
			},
		})
	})
}

const crowd = 40

var crowding = rapid.Map(rapid.IntRange(0, crowd-1), func(i int) string { return string(rune('A' + i)) })

// crowdedHash gives each user one of five hashes, of which two are the last.
func crowdedHash(user string) uint32 {
	return [...]uint32{0, 1 << 30, 1 << 31, 1<<32 - 2, 1<<32 - 1}[user[0]%5]
}

// While others come and go, the topics that stay are always found, and no others.
func TestTableWhileItChanges(t *testing.T) {
	var tab table
	var stay []*Subscription
	for _, name := range fewTopics {
		stay = append(stay, asking(topics(t, name)...))
		tab.addSubscription(stay[len(stay)-1])
	}
	var comers, readers sync.WaitGroup
	var done atomic.Bool
	for g := range 2 {
		comers.Go(func() { comeAndGo(t, &tab, rand.New(rand.NewPCG(3, uint64(g)))) })
		readers.Go(func() {
			for i := g; !done.Load(); i++ {
				found(t, &tab, stay, [...]string{"a", "b", "c"}[i%3], fewPaths[i%len(fewPaths)])
			}
		})
	}
	comers.Wait()
	done.Store(true)
	readers.Wait()
	if n := len(tab.all.subs); n != len(stay) {
		t.Errorf("%d subscriptions are left, want %d", n, len(stay))
	}
}

// comeAndGo enters subscriptions, some to the same few users and some to others, and
// takes them out again.
func comeAndGo(t *testing.T, tab *table, r *rand.Rand) {
	var here []*Subscription
	for i := range 500 {
		names := []string{fewTopics[r.IntN(len(fewTopics))], fmt.Sprintf("user%d/p", i%500)}
		here = append(here, asking(topics(t, names...)...))
		tab.addSubscription(here[len(here)-1])
		if len(here) > 40 {
			gone := r.IntN(len(here))
			tab.removeSubscription(here[gone])
			here = slices.Delete(here, gone, gone+1)
		}
	}
	for _, s := range here {
		tab.removeSubscription(s)
	}
}

func found(t *testing.T, tab *table, stay []*Subscription, user, path string) {
	hits := tab.matchStorage(nil, user, path)
	for _, hit := range hits {
		if topic := hit.sub.topics[hit.topic]; !topic.Matches(user, path) {
			t.Errorf("match(%s/%s) found %s", user, path, topic)
		}
	}
	for _, s := range stay {
		if n := count(hits, ref{s, 0}); n > 1 || (n == 1) != s.topics[0].Matches(user, path) {
			t.Errorf("match(%s/%s) found %s %d times", user, path, s.topics[0], n)
		}
	}
}

func count(hits []ref, r ref) (n int) {
	for _, hit := range hits {
		if hit == r {
			n++
		}
	}
	return n
}

// A topic costs tens of bytes in the table, and a subscription with its queue and position a
// few hundred.
func TestSubscriptionIsSmall(t *testing.T) {
	const n = 30_000
	for _, c := range []struct {
		name  string
		topic func(i int) string
		most  uint64
	}{
		{"eight a user", func(i int) string { return fmt.Sprintf("user%06d/posts/%d", i/8, i%8) }, 56},
		{"one a user", func(i int) string { return fmt.Sprintf("user%06d", i) }, 128},
		{"the same", func(i int) string { return "a/posts" }, 32},
		{"one user", func(i int) string { return fmt.Sprintf("a/posts/%06d", i) }, 152},
	} {
		subs := make([]*Subscription, n)
		ts := make([]event.Topic, n)
		for i := range n {
			ts[i] = topics(t, c.topic(i))[0]
			subs[i] = asking(ts[i])
		}
		var tab table
		if got := heapOf(n, func(i int) { tab.addSubscription(subs[i]) }); got > c.most {
			t.Errorf("%s: %d bytes a topic, want at most %d", c.name, got, c.most)
		}
		h := New(&log{}, 0, Config{})
		if got := heapOf(n, func(i int) { h.Subscribe(ts[i:i+1], 0) }); got > c.most+224 {
			t.Errorf("%s: %d bytes a subscription, want at most %d", c.name, got, c.most+224)
		}
		runtime.KeepAlive(&tab)
		runtime.KeepAlive(h)
	}
}

// heapOf returns how many bytes each of n calls adds to what is reachable.
func heapOf(n int, add func(i int)) uint64 {
	before := heap()
	for i := range n {
		add(i)
	}
	return (heap() - before) / uint64(n)
}
