package event

import (
	"bytes"
	"strings"
)

// expiryKey is the prefix of the key of a DEL that expires a value. The hash of the PUT
// follows, so that a value expires only once, no matter who appends the DEL.
const expiryKey = "expired:"

// Expiry returns the DEL that expires the value of ev, a PUT.
func Expiry(ev *Event) Draft {
	return Draft{User: ev.User, Path: ev.Path, Type: Del, Key: expiryKey + ev.Hash.String()}
}

// IsExpiry reports whether d expires a value. The line of its event then has a reason.
func (d *Draft) IsExpiry() bool {
	if d.Type != Del {
		return false
	}
	hash, ok := strings.CutPrefix(d.Key, expiryKey)
	if !ok {
		return false
	}
	_, err := ParseHash(hash)
	return err == nil
}

// expiryExtra returns the members that a log adds to the line of d's event, before the value.
func (d *Draft) expiryExtra() []byte {
	if d.IsExpiry() {
		return []byte(`"reason":"expired"`)
	}
	return nil
}

// Covered reports whether ev's line can be rebuilt from its ID, its time and the draft that
// its hash covers: it has no other members.
func (ev *Event) Covered() bool { return bytes.Equal(ev.Extra, ev.expiryExtra()) }
