package event

import (
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"pgregory.net/rapid"
)

// A world is a small universe of storages that holds a witness for every
// difference between any two of its topics' spellings.
type world struct {
	users     []string
	paths     []string
	spellings []string
}

func newWorld(segments []string) world {
	w := world{users: []string{"alice", "alice2", "bób"}}
	whole := slices.Clone(segments)
	for _, a := range segments {
		for _, b := range segments {
			whole = append(whole, a+"/"+b)
		}
	}
	paths, tails := map[string]bool{}, map[string]bool{"": true}
	for _, path := range whole {
		for i := range len(path) + 1 {
			begin := path[:i]
			if !utf8.ValidString(begin) {
				continue
			}
			for _, p := range []string{begin, begin + "~", begin + "/~"} {
				paths[p] = CheckPath(p) == nil
			}
			for _, tail := range []string{begin, begin + "/", begin + "*", begin + "/*", begin + "$"} {
				tails[tail] = true
			}
		}
	}
	for p, ok := range paths {
		if ok {
			w.paths = append(w.paths, p)
		}
	}
	slices.Sort(w.paths)
	for _, user := range []string{"*", "alice", "alice2", "bób"} {
		w.spellings = append(w.spellings, user)
		for tail := range tails {
			w.spellings = append(w.spellings, user+"/"+tail)
		}
	}
	slices.Sort(w.spellings)
	return w
}

// slowMatches reads a topic's spelling literally, segment by segment.
func slowMatches(spelling, user, path string) bool {
	want, rest, _ := strings.Cut(spelling, "/")
	if want != "*" && want != user {
		return false
	}
	if rest == "" {
		return true
	}
	if alone, ok := strings.CutSuffix(rest, "$"); ok {
		return path == alone
	}
	have, asked := strings.Split(path, "/"), strings.Split(rest, "/")
	last := asked[len(asked)-1]
	above := asked[:len(asked)-1]
	if len(have) < len(asked) || !slices.Equal(have[:len(above)], above) {
		return false
	}
	if begin, ok := strings.CutSuffix(last, "*"); ok {
		return strings.HasPrefix(have[len(above)], begin)
	}
	return last == "" || have[len(above)] == last
}

// A set is the storages of a world that belong to a topic, a bit each.
type set []uint64

func (s set) holds(u set) bool {
	for i := range s {
		if u[i]&^s[i] != 0 {
			return false
		}
	}
	return true
}

func (s set) meets(u set) bool {
	for i := range s {
		if u[i]&s[i] != 0 {
			return true
		}
	}
	return false
}

func TestTopicsAgainstEnumeration(t *testing.T) {
	for _, segments := range [][]string{
		{"po", "posts", "posts-old"},
		{"p$t", "é", "日本"},
		{".x", "..", "0"},
	} {
		w := newWorld(segments)
		var topics []Topic
		var sets []set
		for _, spelling := range w.spellings {
			topic, err := ParseTopic(spelling)
			if err != nil {
				continue // an empty segment or the like; the vectors hold these
			}
			s := make(set, (len(w.users)*len(w.paths)+63)/64)
			from, to := topic.StorageRange()
			bit := 0
			for _, user := range w.users {
				for _, path := range w.paths {
					got := topic.Matches(user, path)
					if want := slowMatches(spelling, user, path); got != want {
						t.Fatalf("%s (spelled %s) matches %s/%s: %v, want %v", topic, spelling, user, path, got, want)
					}
					asked, one := topic.User()
					if inRanges(topic, path) && (!one || asked == user) != got {
						t.Fatalf("%s matches %s/%s: %v, its ranges do not agree", topic, user, path, got)
					}
					storage := Storage{user, path}
					if got && (storage.Compare(from) < 0 || to != (Storage{}) && storage.Compare(to) >= 0) {
						t.Fatalf("%s matches %s, which is not between %q and %q", topic, storage, from, to)
					}
					if got {
						s[bit/64] |= 1 << (bit % 64)
					}
					bit++
				}
			}
			topics, sets = append(topics, topic), append(sets, s)
		}
		if len(topics) < 100 {
			t.Fatalf("only %d topics of %q", len(topics), segments)
		}
		for i, a := range topics {
			for j, b := range topics {
				if got, want := a.Contains(b), sets[i].holds(sets[j]); got != want {
					t.Fatalf("%s contains %s: %v, want %v", a, b, got, want)
				}
				if got, want := a.Overlaps(b), sets[i].meets(sets[j]); got != want {
					t.Fatalf("%s overlaps %s: %v, want %v", a, b, got, want)
				}
				order := NarrowestFirst(a, b)
				if order != -NarrowestFirst(b, a) || order == 0 && a != b || b.Contains(a) && order > 0 {
					t.Fatalf("NarrowestFirst(%s, %s) = %d", a, b, order)
				}
				if same := a.Contains(b) && b.Contains(a); same != (a == b) {
					t.Fatalf("%s and %s hold the same: %v, but are equal: %v", a, b, same, a == b)
				}
			}
		}
	}
}

