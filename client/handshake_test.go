package client

import (
	"crypto/tls"
	"errors"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/rstream-dev/rstream/event"
)

// overTLS starts a server, and returns the configuration of its clients.
func overTLS(t *testing.T, http2 bool, clients tls.ClientAuthType, h http.HandlerFunc) (*httptest.Server, Config) {
	srv := httptest.NewUnstartedServer(h)
	srv.EnableHTTP2 = http2
	srv.TLS = &tls.Config{ClientAuth: clients}
	srv.Config.ErrorLog = log.New(io.Discard, "", 0)
	srv.StartTLS()
	t.Cleanup(srv.Close)
	cfg := hasty(srv.URL)
	cfg.TLS = srv.Client().Transport.(*http.Transport).TLSClientConfig
	return srv, cfg
}

func largeDraft() []event.Draft {
	return []event.Draft{{User: "alice", Path: "x", Type: event.Put, Key: "k", Value: []byte(`"` + strings.Repeat("x", 500_000) + `"`)}}
}

// A server that wants a certificate refuses the handshake of TLS 1.3 when the client may already have
// sent its request. It has read none of it: nothing was appended, and the error says why.
func TestPutWithoutCertificate(t *testing.T) {
	noLeaks(t)
	for _, http2 := range []bool{false, true} {
		srv, cfg := overTLS(t, http2, tls.RequireAnyClientCert, func(http.ResponseWriter, *http.Request) { t.Error("a request was read") })
		for range 5 {
			c := newTestClient(t, nil, cfg)
			_, err := c.Put(t.Context(), largeDraft())
			if err == nil || errors.As(err, new(*UnknownOutcomeError)) || !strings.Contains(err.Error(), "tls: certificate required") {
				t.Errorf("HTTP/2 %t: Put = %T, %v", http2, err, err)
			}
			c.Close()
		}
		srv.Close()
	}
}

// A connection that breaks for another reason leaves the outcome open.
func TestPutBroken(t *testing.T) {
	noLeaks(t)
	_, cfg := overTLS(t, false, tls.NoClientCert, func(_ http.ResponseWriter, r *http.Request) {
		_, _ = io.CopyN(io.Discard, r.Body, 100)
		panic(http.ErrAbortHandler)
	})
	c := newTestClient(t, nil, cfg)
	if _, err := c.Put(t.Context(), largeDraft()); !errors.As(err, new(*UnknownOutcomeError)) {
		t.Errorf("Put = %T, %v", err, err)
	}
}
