package mirror

import (
	"io"
	"net/http"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"

	"github.com/rstream-dev/rstream/internal/wire"
)

// acceptedCodings is the Accept-Encoding of requests for history.
const acceptedCodings = wire.Zstd + ", " + wire.Gzip

func isAccepted(coding string) bool { return coding == wire.Zstd || coding == wire.Gzip }

// maxWindow bounds the memory that a compressed response can ask for.
const maxWindow = 8 << 20

// decompress returns the body of a response as it was before it was compressed. It closes the
// body if that cannot be read.
func (u *HTTP) decompress(resp *http.Response) (body io.ReadCloser, err error) {
	switch resp.Header.Get("Content-Encoding") {
	case wire.Zstd:
		d, err := zstd.NewReader(resp.Body, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true), zstd.WithDecoderMaxWindow(maxWindow))
		if err != nil {
			resp.Body.Close()
			return nil, u.networkError(err)
		}
		return &compressedBody{d, resp.Body, d.Close}, nil
	case wire.Gzip:
		d, err := gzip.NewReader(resp.Body)
		if err != nil {
			resp.Body.Close()
			return nil, u.networkError(err)
		}
		return &compressedBody{d, resp.Body, func() {}}, nil
	}
	return resp.Body, nil
}

// A compressedBody reads a body that is compressed.
type compressedBody struct {
	io.Reader
	body io.Closer
	free func()
}

func (b *compressedBody) Close() error {
	b.free()
	return b.body.Close()
}