func TestTopicParts(t *testing.T) {
	for _, c := range []struct {
		topic, user, path string
		kind              Kind
		from, to          Storage
	}{
		{"*", "", "", Prefix, Storage{}, Storage{}},
		{"*/p$", "", "p", Exact, Storage{}, Storage{}},
		{"*/p/q", "", "p/q", Subtree, Storage{}, Storage{}},
		{"a", "a", "", Prefix, Storage{"a", ""}, Storage{"a\x00", ""}},
		{"a/p", "a", "p", Subtree, Storage{"a", "p"}, Storage{"a", "p0"}},
		{"a/p/", "a", "p/", Prefix, Storage{"a", "p/"}, Storage{"a", "p0"}},
		{"a/p*", "a", "p", Prefix, Storage{"a", "p"}, Storage{"a", "q"}},
		{"a/p$", "a", "p", Exact, Storage{"a", "p"}, Storage{"a", "p\x00"}},
	} {
		topic, err := ParseTopic(c.topic)
		if err != nil {
			t.Fatal(err)
		}
		user, ok := topic.User()
		if user != c.user || ok != (c.user != "") || topic.Path() != c.path || topic.Kind() != c.kind {
			t.Errorf("%s is of user %q, path %q, kind %d, want %q, %q, %d", topic, user, topic.Path(), topic.Kind(), c.user, c.path, c.kind)
		}
		if from, to := topic.StorageRange(); from != c.from || to != c.to {
			t.Errorf("%s has the storages from %q to %q, want %q to %q", topic, from, to, c.from, c.to)
		}
	}
}

func inRanges(topic Topic, path string) bool {
	for from, to := range topic.PathRanges() {
		if from <= path && (to == "" || path < to) {
			return true
		}
	}
	return false
}

func TestNarrowestFirst(t *testing.T) {
	want := []string{"alice/posts/1$", "alice/posts/1", "alice/posts/1*", "alice/posts/", "alice/posts", "alice/po*", "alice", "bob", "*/posts/1$", "*/posts", "*"}
	var topics []Topic
	for _, s := range want {
		topic, err := ParseTopic(s)
		if err != nil {
			t.Fatal(err)
		}
		topics = append([]Topic{topic}, topics...)
	}
	slices.SortFunc(topics, NarrowestFirst)
	for i, topic := range topics {
		if topic.String() != want[i] {
			t.Fatalf("in order they are %v, want %v", topics, want)
		}
	}
}

