package event

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
)

// A Hash identifies a draft. It is SHA-256 over
//
//	rstream1 NUL user NUL path NUL type NUL key NUL value
//
// with the bytes of the value as stored (none for Del). No name contains NUL, so no two
// drafts have the same hashed bytes. Its text is 64 lower-case hex digits.
type Hash [sha256.Size]byte

// hashDomain separates these hashes from other uses of SHA-256.
const hashDomain = "rstream1"

// String returns the 64 hex digits of h.
func (h Hash) String() string { return hex.EncodeToString(h[:]) }

// Compare compares h and other in the order of their bytes. It returns -1, 0 or +1.
func (h Hash) Compare(other Hash) int { return bytes.Compare(h[:], other[:]) }

// MarshalText returns the 64 hex digits of h.
func (h Hash) MarshalText() ([]byte, error) { return hex.AppendEncode(nil, h[:]), nil }

// UnmarshalText parses 64 lower-case hex digits.
func (h *Hash) UnmarshalText(b []byte) (err error) {
	*h, err = ParseHash(b)
	return err
}

// ParseHash parses 64 lower-case hex digits.
func ParseHash[T string | []byte](s T) (h Hash, err error) {
	if len(s) != 2*len(h) {
		return h, fmt.Errorf("parse hash %.80q: want 64 hex digits", string(s))
	}
	var all byte // checked once at the end: this runs for each event of a replay
	for i := range h {
		hi, lo := hexDigits[s[2*i]], hexDigits[s[2*i+1]]
		all |= hi | lo
		h[i] = hi<<4 | lo
	}
	if all > 15 {
		return Hash{}, fmt.Errorf("parse hash %.80q: want lower-case hex digits", string(s))
	}
	return h, nil
}

// hexDigits maps lower-case hex digits to their values, and all other bytes to 0xff.
var hexDigits = func() (values [256]byte) {
	for c := range values {
		values[c] = 0xff
	}
	for i, c := range "0123456789abcdef" {
		values[c] = byte(i)
	}
	return values
}()

func hashOf(user, path string, typ Type, key string, value []byte) (h Hash) {
	b := make([]byte, 0, 512) // on the stack only because of the Clone below
	b = append(append(b, hashDomain...), 0)
	b = append(append(b, user...), 0)
	b = append(append(b, path...), 0)
	b = append(append(b, typ...), 0)
	b = append(append(b, key...), 0)
	if len(b)+len(value) <= cap(b) {
		return sha256.Sum256(append(b, value...))
	}
	d := sha256.New() // rather than copy a large value
	d.Write(bytes.Clone(b))
	d.Write(value)
	return Hash(d.Sum(nil))
}
