package event

import (
	"cmp"
	"fmt"
	"iter"
	"strings"
)

// A Topic is a set of storages that a reader selects, by a user and a path or a prefix of
// paths. Topics can be compared with ==: equal sets are equal topics. The zero Topic is "*",
// everything.
//
//	alice           all of alice, never alice2
//	alice/posts     that path and everything below it, by segment
//	alice/posts/    only the paths below posts
//	alice/po*       every path that begins with po
//	alice/posts/1$  only that path
//	*/posts         the same of any user
//	*               everything
type Topic struct {
	user string // "" is any user
	path string
	kind Kind
}

// A Kind determines the paths that a topic selects, relative to its own path.
type Kind uint8

// The kinds of topics.
const (
	Prefix  Kind = iota // paths that begin with the topic's path, which may be empty
	Subtree             // the topic's path, and paths that begin with it and a slash
	Exact               // only the topic's path
)

// Matches reports whether a topic of kind k with the path named selects path.
func (k Kind) Matches(named, path string) bool {
	if !strings.HasPrefix(path, named) {
		return false
	}
	switch k {
	case Exact:
		return len(path) == len(named)
	case Subtree:
		return len(path) == len(named) || path[len(named)] == '/'
	}
	return true
}

// All is the topic of everything.
var All = Topic{}

// Exactly returns the topic of one storage. It panics if the storage is not valid.
func Exactly(s Storage) Topic {
	if err := s.Check(); err != nil {
		panic(err)
	}
	return Topic{user: s.User, path: s.Path, kind: Exact}
}

// ParseTopic parses a topic. Different spellings of one set ("alice", "alice/", "alice/*")
// return the same topic.
func ParseTopic(s string) (Topic, error) {
	t, err := readTopic(s)
	if err != nil {
		return Topic{}, fmt.Errorf("parse topic %.80q: %w", s, err)
	}
	return t, nil
}

func readTopic(s string) (Topic, error) {
	user, path, _ := strings.Cut(s, "/")
	t := Topic{}
	if user != "*" {
		if err := CheckUser(user); err != nil {
			return Topic{}, err
		}
		t.user = user
	}
	switch {
	case path == "" || path == "*":
		return t, nil
	case strings.HasSuffix(path, "$"):
		t.path, t.kind = strings.TrimSuffix(path, "$"), Exact
		return t, CheckPath(t.path)
	case strings.HasSuffix(path, "*"), strings.HasSuffix(path, "/"):
		t.path, t.kind = strings.TrimSuffix(path, "*"), Prefix
		if len(t.path) == MaxPath { // nothing can follow it
			t.kind = Exact
			return t, CheckPath(t.path)
		}
		return t, checkPrefix(t.path)
	}
	t.path, t.kind = path, Subtree
	if len(path) >= MaxPath-1 { // nothing fits below it
		t.kind = Exact
	}
	return t, CheckPath(path)
}

// checkPrefix returns an error unless path can be the beginning of a valid path: all segments
// except the last, which may be incomplete, must be valid.
func checkPrefix(path string) error {
	if err := checkPathText(path); err != nil {
		return err
	}
	last := strings.LastIndexByte(path, '/')
	if last < 0 {
		return nil
	}
	for segment := range strings.SplitSeq(path[:last], "/") {
		if err := checkSegment(path, segment); err != nil {
			return err
		}
	}
	return nil
}

// String returns the shortest spelling of t, which ParseTopic parses.
func (t Topic) String() string {
	user := t.user
	if user == "" {
		user = "*"
	}
	switch {
	case t.kind == Exact:
		return user + "/" + t.path + "$"
	case t.kind == Subtree:
		return user + "/" + t.path
	case t.path == "":
		return user
	case strings.HasSuffix(t.path, "/"):
		return user + "/" + t.path
	}
	return user + "/" + t.path + "*"
}

// MarshalText returns the shortest spelling of t.
func (t Topic) MarshalText() ([]byte, error) { return []byte(t.String()), nil }

