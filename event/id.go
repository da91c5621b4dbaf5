package event

import (
	"fmt"
	"math"
	"strings"
)

// An ID is the place of an event in its log: 1 to [MaxID], assigned in the order of commit.
// Read as a position, it means "just after that event". Its text is always 13 characters of
// Crockford base32, so that IDs sort as text.
type ID uint64

const (
	// Beginning is the position before the first event of a log.
	Beginning ID = 0
	// MaxID is the largest ID. As the end of a range it means "no end".
	MaxID ID = math.MaxInt64
	// IDLen is the length of an ID's text in bytes.
	IDLen = 13
	// BlockSize is the number of IDs in a block: block b holds the IDs
	// (BlockSize·b, BlockSize·(b+1)].
	BlockSize = 4096
)

const crockford = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"

// crockfordValue maps upper-case Crockford characters to their values, and all other bytes
// to 0xff.
var crockfordValue = func() (t [256]byte) {
	for i := range t {
		t[i] = 0xff
	}
	for i := range len(crockford) {
		t[crockford[i]] = byte(i)
	}
	return t
}()

// AppendTo appends the 13 characters of id to b.
func (id ID) AppendTo(b []byte) []byte {
	var text [IDLen]byte
	for i := IDLen - 2; i > 0; i -= 2 {
		pair := crockfordPairs[id&1023]
		text[i], text[i+1] = pair[0], pair[1]
		id >>= 10
	}
	text[0] = crockford[id&31]
	return append(b, text[:]...)
}

// crockfordPairs are the two characters of the numbers below 1024.
var crockfordPairs = func() (pairs [1024][2]byte) {
	for i := range pairs {
		pairs[i] = [2]byte{crockford[i>>5], crockford[i&31]}
	}
	return pairs
}()

// String returns the 13 characters of id.
func (id ID) String() string { return string(id.AppendTo(make([]byte, 0, IDLen))) }

// MarshalText returns the 13 characters of id.
func (id ID) MarshalText() ([]byte, error) { return id.AppendTo(nil), nil }

// UnmarshalText parses an ID as [ParseID] does.
func (id *ID) UnmarshalText(b []byte) (err error) {
	*id, err = ParseID(string(b))
	return err
}

// Block returns the number of the block that contains id. Beginning, which is in no block,
// counts as part of block 0.
func (id ID) Block() uint64 {
	if id == 0 {
		return 0
	}
	return uint64(id-1) / BlockSize
}

// ParseID parses the 13 characters of an ID or a position. Each ID has exactly one text:
// lower case, other lengths and values over MaxID are refused.
func ParseID(s string) (ID, error) {
	id, ok := parseID(s)
	if !ok {
		return 0, idError(s)
	}
	return id, nil
}

func idError(s string) error {
	return fmt.Errorf("parse id %.40q: want 13 characters of 0-9 and A-Z without I, L, O, U, at most %s", s, MaxID)
}

func parseID[T string | []byte](s T) (ID, bool) {
	if len(s) != IDLen {
		return 0, false
	}
	if s[0] > '7' { // 13 characters have 65 bits, an ID 63
		return 0, false
	}
	var id ID
	for i := range IDLen {
		v := crockfordValue[s[i]]
		if v == 0xff {
			return 0, false
		}
		id = id<<5 | ID(v)
	}
	return id, true
}

// LogIDLen is the length of a log id in bytes, and LogSuffixLen that of its part in a
// cursor.
const (
	LogIDLen     = 16
	LogSuffixLen = 5
)

// ValidLogID reports whether s is a valid log id: 16 characters of Crockford base32.
func ValidLogID(s string) bool { return len(s) == LogIDLen && isCrockford(s) }

// NewLogID returns a log id made from 10 random bytes.
func NewLogID(random [10]byte) string {
	var b strings.Builder
	var acc, bits uint
	for _, c := range random {
		acc, bits = acc<<8|uint(c), bits+8
		for ; bits >= 5; bits -= 5 {
			b.WriteByte(crockford[acc>>(bits-5)&31])
		}
	}
	return b.String()
}

func isCrockford(s string) bool {
	for i := range len(s) {
		if crockfordValue[s[i]] == 0xff {
			return false
		}
	}
	return true
}
