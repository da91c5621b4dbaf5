package server

import (
	"io"
	"net/http"
	"strings"
	"sync"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"

	"github.com/rstream-dev/rstream/internal/wire"
)

// A compressor writes lines and streams compressed to clients that ask for it, and
// everything else as it is. What is flushed can be read at once: an event never waits
// in it for the next.
type compressor struct {
	http.ResponseWriter
	rc       *http.ResponseController
	encoding string // that was asked for

	decided bool
	status  int
	enc     encoder // nil: as it is
	pool    *sync.Pool
}

// An encoder is a zstd or a gzip writer.
type encoder interface {
	io.Writer
	Flush() error
	Close() error
	Reset(io.Writer)
}

// The encoders' memory is kept small, since every stream has one of its own. Blocks
// of events look much alike, so a short window finds most of it.
var (
	zstdEncoders = sync.Pool{New: func() any {
		e, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderConcurrency(1),
			zstd.WithWindowSize(64<<10), zstd.WithLowerEncoderMem(true))
		if err != nil {
			panic(err) // of its options alone
		}
		return e
	}}
	gzipEncoders = sync.Pool{New: func() any {
		e, err := gzip.NewWriterLevel(nil, gzip.BestSpeed)
		if err != nil {
			panic(err)
		}
		return e
	}}
)

// compressed returns what to write an answer to, and end, which must be called when it
// is whole, and only then: an answer that is cut off has to look like it.
func compressed(w http.ResponseWriter, r *http.Request) (to http.ResponseWriter, end func()) {
	if r.Method == http.MethodHead || isAppend(rawPath(r)) {
		return w, func() {}
	}
	encoding := wire.NegotiateEncoding(r.Header.Values("Accept-Encoding"))
	if encoding == "" {
		return w, func() {}
	}
	c := &compressor{ResponseWriter: w, rc: http.NewResponseController(w), encoding: encoding, status: http.StatusOK}
	return c, c.finish
}

// isAppend reports whether the answer at a path is to an append. It is made of hashes for
// the most part, and to compress it would take longer than to append.
func isAppend(path string) bool { return path == "/set" || strings.HasPrefix(path, "/set/") }

// WriteHeader notes the status until it is known whether to compress.
func (c *compressor) WriteHeader(status int) {
	if c.decided || status < http.StatusOK {
		c.ResponseWriter.WriteHeader(status)
		return
	}
	c.status = status
	c.decide(nil)
}

// worthwhile is the least size of an answer that is compressed.
const worthwhile = 1 << 10

// decide looks at what the answer is, before its first byte. A short page stays as it
// is; what a stream will have nobody knows.
func (c *compressor) decide(first []byte) {
	c.decided = true
	h := c.Header()
	switch kind := h.Get("Content-Type"); {
	case c.status != http.StatusOK:
	case kind == wire.SSE || kind == wire.NDJSON && len(first) >= worthwhile:
		c.pool = &gzipEncoders
		if c.encoding == wire.Zstd {
			c.pool = &zstdEncoders
		}
		c.enc = c.pool.Get().(encoder)
		c.enc.Reset(c.ResponseWriter)
		h.Set("Content-Encoding", c.encoding)
		h.Add("Vary", "Accept-Encoding")
		h.Del("Content-Length")
	}
	if c.status != http.StatusOK {
		c.ResponseWriter.WriteHeader(c.status)
	}
}

func (c *compressor) Write(b []byte) (int, error) {
	if !c.decided {
		c.decide(b)
	}
	if c.enc == nil {
		return c.ResponseWriter.Write(b)
	}
	return c.enc.Write(b)
}

// FlushError sends all that was written.
func (c *compressor) FlushError() error {
	if !c.decided {
		c.decide(nil)
	}
	if c.enc != nil {
		if err := c.enc.Flush(); err != nil {
			return err
		}
	}
	return c.rc.Flush()
}

// Unwrap is for http.ResponseController.
func (c *compressor) Unwrap() http.ResponseWriter { return c.ResponseWriter }

func (c *compressor) finish() {
	if c.enc == nil {
		return
	}
	_ = c.enc.Close() // the client may have gone
	c.enc.Reset(io.Discard)
	c.pool.Put(c.enc)
}
