package reconcile

import (
	"encoding/binary"
	"math"
	"math/bits"
	"slices"

	"github.com/bits-and-blooms/bloom/v3"

	"github.com/rstream-dev/rstream/event"
)

// A Filter reports of each hash whether it may be in a set, or certainly is not. It is a
// frame of its own: in a request, in a response, or alone as the bloomFilter of an HTTP
// request. It is not safe for concurrent use.
type Filter struct {
	Count uint64 // number of events in the set
	salt  Salt
	key   keyer
	bloom *bloom.BloomFilter
	slots *slots // in place of bloom: an inverse filter
}

// NewBloom returns a bloom filter (Bloom, "Space/time trade-offs in hash coding with
// allowable errors", 1970) of n items, with bits hash functions, 1 to 32: it has one false
// positive in 2^bits. Its keys are short hashes, because bloom/v3 hashes without a seed.
func NewBloom(items Items, n uint64, bits int, salt Salt) (*Filter, error) {
	f := &Filter{Count: n, salt: salt, key: salt.keyer()}
	f.bloom = bloom.New(uint(bloomSize(n, bits)), uint(bits))
	for it, err := range items {
		if err != nil {
			return nil, err
		}
		key := f.shortBytes(&it.Hash)
		f.bloom.Add(key[:])
	}
	return f, nil
}

// bloomSize returns the size in bits of a filter that will be half full, which is best for
// k functions. Small filters have a higher error rate, so each has room for at least
// minBits items.
func bloomSize(n uint64, k int) uint64 {
	return uint64(math.Ceil(float64(max(n, minBits)) * float64(k) / math.Ln2))
}

// bloomBytes returns the approximate length of the frame of that filter.
func bloomBytes(n uint64, k int) float64 { return float64(bloomSize(n, k))/8 + 50 }

// Seen reports whether h may be in the set. If it returns false, h is certainly not.
func (f *Filter) Seen(h event.Hash) bool {
	if f.slots != nil {
		return f.slots.seen(f.key.shortHash(&h), &h)
	}
	key := f.shortBytes(&h)
	return f.bloom.Test(key[:])
}

func (f *Filter) shortBytes(h *event.Hash) (b [8]byte) {
	binary.BigEndian.PutUint64(b[:], f.key.shortHash(h))
	return b
}

// AppendTo appends f's frame to b.
func (f *Filter) AppendTo(b []byte) []byte {
	k := kindBloom
	if f.slots != nil {
		k = kindInverse
	}
	return appendFrame(b, k, func(b []byte) []byte {
		b = binary.AppendUvarint(append(b, f.salt[:]...), f.Count)
		if f.slots != nil {
			return f.slots.appendTo(b)
		}
		w := appender(slices.Grow(b, 24+8*len(f.bloom.BitSet().Words())))
		if _, err := f.bloom.WriteTo(&w); err != nil {
			panic(err) // cannot happen: appender never fails
		}
		return w
	})
}

type appender []byte

func (a *appender) Write(b []byte) (int, error) {
	*a = append(*a, b...)
	return len(b), nil
}

// ParseFilter parses the frame of a filter. It returns a FrameError if the frame is invalid
// or exceeds limits.
func ParseFilter(frame []byte, limits Limits) (*Filter, error) {
	k, body, rest, err := cutFrame(frame)
	switch {
	case err != nil:
		return nil, err
	case len(rest) > 0:
		return nil, malformed("%d bytes are left after the filter", len(rest))
	case k != kindBloom && k != kindInverse:
		return nil, malformed("kind %d is not a filter", k)
	}
	return parseFilter(k, body, limits.orDefaults())
}

func parseFilter(k kind, body []byte, limits Limits) (*Filter, error) {
	if len(body) > limits.Filter {
		return nil, frameTooLarge("filter: %d bytes are more than %d", len(body), limits.Filter)
	}
	r := reader{b: body}
	f := &Filter{}
	r.fixed("salt", f.salt[:])
	f.Count = r.uvarint("count", maxCount)
	f.key = f.salt.keyer()
	if r.err == nil && k == kindInverse {
		f.slots = parseSlots(&r)
		return f, r.endError()
	}
	if r.err != nil {
		return nil, r.err
	}
	var err error
	f.bloom, err = parseBloom(r.b)
	return f, err
}

// parseBloom parses the output of bloom/v3. That package's decoder trusts the header: it
// would allocate a bitset of any length, divide by an m of zero, match everything with a k
// of zero, and loop for ever with a large k. So parseBloom checks the header first, above
// all against the length of b.
func parseBloom(b []byte) (*bloom.BloomFilter, error) {
	r := reader{b: b}
	m, k, length := r.uint64("m"), r.uint64("k"), r.uint64("length")
	words := uint64(len(r.b)) / 8
	switch {
	case r.err != nil:
		return nil, r.err
	case m < minBits || m > 8*uint64(len(b)):
		return nil, malformed("bloom: m is %d in %d bytes", m, len(b))
	case k < 1 || k > maxHashes:
		return nil, malformed("bloom: k is %d, want 1 to %d", k, maxHashes)
	case length != m && length != (m+63)/64*64:
		return nil, malformed("bloom: a bitset of %d for m of %d", length, m)
	case words != (m+63)/64 || len(r.b)%8 != 0:
		return nil, malformed("bloom: %d bytes of bits for m of %d", len(r.b), m)
	}
	if err := checkFill(r.b, m); err != nil {
		return nil, err
	}
	f := new(bloom.BloomFilter)
	if err := f.UnmarshalBinary(b); err != nil {
		return nil, malformed("bloom: %v", err)
	}
	return f, nil
}

// checkFill refuses a filter that matches too much: with 0.6 of its bits set, even one with
// many functions is far above its error rate. Bits after m must not be set.
func checkFill(words []byte, m uint64) error {
	ones := uint64(0)
	for i := 0; i < len(words); i += 8 {
		ones += uint64(bits.OnesCount64(binary.BigEndian.Uint64(words[i:])))
	}
	if 10*ones > 6*m {
		return malformed("bloom: %d of %d bits are set, want at most 0.6", ones, m)
	}
	if last := binary.BigEndian.Uint64(words[len(words)-8:]); m%64 != 0 && last>>(m%64) != 0 {
		return malformed("bloom: bits after m are set")
	}
	return nil
}