// UnmarshalText parses a topic as ParseTopic does.
func (t *Topic) UnmarshalText(b []byte) (err error) {
	*t, err = ParseTopic(string(b))
	return err
}

// Matches reports whether the storage user/path belongs to t.
func (t Topic) Matches(user, path string) bool {
	if t.user != "" && t.user != user {
		return false
	}
	return t.matchesPath(path)
}

func (t Topic) matchesPath(path string) bool { return t.kind.Matches(t.path, path) }

// Contains reports whether every storage of u belongs to t.
func (t Topic) Contains(u Topic) bool {
	if t.user != "" && t.user != u.user {
		return false
	}
	switch u.kind {
	case Exact:
		return t.matchesPath(u.path)
	case Subtree:
		// u has its own path and those below, so t must match the path, and not
		// only that path.
		return t.kind != Exact && t.matchesPath(u.path)
	}
	switch t.kind {
	case Exact:
		return false
	case Subtree:
		return strings.HasPrefix(u.path, t.path+"/")
	}
	return strings.HasPrefix(u.path, t.path)
}

// Overlaps reports whether some storage belongs to both t and u.
func (t Topic) Overlaps(u Topic) bool {
	if t.user != "" && u.user != "" && t.user != u.user {
		return false
	}
	if t.kind == Prefix && u.kind == Prefix {
		return strings.HasPrefix(t.path, u.path) || strings.HasPrefix(u.path, t.path)
	}
	if t.kind == Prefix {
		t, u = u, t
	}
	// t is Exact or a Subtree.
	if u.matchesPath(t.path) {
		return true
	}
	if t.kind == Exact {
		return false
	}
	return strings.HasPrefix(u.path, t.path+"/")
}

// NarrowestFirst orders topics for [slices.SortFunc], so that the narrowest topic of a
// storage comes first: a topic of one user before one of any user, then the longer path
// first, then Exact before Subtree before Prefix. A topic comes after all topics that it
// contains.
func NarrowestFirst(t, u Topic) int {
	anyUser := func(t Topic) int {
		if t.user == "" {
			return 1
		}
		return 0
	}
	return cmp.Or(
		cmp.Compare(anyUser(t), anyUser(u)),
		cmp.Compare(len(u.path), len(t.path)),
		cmp.Compare(u.kind, t.kind), // Exact is the last kind
		strings.Compare(t.user, u.user),
		strings.Compare(t.path, u.path),
	)
}

// User returns the user of t. ok is false if t is a topic of any user.
func (t Topic) User() (user string, ok bool) { return t.user, t.user != "" }

// Path returns the path of t. The [Kind] of t determines which paths t selects.
func (t Topic) Path() string { return t.path }

// Kind returns the kind of t.
func (t Topic) Kind() Kind { return t.kind }

// PathRanges yields ranges of paths, in byte order, that together contain exactly the paths
// of t. A range contains a path p if from ≤ p, and p < to or to is empty.
func (t Topic) PathRanges() iter.Seq2[string, string] {
	return func(yield func(from, to string) bool) {
		switch t.kind {
		case Exact:
			yield(t.path, t.path+"\x00")
		case Subtree:
			_ = yield(t.path, t.path+"\x00") && yield(t.path+"/", t.path+"0") // '0' follows '/'
		default:
			yield(t.path, prefixEnd(t.path))
		}
	}
}

// StorageRange returns bounds of the storages of t: each is at or after from and, unless to
// is zero, before to. Other storages may be between them.
func (t Topic) StorageRange() (from, to Storage) {
	if t.user == "" {
		return Storage{}, Storage{}
	}
	end := Storage{User: t.user + "\x00"} // after all paths of the user
	for _, path := range t.PathRanges() {
		if path != "" {
			end = Storage{t.user, path}
		}
	}
	return Storage{t.user, t.path}, end
}

// prefixEnd returns the smallest string greater than all strings that begin with p, or "" if
// there is none.
func prefixEnd(p string) string {
	for i := len(p) - 1; i >= 0; i-- {
		if p[i] < 0xff {
			return p[:i] + string([]byte{p[i] + 1})
		}
	}
	return ""
}
