package client

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/internal/wire"
)

// The user and password of a server's URL are sent with every request.
func TestBasicAuth(t *testing.T) {
	var got []string
	server := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		user, password, _ := r.BasicAuth()
		got = append(got, r.Method+" "+user+" "+password)
		w.Header().Set(wire.HeaderLog, stubLog)
		w.WriteHeader(http.StatusForbidden)
	})
	hs := httptest.NewServer(server)
	defer hs.Close()
	base := "http://user:p%40%2Fw@" + strings.TrimPrefix(hs.URL, "http://")
	_, _ = Probe(t.Context(), Config{Servers: []string{base}})
	c, err := New(nil, Config{Servers: []string{base}})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_, _ = c.Put(t.Context(), []event.Draft{{User: "a", Path: "p", Type: event.Put, Key: "k", Value: []byte("1")}})
	if len(got) != 2 || got[0] != "GET user p@/w" || got[1] != "POST user p@/w" {
		t.Errorf("the server got %q", got)
	}
}
