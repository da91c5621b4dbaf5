package client

import (
	"context"
	"errors"
	"net"
	"net/http"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/rstream-dev/rstream/internal/sse"
)

// certificateAlerts are what crypto/tls, which has no type for them, says of the alerts of a server
// that does not accept the client's certificate, or the lack of one.
var certificateAlerts = []string{
	"tls: certificate required", "tls: bad certificate", "tls: unsupported certificate", "tls: revoked certificate",
	"tls: expired certificate", "tls: unknown certificate", "tls: unknown certificate authority", "tls: access denied",
}

// isRefusedHandshake reports whether err is such an alert. In TLS 1.3 the client's handshake has
// ended before the server's, so a request may have been sent. The server has not read it.
func isRefusedHandshake(err error) bool {
	var op *net.OpError
	return errors.As(err, &op) && op.Op == "remote error" && slices.Contains(certificateAlerts, op.Err.Error())
}

// isBrokenByServer reports whether a connection ended while a request was being sent. If a server
// refuses a handshake, this may hide its alert.
func isBrokenByServer(err error) bool {
	return errors.Is(err, syscall.EPIPE) || errors.Is(err, syscall.ECONNRESET) || errors.Is(err, net.ErrClosed) ||
		strings.Contains(err.Error(), "http2: client conn could not be established")
}

// findAlert returns the alert that err, of a first request, may hide, or else err. It makes a request
// that is too short to be interrupted, and has no secrets.
func (c *Client) findAlert(ctx context.Context, base string, err error) error {
	if !strings.HasPrefix(base, "https:") || c.everReached() || c.cfg.HTTP != nil || !isBrokenByServer(err) || ctx.Err() != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	transport := sse.NewTransport(c.cfg.longestWait(), c.cfg.TLS)
	defer transport.CloseIdleConnections()
	transport.ForceAttemptHTTP2 = false // it begins with more than one write
	req, failed := http.NewRequestWithContext(ctx, http.MethodGet, base+"/healthz", nil)
	if failed != nil {
		return err
	}
	resp, failed := transport.RoundTrip(req)
	if failed == nil {
		_ = resp.Body.Close()
	}
	if isRefusedHandshake(failed) {
		return failed
	}
	return err
}
