package reconcile

import (
	"encoding/binary"
	"math/bits"

	"github.com/rstream-dev/rstream/event"
)

// A Salt keys the short hashes of one frame. It is random, new for each frame, and secret
// until the frame is sent.
type Salt [16]byte

// A keyer computes short hashes: SipHash-2-4 (Aumasson and Bernstein, "SipHash: a fast
// short-input PRF", 2012) keyed with a salt.
type keyer struct{ k0, k1 uint64 }

func (s Salt) keyer() keyer {
	return keyer{binary.LittleEndian.Uint64(s[:]), binary.LittleEndian.Uint64(s[8:])}
}

// shortHash returns the short hash of h.
func (k keyer) shortHash(h *event.Hash) uint64 { return k.hashBytes(h[:]) }

// hashBytes returns the SipHash-2-4 of b.
func (k keyer) hashBytes(b []byte) uint64 {
	v := sipState{k.k0 ^ 0x736f6d6570736575, k.k1 ^ 0x646f72616e646f6d, k.k0 ^ 0x6c7967656e657261, k.k1 ^ 0x7465646279746573}
	last := uint64(len(b)) << 56
	for ; len(b) >= 8; b = b[8:] {
		v.mixWord(binary.LittleEndian.Uint64(b))
	}
	for i, c := range b {
		last |= uint64(c) << (8 * i)
	}
	v.mixWord(last)
	v.v2 ^= 0xff
	for range 4 {
		v.sipRound()
	}
	return v.v0 ^ v.v1 ^ v.v2 ^ v.v3
}

type sipState struct{ v0, v1, v2, v3 uint64 }

func (v *sipState) mixWord(m uint64) {
	v.v3 ^= m
	v.sipRound()
	v.sipRound()
	v.v0 ^= m
}

func (v *sipState) sipRound() {
	v.v0 += v.v1
	v.v1 = bits.RotateLeft64(v.v1, 13) ^ v.v0
	v.v0 = bits.RotateLeft64(v.v0, 32)
	v.v2 += v.v3
	v.v3 = bits.RotateLeft64(v.v3, 16) ^ v.v2
	v.v0 += v.v3
	v.v3 = bits.RotateLeft64(v.v3, 21) ^ v.v0
	v.v2 += v.v1
	v.v1 = bits.RotateLeft64(v.v1, 17) ^ v.v2
	v.v2 = bits.RotateLeft64(v.v2, 32)
}