// A topic's ranges must be correct for any bytes, not only for valid paths: a database compares
// bytes.
func TestPathRangesOnBytes(t *testing.T) {
	piece := rapid.SampledFrom([]string{"a", "/", "0", ".", "\xfe", "\xff", "\x00", "é", "\U0010ffff", "\x7f"})
	text := rapid.Custom(func(t *rapid.T) string {
		return strings.Join(rapid.SliceOfN(piece, 0, 4).Draw(t, "pieces"), "")
	})
	rapid.Check(t, func(t *rapid.T) {
		topic := Topic{
			path: text.Draw(t, "path"),
			kind: rapid.SampledFrom([]Kind{Prefix, Subtree, Exact}).Draw(t, "kind"),
		}
		other := text.Draw(t, "other")
		for _, path := range []string{other, topic.path, topic.path + other, topic.path + "/" + other, prefixEnd(topic.path), prefixEnd(topic.path) + other} {
			if got, want := inRanges(topic, path), topic.matchesPath(path); got != want {
				t.Fatalf("the ranges of %q hold %q: %v, want %v", topic, path, got, want)
			}
		}
		end := ""
		for from, to := range topic.PathRanges() {
			if to != "" && from >= to || end > from {
				t.Fatalf("the ranges of %q are not in order: %q to %q comes after %q", topic, from, to, end)
			}
			end = to
		}
	})
}

func TestAfter(t *testing.T) {
	for p, want := range map[string]string{
		"": "", "\xff": "", "\xff\xff": "", "a": "b", "a\xff": "b", "a\xff\xff": "b", "\x00": "\x01", "a/": "a0", "\xfe\xff": "\xff",
	} {
		if got := prefixEnd(p); got != want {
			t.Errorf("after(%q) = %q, want %q", p, got, want)
		}
	}
}

// At the maximum length of a path, no longer path exists, and kinds that differ elsewhere are the
// same set.
func TestTopicsAtTheLongestPath(t *testing.T) {
	for n := MaxPath - 3; n <= MaxPath+1; n++ {
		path := strings.Repeat("p", n)
		// Every path that any of these topics holds begins with path and goes on
		// in at most the room that is left.
		var storages []string
		for _, end := range []string{"", "q", "qq", "qqq", "/q", "/qq", "q/q"} {
			if CheckPath(path+end) == nil {
				storages = append(storages, path+end)
			}
		}
		spellings := []string{"a/" + path, "a/" + path + "/", "a/" + path + "*", "a/" + path + "$"}
		for _, s := range spellings {
			for _, u := range spellings {
				a, errA := ParseTopic(s)
				b, errB := ParseTopic(u)
				if errA != nil || errB != nil {
					continue
				}
				holds, meets, any := true, false, false
				for _, p := range storages {
					holds = holds && (a.Matches("a", p) || !b.Matches("a", p))
					meets = meets || a.Matches("a", p) && b.Matches("a", p)
					any = any || a.Matches("a", p)
				}
				if !any {
					t.Errorf("path of %d bytes: %s holds nothing", n, s[n:])
				}
				if a.Contains(b) != holds || a.Overlaps(b) != meets {
					t.Errorf("path of %d bytes: …%s contains …%s: %v, want %v; overlaps: %v, want %v", n, s[n:], u[n:], a.Contains(b), holds, a.Overlaps(b), meets)
				}
				order := NarrowestFirst(a, b)
				if order != -NarrowestFirst(b, a) || order == 0 && a != b || b.Contains(a) && order > 0 {
					t.Fatalf("NarrowestFirst(%s, %s) = %d", a, b, order)
				}
				if same := a.Contains(b) && b.Contains(a); same != (a == b) {
					t.Errorf("path of %d bytes: …%s and …%s hold the same: %v, but are equal: %v", n, s[n:], u[n:], same, a == b)
				}
			}
		}
	}
}

func TestExactly(t *testing.T) {
	topic := Exactly(Storage{"alice", "posts/1"})
	if parsed, err := ParseTopic("alice/posts/1$"); err != nil || parsed != topic {
		t.Errorf("ParseTopic = %v, %v, want %v", parsed, err, topic)
	}
	for _, s := range []string{"*", "alice", "alice/posts/1", "*/posts/1$"} {
		topic, err := ParseTopic(s)
		if err != nil {
			t.Fatal(err)
		}
		if topic == Exactly(Storage{"alice", "posts/1"}) {
			t.Errorf("%s is one storage", s)
		}
	}
	for _, s := range []Storage{{}, {"", "a"}, {"*", "a"}, {"alice", ""}, {"alice", "a/"}, {"alice", "a*"}} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("Exactly(%q) does not panic", s)
				}
			}()
			Exactly(s)
		}()
	}
}
