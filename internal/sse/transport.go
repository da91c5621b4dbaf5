package sse

import (
	"crypto/tls"
	"errors"
	"net"
	"net/http"
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
