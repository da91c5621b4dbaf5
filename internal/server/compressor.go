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

// A compressor compresses lines and streams for clients that accept it, and leaves other
// responses as they are. After a flush, the client can decode all bytes so far, so that no
// event waits for the next one.
type compressor struct {
	http.ResponseWriter
	rc       *http.ResponseController
	encoding string // the negotiated encoding

	decided bool
	status  int
	enc     encoder // nil if the response is not compressed
	pool    *sync.Pool
}

// An encoder is a zstd or a gzip writer.
type encoder interface {
	io.Writer
	Flush() error
	Close() error
	Reset(io.Writer)
}

// The encoders use little memory, since every stream has its own. Successive events are
// similar, so a short window finds most repetitions.
var (
	zstdEncoders = sync.Pool{New: func() any {
		e, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderConcurrency(1),
			zstd.WithWindowSize(64<<10), zstd.WithLowerEncoderMem(true))
		if err != nil {
			panic(err) // only for invalid options
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

// compressedWriter returns the writer for a response, and a function to call when the
// response is complete. It must not be called otherwise: a truncated response must look
// truncated.
func compressedWriter(w http.ResponseWriter, r *http.Request) (to http.ResponseWriter, end func()) {
	if r.Method == http.MethodHead || isAppend(rawPath(r)) {
		return w, func() {}
	}
	encoding := wire.NegotiateEncoding(r.Header.Values("Accept-Encoding"))
	if encoding == "" {
		return w, func() {}
	}
	c := &compressor{ResponseWriter: w, rc: http.NewResponseController(w), encoding: encoding, status: http.StatusOK}
	return c, c.finishBody
}

// isAppend reports whether path is that of an append. Its response consists mostly of hashes,
// and compressing it would take longer than the append.
func isAppend(path string) bool { return path == "/set" || strings.HasPrefix(path, "/set/") }

// WriteHeader keeps the status until it is known whether to compress.
func (c *compressor) WriteHeader(status int) {
	if c.decided || status < http.StatusOK {
		c.ResponseWriter.WriteHeader(status)
		return
	}
	c.status = status
	c.decide(nil)
}

// worthwhile is the minimum size in bytes of a response that is compressed.
const worthwhile = 1 << 10

// decide decides before the first byte whether to compress. Short lines are not compressed;
// streams are, since their size is not known, and lines whose number is not known.
func (c *compressor) decide(first []byte) {
	c.decided = true
	h := c.Header()
	switch kind := h.Get("Content-Type"); {
	case c.status != http.StatusOK:
	case kind == wire.SSE || kind == wire.NDJSON && (len(first) >= worthwhile || h.Get(wire.HeaderEvents) == ""):
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

// FlushError sends all bytes written so far.
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

// Unwrap implements the interface of http.ResponseController.
func (c *compressor) Unwrap() http.ResponseWriter { return c.ResponseWriter }

func (c *compressor) finishBody() {
	if c.enc == nil {
		return
	}
	_ = c.enc.Close() // fails only if the client is gone
	c.enc.Reset(io.Discard)
	c.pool.Put(c.enc)
}
