package sse

import (
	"crypto/tls"
	"errors"
	"net"
	"net/http"
	"net/url"
	"slices"
	"time"
)

// NewTransport returns a transport that waits this long for a response to begin. Its
// body is then limited by an IdleBody. It decompresses nothing.
func NewTransport(answer time.Duration, secure *tls.Config) *http.Transport {
	return &http.Transport{
		TLSClientConfig:        secure,
		Proxy:                  http.ProxyFromEnvironment,
		DialContext:            (&net.Dialer{Timeout: min(answer, 10*time.Second), KeepAlive: 15 * time.Second}).DialContext,
		TLSHandshakeTimeout:    min(answer, 10*time.Second),
		ResponseHeaderTimeout:  answer,
		MaxResponseHeaderBytes: 64 << 10,
		IdleConnTimeout:        90 * time.Second,
		MaxIdleConnsPerHost:    4,
		DisableCompression:     true,
		ForceAttemptHTTP2:      true,
	}
}

// RedirectPolicy returns a policy that removes secrets from requests to another host or
// without TLS, also if a later redirect leads back: net/http keeps tokens for subdomains and
// all other headers for everybody, and tells it the URL before, whose parameters may be secret,
// as the Referer. secrets returns the headers that requests to a server have,
// besides the token. Then next decides; if it is nil, CheckRedirect.
func RedirectPolicy(secrets func(server *url.URL) http.Header, next func(*http.Request, []*http.Request) error) func(*http.Request, []*http.Request) error {
	if next == nil {
		next = CheckRedirect
	}
	return func(req *http.Request, via []*http.Request) error {
		first := via[0].URL
		left := func(r *http.Request) bool { return r.URL.Host != first.Host || r.URL.Scheme != first.Scheme }
		if left(req) || slices.ContainsFunc(via, left) {
			req.Header.Del("Authorization")
			req.Header.Del("Referer")
			for name := range secrets(first) {
				req.Header.Del(name)
			}
		}
		return next(req, via)
	}
}

// CheckRedirect removes the token from requests to another host, or without TLS. net/http
// keeps it for subdomains. Like net/http, it follows at most ten redirects.
func CheckRedirect(req *http.Request, via []*http.Request) error {
	if first := via[0].URL; req.URL.Host != first.Host || req.URL.Scheme != first.Scheme {
		req.Header.Del("Authorization")
	}
	if len(via) >= 10 {
		return errors.New("stopped after 10 redirects")
	}
	return nil
}
