package wire

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strings"
)

// A ProxyError reports that a request failed at the proxy that the environment sets.
type ProxyError struct {
	Proxy string // its redacted URL, or "" if it has none
	Err   error
}

func (e *ProxyError) Error() string {
	if e.Proxy == "" {
		return e.Err.Error()
	}
	return fmt.Sprintf("proxy %s: %v", e.Proxy, e.Err)
}

// Unwrap returns the cause.
func (e *ProxyError) Unwrap() error { return e.Err }

// AsProxyError returns the error of a request to target as a ProxyError, or nil if the
// proxy did not cause it. The errors of net/http do not name the proxy, and quote its
// password if its URL is invalid.
func AsProxyError(err error, target *url.URL) *ProxyError {
	var op *net.OpError
	switch {
	case err == nil:
		return nil
	case strings.Contains(err.Error(), "invalid proxy address"):
		return &ProxyError{Err: errors.New("HTTP_PROXY, HTTPS_PROXY or ALL_PROXY is not a valid URL")}
	case !errors.As(err, &op), op.Op != "proxyconnect" && !strings.HasPrefix(op.Op, "socks"):
		return nil
	}
	proxy, perr := http.ProxyFromEnvironment(&http.Request{URL: target})
	if perr != nil || proxy == nil { // the proxy of another transport
		return &ProxyError{Proxy: "of the client", Err: op.Err}
	}
	return &ProxyError{Proxy: RedactURL(proxy.String()), Err: op.Err}
}
