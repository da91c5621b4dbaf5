package event

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
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

// hashLen is the length of a Hash's text in bytes.
const hashLen = 2 * sha256.Size

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
	if len(s) != hashLen {
		return h, fmt.Errorf("parse hash %.80q: want 64 hex digits", string(s))
	}
	var digits [hashLen]byte
	copy(digits[:], s)
	var wrong uint64 // checked once at the end: this runs for each event of a replay
	for i := 0; i < len(h); i += 4 {
		v, w := parseHex(binary.LittleEndian.Uint64(digits[2*i:]))
		binary.LittleEndian.PutUint32(h[i:], v)
		wrong |= w
	}
	if wrong != 0 {
		return Hash{}, fmt.Errorf("parse hash %.80q: want lower-case hex digits", string(s))
	}
	return h, nil
}

// parseHex returns the four bytes that eight digits stand for, all in little-endian order.
// wrong is zero if all of them are lower-case hex digits.
func parseHex(digits uint64) (v uint32, wrong uint64) {
	const each = 0x0101010101010101 // the factor that puts a byte in place of each digit
	letters := digits >> 6 & each
	n := digits&(0x0f*each) + 9*letters // of each digit
	wrong = digits&(0xf0*each) ^ 0x30*(each+letters)
	wrong |= (n+6*each)&(16*each) ^ 16*letters // letters stand for 10 or more, others do not
	wrong |= n & (16 * each)
	n = (n<<4 | n>>8) & 0x00ff00ff00ff00ff
	n = (n | n>>8) & 0x0000ffff0000ffff
	return uint32(n | n>>16), wrong
}

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
