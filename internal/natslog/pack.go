package natslog

import (
	"sync"

	"github.com/klauspost/compress/zstd"
)

// packMin is how long a payload must be to be compressed: most of one event is its hash, which
// cannot be.
const packMin = 1 << 10

// maxUnpacked bounds the memory that a message can ask for. No server takes one that is longer.
const maxUnpacked = 64 << 20

var (
	packer = sync.OnceValue(func() *zstd.Encoder {
		e, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderConcurrency(1), zstd.WithEncoderCRC(false), zstd.WithWindowSize(pageBytes))
		if err != nil {
			panic(err) // only for invalid options
		}
		return e
	})
	unpacker = sync.OnceValue(func() *zstd.Decoder {
		d, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(maxUnpacked))
		if err != nil {
			panic(err) // only for invalid options
		}
		return d
	})
)

// pack compresses a payload with zstd if that makes it shorter.
func pack(payload []byte) (packed []byte, shorter bool) {
	if len(payload) < packMin {
		return payload, false
	}
	if packed = packer().EncodeAll(payload, nil); len(packed) >= len(payload) {
		return payload, false
	}
	return packed, true
}

// unpack reverses pack.
func unpack(packed []byte) ([]byte, error) { return unpacker().DecodeAll(packed, nil) }
