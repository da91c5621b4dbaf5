package wire

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strings"
)

// A ProxyError says that the proxy of the environment let no request through.
type ProxyError struct {
	Proxy string // its URL as it may be shown, "" if it has none
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

// AsProxyError returns the error of a request to target as one of the proxy, nil if it
// is none. net/http names no proxy in it, and quotes its password if it is no URL.
func AsProxyError(err error, target *url.URL) *ProxyError {
	var op *net.OpError
	switch {
	case err == nil:
		return nil
	case strings.Contains(err.Error(), "invalid proxy address"):
		return &ProxyError{Err: errors.New("HTTP_PROXY, HTTPS_PROXY or ALL_PROXY is not the URL of a proxy")}
	case !errors.As(err, &op), op.Op != "proxyconnect" && !strings.HasPrefix(op.Op, "socks"):
		return nil
	}
	proxy, perr := http.ProxyFromEnvironment(&http.Request{URL: target})
	if perr != nil || proxy == nil { // of another transport
		return &ProxyError{Proxy: "of the client", Err: op.Err}
	}
	return &ProxyError{Proxy: RedactURL(proxy.String()), Err: op.Err}
}
