package dbfile

import (
	"path/filepath"
	"strings"
	"testing"
)

func TestPresenceOf(t *testing.T) {
	path := filepath.Join(t.TempDir(), "copy.db")
	self, other, off := newOwner(path), newOwner(path), newOwner(path)
	off.once.Do(func() { off.name = off.base }) // without a lock
	defer self.close()
	host, _, _ := strings.Cut(self.base, "/")
	name, file := other.String(), ""
	if parts := strings.SplitN(name, "/", 4); len(parts) == 4 {
		file = parts[3]
	} else {
		t.Fatalf("%s has no lock", name)
	}
	for owner, want := range map[string]presence{
		self.String(): present, name: present, off.String(): unknown,
		host + "/1/x": unknown, host + "/999999999/x": gone, "elsewhere/999999999/x": unknown,
		host + "/0/x": unknown, host + "/-1/x": unknown, host + "/x/x": unknown, host: unknown, "": unknown,
		"elsewhere/1/x/" + file: gone, "elsewhere/1/x/" + file + "0": unknown, "elsewhere/1/x/": unknown,
		host + "/999999999/x/another.1.2": gone, // its lock cannot be seen, its number can
	} {
		if got := self.presenceOf(owner); got != want {
			t.Errorf("presenceOf(%q) = %v, want %v", owner, got, want)
		}
	}
	if err := other.close(); err != nil {
		t.Fatal(err)
	}
	if got := self.presenceOf(name); got != gone {
		t.Errorf("after its end: %v", got)
	}
}
