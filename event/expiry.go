package event

import (
	"bytes"
	"strings"
)

// expiryKey is how the key of a DEL begins that ends a value which was not renewed in
// time. The hash of the PUT follows: so it ends once, whoever does it.
const expiryKey = "expired:"

// Expiry returns the append that ends the value that ev, a PUT, has set.
func Expiry(ev *Event) Draft {
	return Draft{User: ev.User, Path: ev.Path, Type: Del, Key: expiryKey + ev.Hash.String()}
}

// IsExpiry reports whether d ends a value that was not renewed in time. Its event's line
// says so as its reason.
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

// extra returns the members that a log puts before the value of d's event.
func (d *Draft) extra() []byte {
	if d.IsExpiry() {
		return []byte(`"reason":"expired"`)
	}
	return nil
}

// Covered reports whether ev's line says nothing but what follows from what its hash
// covers, besides the id and the time, which digests cover.
func (ev *Event) Covered() bool { return bytes.Equal(ev.Extra, ev.extra()) }
