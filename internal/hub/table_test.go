package hub

import (
	"strings"
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

func TestSplit(t *testing.T) {
	for _, c := range []struct {
		topic, user, path string
		k                 kind
	}{
		{"*", "", "", prefix},
		{"a", "a", "", prefix},
		{"a/p", "a", "p", subtree},
		{"a/p/", "a", "p/", prefix},
		{"a/p*", "a", "p", prefix},
		{"*/p$", "", "p", exact},
		{"*/p/q", "", "p/q", subtree},
	} {
		user, path, k := split(topics(t, c.topic)[0])
		if user != c.user || path != c.path || k != c.k {
			t.Errorf("split(%s) = %q, %q, %d, want %q, %q, %d", c.topic, user, path, k, c.user, c.path, c.k)
		}
	}
}

// A table finds what Topic.Matches says, whoever has come and gone, and is empty
// when all have gone.
func TestTableFindsWhatMatches(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var tab table
		var subs []*Subscription
		t.Repeat(map[string]func(*rapid.T){
			"add": func(t *rapid.T) {
				ts := rapid.SliceOfN(anyTopic, 0, 4).Draw(t, "topics")
				s := &Subscription{topics: ts, places: make([]int32, len(ts))}
				tab.add(s)
				subs = append(subs, s)
			},
			"remove": func(t *rapid.T) {
				if len(subs) == 0 {
					t.Skip("nobody")
				}
				i := rapid.IntRange(0, len(subs)-1).Draw(t, "sub")
				tab.remove(subs[i])
				subs = append(subs[:i], subs[i+1:]...)
			},
			"": func(t *rapid.T) {
				checkMatch(t, &tab, subs, users.Draw(t, "user"), paths.Draw(t, "path"))
			},
		})
		for _, s := range subs {
			tab.remove(s)
		}
		if len(tab.users) != 0 || !tab.any.empty() || len(tab.all) != 0 {
			t.Errorf("empty table still holds %v, %v, %v", tab.users, tab.any, tab.all)
		}
	})
}

func checkMatch(t *rapid.T, tab *table, subs []*Subscription, user, path string) {
	got := make(map[ref]int)
	for _, hit := range tab.match(nil, user, path) {
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
