package event

import (
	"cmp"
	"fmt"
	"strings"
)

// A Storage is one path of a user. It has one value at a time, which its last event set.
// Storages can be compared with ==. The zero Storage is not valid, and sorts before all
// others.
type Storage struct{ User, Path string }

// ParseStorage parses "user/path" and checks both names.
func ParseStorage(s string) (Storage, error) {
	user, path, ok := strings.Cut(s, "/")
	if !ok {
		return Storage{}, fmt.Errorf("storage %.40q: want user/path", s)
	}
	st := Storage{user, path}
	if err := st.Check(); err != nil {
		return Storage{}, err
	}
	return st, nil
}

// Check returns an error if the user or the path of s is not valid.
func (s Storage) Check() error {
	if err := CheckUser(s.User); err != nil {
		return err
	}
	return CheckPath(s.Path)
}

// String returns "user/path", or "" for the zero Storage.
func (s Storage) String() string {
	if s == (Storage{}) {
		return ""
	}
	return s.User + "/" + s.Path
}

// Compare compares s and t by the bytes of the user, then by those of the path. It returns
// -1, 0 or +1. States and snapshots are in this order.
func (s Storage) Compare(t Storage) int {
	return cmp.Or(strings.Compare(s.User, t.User), strings.Compare(s.Path, t.Path))
}

// Next returns the bound just after s: every storage after s is at or after it. It is not a
// valid Storage, since its path ends in NUL.
func (s Storage) Next() Storage { return Storage{s.User, s.Path + "\x00"} }
