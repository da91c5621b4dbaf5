package main

import (
	"crypto/x509"
	"encoding/pem"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func newNodeApp() *app {
	return &app{settings: &settings{origins: map[string]origin{}}, headers: http.Header{}, err: io.Discard}
}

// TestPeers: boards are asked for rooms with the headers and certificates of the program, and with
// nothing that lets this server in.
func TestPeers(t *testing.T) {
	var got http.Header
	srv := httptest.NewTLSServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { got = r.Header }))
	defer srv.Close()
	ca := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: srv.Certificate().Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	a := newNodeApp()
	a.credentials.ca = ca
	a.headers = http.Header{"X-Door": {"key"}, "Authorization": {"Bearer own"}, "Cookie": {"rstream=own"}}
	a.settings.origins["header"] = onCommandLine
	links, err := a.newBoardLinks(&nodeFlags{boards: []string{strings.Replace(srv.URL, "://", "://u:letmein@", 1)}})
	if err != nil {
		t.Fatal(err)
	}
	peer := links.peers()[0]
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, peer.URL, nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header = peer.Header
	resp, err := peer.HTTP.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if got.Get("X-Door") != "key" || got.Get("Authorization") != "" || got.Get("Cookie") != "" {
		t.Errorf("the request of %s has %v", peer.URL, got)
	}
	if h := links[0].headers; h.Get("Authorization") == "" {
		t.Errorf("reports are sent with %v", h)
	}
	secure, err := a.nodeTLS()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := srv.Certificate().Verify(x509.VerifyOptions{Roots: secure.RootCAs}); err != nil {
		t.Error(err)
	}
}

// TestBoardTwice: a board is named once, since metrics and log messages name it without its password.
func TestBoardTwice(t *testing.T) {
	for _, names := range [][]string{{"http://b", "http://b/"}, {"http://u:1@b", "http://v:2@b"}} {
		_, err := newNodeApp().newBoardLinks(&nodeFlags{boards: names})
		if !errors.As(err, new(*usageError)) || !strings.HasSuffix(err.Error(), "b: is named twice") {
			t.Errorf("%q: %v", names, err)
		}
	}
}
