package event

import (
	"cmp"
	"fmt"
	"strings"
)

// A Storage is one user's path: a place that holds one value at a time, the value
// that its last event set. Storages are values and can be compared with ==. The
// zero Storage is none, and stands before all others.
type Storage struct{ User, Path string }

// ParseStorage reads "user/path" and checks both names.
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

// Check says what is wrong with the names of s.
func (s Storage) Check() error {
	if err := CheckUser(s.User); err != nil {
		return err
	}
	return CheckPath(s.Path)
}

// String returns "user/path", or nothing for the zero Storage.
func (s Storage) String() string {
	if s == (Storage{}) {
		return ""
	}
	return s.User + "/" + s.Path
}

// Compare returns -1, 0 or +1 as s stands before, at or after t in the order of
// storages: by the bytes of the user, then by those of the path. States and
// snapshots come in this order.
func (s Storage) Compare(t Storage) int {
	return cmp.Or(strings.Compare(s.User, t.User), strings.Compare(s.Path, t.Path))
}

// Next returns the bound just after s: every storage after s stands at or after it.
// It is no storage itself, since its path ends in NUL.
func (s Storage) Next() Storage { return Storage{s.User, s.Path + "\x00"} }
