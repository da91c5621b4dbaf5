package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rstream-dev/rstream/cache"
	"github.com/rstream-dev/rstream/client"
	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/internal/server"
)

// TestSourceRecipes types the recipes of docs/sources.md into a shell, as TestDocs does. The
// servers on the internet are stand-ins, which a proxy leads to.
func TestSourceRecipes(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"jq", "sqlite3"} {
		if _, err := exec.LookPath(name); err != nil && os.Getenv("CI") == "" {
			t.Logf("the recipes are not run: %v", err)
			return
		}
	}
	sh := newDocShell(t)
	proxy, authority := serveInternet(t, map[string]http.Handler{
		"lab.example": homeserver(t, "alice/posts/1 from-lab", "bob/posts/1 hello"), "home.example": homeserver(t, "alice/posts/2 from-home", "carol/x not-asked-for"),
		"stream.wikimedia.org": http.HandlerFunc(sendChanges), "example.com": http.HandlerFunc(sendUpdates), "ntfy.sh": http.HandlerFunc(sendMessages),
	})
	sh.write("ca.pem", authority)
	sh.run("export HTTPS_PROXY=" + proxy + " SSL_CERT_FILE=" + filepath.Join(sh.dir, "ca.pem"))
	sh.run("mkdir -p $HOME/.local && ln -s $XDG_DATA_HOME $HOME/.local/share")
	sh.prepare = map[string]func(*docShell){"rstream status -o text | grep -A 1 ^source": (*docShell).awaitRelay}
	compareDocument(t, "docs/sources.md", func(text string) string { return runDocument(sh, text) })
	if sh.typed < 12 {
		t.Errorf("%d commands", sh.typed)
	}
}

// awaitRelay waits until the relay of the shell has all of its sources.
func (sh *docShell) awaitRelay() {
	url, err := os.ReadFile(filepath.Join(sh.dir, "url"))
	if err != nil {
		sh.t.Fatal(err)
	}
	c, err := client.New(nil, client.Config{Servers: []string{strings.TrimSpace(string(url))}})
	if err != nil {
		sh.t.Fatal(err)
	}
	defer c.Close()
	late := time.After(patience)
	for tick := time.NewTicker(10 * time.Millisecond); ; {
		sources, err := c.Sources(sh.t.Context())
		if err != nil {
			sh.t.Fatal(err)
		}
		have := 0
		for _, s := range sources {
			if s.Behind != nil && *s.Behind == 0 && s.Events > 0 {
				have++
			}
		}
		if have == 2 {
			return
		}
		select {
		case <-tick.C:
		case <-late:
			sh.t.Fatalf("the sources are %+v", sources)
		}
	}
}

// homeserver returns an rstream server with some events, each "USER/PATH VALUE".
func homeserver(t *testing.T, texts ...string) http.Handler {
	db, err := cache.Open(t.Context(), filepath.Join(t.TempDir(), "log.db"), cache.Config{Role: cache.Server})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	var drafts []event.Draft
	for _, text := range texts {
		name, value, _ := strings.Cut(text, " ")
		user, path, _ := strings.Cut(name, "/")
		drafts = append(drafts, event.Draft{User: user, Path: path, Type: event.Put, Key: name, Value: fmt.Appendf(nil, "%q", value)})
	}
	if _, err := db.Append(t.Context(), drafts); err != nil {
		t.Fatal(err)
	}
	s := server.New(db, server.Config{})
	t.Cleanup(s.Stop)
	return s
}

// sendChanges sends changes as Wikimedia does, and ends.
func sendChanges(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "text/event-stream")
	for i, title := range []string{"Lisbon", "Moon", "Lisbon", "Earth", "Lisbon", "Moon"} {
		fmt.Fprintf(w, "event: message\nid: [{\"topic\":\"eqiad.mediawiki.recentchange\",\"partition\":0,\"timestamp\":%d}]\n", 1764400000000+i)
		fmt.Fprintf(w, "data: {\"meta\":{\"id\":\"c%d\",\"domain\":\"en.wikipedia.org\",\"stream\":\"mediawiki.recentchange\"},\"title\":%q}\n\n", i, title)
	}
}

// sendUpdates sends updates as a Mercure hub does, and ends.
func sendUpdates(w http.ResponseWriter, r *http.Request) {
	asked := r.Header.Get("Last-Event-ID")
	w.Header().Set("Content-Type", "text/event-stream")
	w.Header().Set("Mercure-Last-Event-ID", asked)
	for i, status := range []string{"cooking", "ready"} {
		if id := fmt.Sprintf("urn:uuid:%d", i+1); asked < id || asked == "earliest" {
			fmt.Fprintf(w, "id: %s\nevent: order\ndata: {\"table\":7,\"status\":%q}\n\n", id, status)
		}
	}
}

// sendMessages sends messages as ntfy does for a request with poll=1.
func sendMessages(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "text/event-stream")
	for i, text := range []string{"backup of db1 is done", "disk /var is 91 % full"} {
		if id := fmt.Sprint("m", i+1); r.URL.Query().Get("since") < id || r.URL.Query().Get("since") == "all" {
			fmt.Fprintf(w, "data: {\"id\":%q,\"time\":176440000%d,\"event\":\"message\",\"topic\":%q,\"message\":%q}\n\n", id, i, []string{"backups", "disks"}[i], text)
		}
	}
}

// serveInternet serves hosts over TLS. It returns the URL of a proxy to them and the certificate
// of their authority.
func serveInternet(t *testing.T, hosts map[string]http.Handler) (proxy, authority string) {
	var names []string
	for name := range hosts {
		names = append(names, name)
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	c := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: now.Add(-time.Hour), NotAfter: now.Add(time.Hour), IsCA: true, BasicConstraintsValid: true, DNSNames: names}
	der, err := x509.CreateCertificate(rand.Reader, c, c, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		host, _, _ := strings.Cut(r.Host, ":")
		hosts[host].ServeHTTP(w, r)
	}))
	srv.TLS = &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}}
	srv.StartTLS()
	var passing sync.WaitGroup
	pass := func(from, to net.Conn) {
		passing.Go(func() {
			_, _ = io.Copy(to, from)
			_, _ = from.Close(), to.Close()
		})
	}
	tunnel := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		out, err := net.Dial("tcp", srv.Listener.Addr().String())
		if err != nil || r.Method != http.MethodConnect {
			http.Error(w, "no", http.StatusBadGateway)
			return
		}
		in, _, err := http.NewResponseController(w).Hijack()
		if err == nil {
			_, err = io.WriteString(in, "HTTP/1.1 200 OK\r\n\r\n")
		}
		if err != nil {
			t.Error(err)
			return
		}
		pass(in, out)
		pass(out, in)
	}))
	t.Cleanup(func() {
		tunnel.Close()
		srv.CloseClientConnections()
		srv.Close()
		passing.Wait()
	})
	return tunnel.URL, string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
}
