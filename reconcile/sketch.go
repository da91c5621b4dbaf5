package reconcile

import (
	"encoding/binary"
	"math"
)

// A sketch is the first cells of a rateless IBLT (Yang, Gilad and Alizadeh,
// "Practical Rateless Set Reconciliation", SIGCOMM 2024, after Eppstein, Goodrich,
// Uyeda and Varghese, "What's the Difference?", SIGCOMM 2011). Each short hash is
// in cell 0 and in cell i with probability 2/(i+2). Two sketches with the same salt
// subtract to the sketch of the difference, which peels: a cell with a single short hash
// reveals it, and removing it from its other cells leaves more cells with a single one.
// About 1.4 cells for each difference are enough.
type sketch []cell

type cell struct {
	sum   uint64 // xor of its short hashes
	check uint32 // xor of their checks
	count int64  // number of short hashes
}

// cellBytes is the approximate size of a cell on the wire.
const cellBytes = 13.5

const golden = 0x9e3779b97f4a7c15

// mixBits is the finalizer of splitmix64 (Steele, Lea and Flood, 2014).
func mixBits(z uint64) uint64 {
	z = (z ^ z>>30) * 0xbf58476d1ce4e5b9
	z = (z ^ z>>27) * 0x94d049bb133111eb
	return z ^ z>>31
}

// checkOf returns the check of a short hash, which distinguishes it from a xor of several.
func checkOf(short uint64) uint32 { return uint32(mixBits(short)) }

// A walk visits the cells of one short hash, beginning with cell 0.
type walk struct{ state, cell uint64 }

// advance moves to the next cell. The distance follows the inverse of the probability that a
// cell is the next one. It uses only operations that IEEE 754 defines to the last bit, so
// that every language computes the same cell.
func (w *walk) advance() {
	w.state += golden
	u := float64(mixBits(w.state)>>32 + 1)
	skip := math.Ceil((float64(w.cell) + 1.5) * (65536/math.Sqrt(u) - 1))
	w.cell += max(1, uint64(skip))
}

// putShort adds the short hash with a sign of 1 or -1 to all its cells, calls touched, if it is
// not nil, for each, and returns their number.
func (s sketch) putShort(short uint64, sign int64, touched func(uint64)) (n int) {
	check := checkOf(short)
	for w := (walk{state: short}); w.cell < uint64(len(s)); w.advance() {
		c := &s[w.cell]
		c.sum ^= short
		c.check ^= check
		c.count += sign
		if touched != nil {
			touched(w.cell)
		}
		n++
	}
	return n
}

func newSketch(items Items, m int, key keyer) (sketch, error) {
	s := make(sketch, m)
	for it, err := range items {
		if err != nil {
			return nil, err
		}
		s.putShort(key.shortHash(&it.Hash), 1, nil)
	}
	return s, nil
}

// minus subtracts t from s.
func (s sketch) minus(t sketch) {
	for i := range s {
		s[i].sum ^= t[i].sum
		s[i].check ^= t[i].check
		s[i].count -= t[i].count
	}
}

func (c *cell) pure() bool { return (c.count == 1 || c.count == -1) && c.check == checkOf(c.sum) }

// peel decodes the difference of two sketches: plus has the short hashes that only the
// first has, minus those that only the second has. ok is false if cells are left over, or
// are not a difference of sets. The number of cells bounds the work, whatever is in them.
func (s sketch) peel() (plus, minus []uint64, ok bool) {
	var queue []uint64
	pure := func(i uint64) {
		if s[i].pure() {
			queue = append(queue, i)
		}
	}
	for i := range s {
		pure(uint64(i))
	}
	steps, work := 2*len(s)+16, 64*len(s)+1024
	for len(queue) > 0 {
		i := queue[len(queue)-1]
		queue = queue[:len(queue)-1]
		c := s[i]
		if !c.pure() {
			continue
		}
		if c.count > 0 {
			plus = append(plus, c.sum)
		} else {
			minus = append(minus, c.sum)
		}
		work -= s.putShort(c.sum, -c.count, pure)
		if steps--; steps < 0 || work < 0 || len(plus)+len(minus) > len(s) {
			return nil, nil, false
		}
	}
	return plus, minus, s.isEmpty()
}

func (s sketch) isEmpty() bool {
	for i := range s {
		if s[i] != (cell{}) {
			return false
		}
	}
	return true
}

// estimate returns an estimate of the number of short hashes in a difference that did not
// peel. It uses the variance of the counts around the values that the difference in size
// alone would give.
func (s sketch) estimate() uint64 {
	var total, n float64
	diff := float64(s[0].count)
	for i := 1; i < min(len(s), 1024); i++ {
		p := 2 / float64(i+2)
		off := float64(s[i].count) - diff*p
		total += off * off / (p * (1 - p))
		n++
	}
	guess := math.Abs(diff)
	if n > 0 {
		guess = max(guess, total/n)
	}
	return uint64(min(guess, maxCount))
}

// expected returns the approximate count of cell i for n short hashes. A frame has only the
// deviation from it.
func expected(n uint64, i int) int64 { return int64(2 * n / uint64(i+2)) }

// appendTo appends the body of a sketch of n items.
func (s sketch) appendTo(b []byte, salt Salt, n uint64) []byte {
	b = binary.AppendUvarint(append(b, salt[:]...), uint64(len(s)))
	for i := range s {
		b = binary.BigEndian.AppendUint64(b, s[i].sum)
		b = binary.BigEndian.AppendUint32(b, s[i].check)
		b = binary.AppendVarint(b, s[i].count-expected(n, i))
	}
	return b
}

// parseSketch parses the body of a sketch of n items.
func parseSketch(r *reader, n uint64, limit int) (s sketch, salt Salt) {
	r.fixed("salt", salt[:])
	m := r.limited("cells", limit)
	if r.err == nil && (m == 0 || len(r.b) < 13*m) {
		r.setError(malformed("sketch: %d cells in %d bytes", m, len(r.b)))
	}
	if r.err != nil {
		return nil, salt
	}
	s = make(sketch, m)
	for i := range s {
		s[i].sum, s[i].check = r.uint64("cell"), r.uint32("check")
		z := r.uvarint("cell's count", 4*maxCount)
		s[i].count = expected(n, i) + (int64(z>>1) ^ -int64(z&1))
		if r.err == nil && (s[i].count < 0 || s[i].count > int64(n)) {
			r.setError(malformed("sketch: cell %d counts %d of %d", i, s[i].count, n))
		}
	}
	return s, salt
}
