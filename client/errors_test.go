package client_test

import (
	"errors"
	"net"
	"net/http"
	"net/url"
	"syscall"
	"testing"

	"github.com/rstream-dev/rstream/client"
)

// A program can tell that a proxy failed, and not the server.
func TestProxyError(t *testing.T) {
	var listen net.ListenConfig
	l, err := listen.Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	proxy := &url.URL{Scheme: "http", Host: l.Addr().String(), User: url.UserPassword("u", "secret")}
	l.Close()
	c, err := client.New(nil, client.Config{
		Servers: []string{"http://server.example:8420"},
		HTTP:    &http.Client{Transport: &http.Transport{Proxy: http.ProxyURL(proxy)}},
	})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_, err = c.Info(t.Context())
	var unreachable *client.UnreachableError
	var failed *client.ProxyError
	if !errors.As(err, &unreachable) || !errors.As(err, &failed) || !errors.Is(failed.Err, syscall.ECONNREFUSED) {
		t.Fatalf("Info = %v", err)
	}
	if want := "connect server.example:8420: proxy of the client: connection refused"; err.Error() != want {
		t.Errorf("Info = %q, want %q", err, want)
	}
}
