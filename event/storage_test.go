package event

import (
	"cmp"
	"testing"

	"pgregory.net/rapid"
)

func TestStorageText(t *testing.T) {
	for _, s := range []string{"alice/posts/1", "é/a", "a/b$c", "a b/..c"} {
		storage, err := ParseStorage(s)
		if err != nil || storage.String() != s {
			t.Errorf("ParseStorage(%q) = %q, %v", s, storage, err)
		}
	}
	for _, s := range []string{"", "/", "alice", "alice/", "/posts", "*/posts", "alice/posts/", "alice/a//b", "alice/..", "../a", "alice/po*", "alice/posts$", "alice/\x00"} {
		if storage, err := ParseStorage(s); err == nil || storage != (Storage{}) {
			t.Errorf("ParseStorage(%q) = %q, %v, want an error", s, storage, err)
		}
	}
	if s := (Storage{}).String(); s != "" {
		t.Errorf("the zero Storage is %q", s)
	}
}

// Storages are in the order of their users, then of their paths, and Next is just after.
func TestStorageOrder(t *testing.T) {
	name := rapid.StringMatching(`[ab!~é]{1,3}`)
	draw := func(t *rapid.T, label string) Storage {
		s := Storage{name.Draw(t, label), name.Draw(t, label)}
		if n := rapid.IntRange(0, 2).Draw(t, label); n > 0 {
			s.Path += []string{"", "/x", "\x01"}[n]
		}
		return s
	}
	rapid.Check(t, func(t *rapid.T) {
		a, b := draw(t, "a"), draw(t, "b")
		want := cmp.Or(cmp.Compare(a.User, b.User), cmp.Compare(a.Path, b.Path))
		if got := a.Compare(b); got != want || b.Compare(a) != -want || (got == 0) != (a == b) {
			t.Fatalf("%q.Compare(%q) = %d, want %d", a, b, got, want)
		}
		next := a.Next()
		if a.Compare(next) >= 0 || next.Check() == nil || (Storage{}).Compare(a) >= 0 {
			t.Fatalf("%q is not between the zero Storage and Next, %q", a, next)
		}
		if (b.Compare(a) > 0) != (b.Compare(next) >= 0) {
			t.Fatalf("%q stands between %q and Next", b, a)
		}
	})
}
