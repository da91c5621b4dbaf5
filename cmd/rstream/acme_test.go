//go:build unix

package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"io"
	"log"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/letsencrypt/pebble/v2/ca"
	"github.com/letsencrypt/pebble/v2/db"
	"github.com/letsencrypt/pebble/v2/va"
	"github.com/letsencrypt/pebble/v2/wfe"
	"github.com/miekg/dns"
)

// A pebble is an ACME authority in the test. Every name is this machine to it.
type pebble struct {
	*httptest.Server
	store *db.MemoryStore
	roots *x509.CertPool
	root  []byte // of roots, in PEM
}

// startPebble starts an authority that checks names at a port.
func startPebble(t *testing.T, port int) *pebble {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	names := &dns.Server{Listener: l, Handler: dns.HandlerFunc(func(w dns.ResponseWriter, r *dns.Msg) {
		m := new(dns.Msg)
		m.SetReply(r)
		if q := r.Question[0]; q.Qtype == dns.TypeA {
			m.Answer = []dns.RR{&dns.A{Hdr: dns.RR_Header{Name: q.Name, Rrtype: q.Qtype, Class: dns.ClassINET}, A: net.IPv4(127, 0, 0, 1)}}
		}
		_ = w.WriteMsg(m)
	})}
	var serving sync.WaitGroup
	serving.Go(func() { _ = names.ActivateAndServe() })
	t.Cleanup(func() {
		_ = l.Close()
		serving.Wait()
	})
	quiet := log.New(io.Discard, "", 0)
	store := db.NewMemoryStore()
	authority := ca.New(quiet, store, "", "ecdsa", 0, 1, map[string]ca.Profile{"default": {}})
	checks := va.New(quiet, 0, port, true, l.Addr().String(), store)
	front := wfe.New(quiet, store, checks, authority, []string{"pebble.example"}, true, false, 0, 0)
	p := &pebble{Server: httptest.NewTLSServer(front.Handler()), store: store, roots: x509.NewCertPool(), root: authority.GetRootCert(0).PEM()}
	t.Cleanup(p.Close)
	p.roots.AppendCertsFromPEM(p.root)
	return p
}

// A tlsServer serves "hello" with the TLS of some flags.
type tlsServer struct {
	*httptest.Server
	said *lockedBuffer
	stop func()
}

// A lockedBuffer is a log that is written while the test reads it.
type lockedBuffer struct {
	mu      sync.Mutex
	b       bytes.Buffer
	written chan struct{} // closed at the next write
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.written != nil {
		close(l.written)
		l.written = nil
	}
	return l.b.Write(p)
}

// waitFor waits until all texts were written: net/http logs a handshake after the client
// knows that it has failed.
func (l *lockedBuffer) waitFor(t *testing.T, texts ...string) {
	t.Helper()
	late := time.After(time.Minute)
	for {
		l.mu.Lock()
		if l.written == nil {
			l.written = make(chan struct{})
		}
		said, written := l.b.String(), l.written
		l.mu.Unlock()
		i := slices.IndexFunc(texts, func(text string) bool { return !strings.Contains(said, text) })
		if i < 0 {
			return
		}
		select {
		case <-written:
		case <-late:
			t.Fatalf("the log lacks %q:\n%s", texts[i], said)
		}
	}
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// serveTLS serves on l. An authority is reached through transport.
func serveTLS(t *testing.T, l net.Listener, o *guardFlags, transport http.RoundTripper) *tlsServer {
	t.Helper()
	s := &tlsServer{said: &lockedBuffer{}}
	say := newServeLog(&app{err: s.said}, &logFlags{logFormat: "text", logLevel: "info"})
	secure, err := o.openTLS("unused", say)
	if err != nil {
		t.Fatal(err)
	}
	if secure.acme != nil {
		for _, n := range secure.acme.names {
			n.failures.next = transport
		}
	}
	hello := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "hello") })
	hs := newHTTPServer(hello, secure, say)
	hs.ErrorLog = slog.NewLogLogger(say.Handler(), slog.LevelWarn)
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() { _ = hs.ServeTLS(l, "", "") })
	running.Go(func() { secure.watch(ctx, say) })
	s.stop = sync.OnceFunc(func() {
		cancel()
		_ = hs.Close()
		running.Wait()
	})
	t.Cleanup(s.stop)
	return s
}

func listenLoopback(t *testing.T) (net.Listener, int) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return l, l.Addr().(*net.TCPAddr).Port
}

// fetchTLS gets https://name/ from l, and returns the body and the certificate.
func fetchTLS(t *testing.T, l net.Listener, name string, cfg *tls.Config) (string, *x509.Certificate, error) {
	t.Helper()
	transport := &http.Transport{TLSClientConfig: cfg, ForceAttemptHTTP2: cfg.NextProtos == nil, DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "tcp", l.Addr().String())
		}}
	defer transport.CloseIdleConnections()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "https://"+name+"/", nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := (&http.Client{Transport: transport}).Do(r)
	if err != nil {
		return "", nil, err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	return string(b), resp.TLS.PeerCertificates[0], err
}

// writeAuthority writes the certificate of a new authority to a file, and returns a client's
// certificate that it has signed.
func writeAuthority(t *testing.T, path string) tls.Certificate {
	t.Helper()
	return newAuthority(t, path).sign(t, &x509.Certificate{NotAfter: time.Now().Add(time.Hour), ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}})
}

// TestACME: certificates come from an authority, stay in use while it is away, and every
// failure says what to do. Clients need a certificate, the authority needs none.
func TestACME(t *testing.T) {
	inParallel(t)
	const name = "log.example.com"
	cacheDir, clientCA := filepath.Join(t.TempDir(), "acme"), filepath.Join(t.TempDir(), "clients.pem")
	client := writeAuthority(t, clientCA)
	l, port := listenLoopback(t)
	authority := startPebble(t, port)
	if err := authority.store.AddBlockedDomain("blocked.example.com"); err != nil {
		t.Fatal(err)
	}
	flags := func(directory string, names ...string) *guardFlags {
		return &guardFlags{acmeNames: names, acmeCache: cacheDir, acmeDirectory: directory, clientCA: clientCA}
	}
	transport := authority.Client().Transport
	first := serveTLS(t, l, flags(authority.URL+"/dir", "LOG.example.com", "blocked.example.com"), transport)
	trust := func() *tls.Config {
		return &tls.Config{RootCAs: authority.roots, Certificates: []tls.Certificate{client}}
	}
	body, cert, err := fetchTLS(t, l, name, trust())
	if err != nil || body != "hello" {
		t.Fatalf("%q, %v\n%s", body, err, first.said)
	}
	if _, again, err := fetchTLS(t, l, "Log.Example.com", trust()); err != nil || !again.Equal(cert) {
		t.Errorf("the second connection: %v", err)
	}
	if info, err := os.Stat(filepath.Join(cacheDir, name)); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the certificate in the folder: %v, %v", info, err)
	}
	// The authority's own protocol admits nobody without a certificate.
	if _, _, err := fetchTLS(t, l, name, &tls.Config{RootCAs: authority.roots}); err == nil {
		t.Error("a client without a certificate is served")
	}
	if body, _, err := fetchTLS(t, l, name, &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"acme-tls/1"}}); err == nil {
		t.Errorf("a client with the protocol of authorities is served: %s", body)
	}
	for host, want := range map[string]string{
		"other.example.com":   `\"other.example.com\" is not a name of this server; --acme fetches a certificate for it`,
		"blocked.example.com": "the authority refuses blocked.example.com: ",
	} {
		if _, _, err := fetchTLS(t, l, host, trust()); err == nil {
			t.Errorf("%s has a certificate", host)
		}
		first.said.waitFor(t, want)
	}
	first.stop()

	// A name that does not lead here: the authority says where it looked.
	elsewhere, closed := listenLoopback(t)
	_ = elsewhere.Close()
	misled := startPebble(t, closed)
	l, _ = listenLoopback(t)
	astray := serveTLS(t, l, flags(misled.URL+"/dir", "astray.example.com"), misled.Client().Transport)
	if _, _, err := fetchTLS(t, l, "astray.example.com", trust()); err == nil {
		t.Error("astray.example.com has a certificate")
	}
	astray.said.waitFor(t, "Failed to connect to 127.0.0.1", "must reach this server at port 443 of astray.example.com")
	astray.stop()

	// Without the authority, the certificate in the folder stays in use; others are missing.
	authority.Close()
	l, _ = listenLoopback(t)
	second := serveTLS(t, l, flags(authority.URL+"/dir", name, "new.example.com"), transport)
	if _, again, err := fetchTLS(t, l, name, trust()); err != nil || !again.Equal(cert) {
		t.Errorf("without the authority: %v\n%s", err, second.said)
	}
	if _, _, err := fetchTLS(t, l, "new.example.com", trust()); err == nil {
		t.Error("new.example.com has a certificate")
	}
	second.said.waitFor(t, "ask the authority at "+authority.URL+"/dir: ", "connection refused (certificates in the --acme-cache")
}

// A heldTransport is a transport that lets requests pass once it is open, and reports the first
// certificate that comes back.
type heldTransport struct {
	next         http.RoundTripper
	open, issued chan struct{}
	once         sync.Once
}

func (g *heldTransport) RoundTrip(r *http.Request) (*http.Response, error) {
	select {
	case <-g.open:
	case <-r.Context().Done():
		return nil, r.Context().Err()
	}
	resp, err := g.next.RoundTrip(r)
	if err == nil && strings.HasPrefix(resp.Header.Get("Content-Type"), "application/pem-certificate-chain") {
		g.once.Do(func() { close(g.issued) })
	}
	return resp, err
}

// keepCertificate makes old sign a certificate, and writes it to the folder as autocert keeps it.
func keepCertificate(t *testing.T, dir string, old *authority, name string, template *x509.Certificate) (cert tls.Certificate, kept []byte) {
	t.Helper()
	cert = old.sign(t, template)
	key, err := x509.MarshalECPrivateKey(old.key)
	if err != nil {
		t.Fatal(err)
	}
	kept = append(pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: key}), pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Certificate[0]})...)
	if err := os.WriteFile(filepath.Join(dir, name), kept, 0o600); err != nil {
		t.Fatal(err)
	}
	return cert, kept
}

// TestACMERenewal: a certificate near its end is served until the authority has issued
// another one, and the server takes that without a restart.
func TestACMERenewal(t *testing.T) {
	inParallel(t)
	const name = "log.example.com"
	dir := t.TempDir()
	day := 24 * time.Hour
	old := newAuthority(t, filepath.Join(dir, "old.pem"))
	aged, kept := keepCertificate(t, dir, old, name, &x509.Certificate{DNSNames: []string{name}, NotBefore: time.Now().Add(-80 * day), NotAfter: time.Now().Add(10 * day)})
	root, err := os.ReadFile(old.file)
	if err != nil {
		t.Fatal(err)
	}
	l, port := listenLoopback(t)
	authority := startPebble(t, port)
	authority.roots.AppendCertsFromPEM(root)
	g := &heldTransport{next: authority.Client().Transport, open: make(chan struct{}), issued: make(chan struct{})}
	s := serveTLS(t, l, &guardFlags{acmeNames: []string{name}, acmeCache: dir, acmeDirectory: authority.URL + "/dir"}, g)
	trust := func() *tls.Config { return &tls.Config{RootCAs: authority.roots} }
	if _, cert, err := fetchTLS(t, l, name, trust()); err != nil || !bytes.Equal(cert.Raw, aged.Certificate[0]) {
		t.Fatalf("before the authority answers: %v\n%s", err, s.said)
	}
	close(g.open)
	late := time.After(time.Minute)
	select {
	case <-g.issued:
	case <-late:
		t.Fatalf("no other certificate was issued:\n%s", s.said)
	}
	for { // autocert does not say when it takes it
		_, cert, err := fetchTLS(t, l, name, trust())
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(cert.Raw, aged.Certificate[0]) {
			if left := time.Until(cert.NotAfter); left < 80*day {
				t.Errorf("the new certificate ends in %s", left)
			}
			break
		}
		select {
		case <-late:
			t.Fatalf("the old certificate is still served:\n%s", s.said)
		default:
		}
	}
	if said := s.said.String(); strings.Contains(said, "is not renewed") {
		t.Errorf("it was renewed, and the log says\n%s", said)
	}
	if b, err := os.ReadFile(filepath.Join(dir, name)); err != nil || bytes.Equal(b, kept) {
		t.Errorf("the folder keeps the old certificate: %v", err)
	}
}

// TestACMEAge: a certificate is old only if autocert should have renewed it.
func TestACMEAge(t *testing.T) {
	const day = 24 * time.Hour
	for _, c := range []struct {
		life, left time.Duration
		old        bool
	}{{90 * day, 31 * day, false}, {90 * day, 22 * day, true}, {397 * day, 31 * day, false}, {397 * day, 28 * day, true}, {6 * day, 2 * day, false}, {6 * day, day, true}} {
		end := time.Now().Add(c.left)
		if old := isOld(&tls.Certificate{Leaf: &x509.Certificate{NotBefore: end.Add(-c.life), NotAfter: end}}); old != c.old {
			t.Errorf("%s of %s: old is %t", c.left, c.life, old)
		}
	}
}

// TestACMEWarning: the warning about a certificate that is not renewed says why, of the name that it is
// about.
func TestACMEWarning(t *testing.T) {
	dir := t.TempDir()
	const day, name, other = 24 * time.Hour, "log.example.com", "other.example.com"
	synctest.Test(t, func(t *testing.T) {
		old := newAuthority(t, filepath.Join(dir, "old.pem"))
		keepCertificate(t, dir, old, name, &x509.Certificate{DNSNames: []string{name}, NotBefore: time.Now().Add(-80 * day), NotAfter: time.Now().Add(10 * day)})
		said := &lockedBuffer{}
		say := newServeLog(&app{err: said}, &logFlags{logFormat: "text", logLevel: "info"})
		c := (&guardFlags{acmeNames: []string{name, other}, acmeCache: dir, acmeDirectory: "https://ca.example/dir"}).newACME("unused", say)
		for name, n := range c.names {
			n.failures.next = roundTripFunc(func(*http.Request) (*http.Response, error) { return nil, errors.New("no way for " + name) })
		}
		ctx, cancel := context.WithCancel(t.Context())
		var keeping sync.WaitGroup
		keeping.Go(func() { c.keepCertificates(ctx) })
		time.Sleep(renewalTime + time.Second)
		cancel()
		keeping.Wait()
		for line := range strings.Lines(said.String()) {
			if strings.Contains(line, "is not renewed") {
				if !strings.Contains(line, "no way for "+name) {
					t.Error(line)
				}
				return
			}
		}
		t.Errorf("no warning:\n%s", said)
	})
}

// TestClientAuthorities: only clients with a certificate of the authority are served, and a
// new file decides for new connections.
func TestClientAuthorities(t *testing.T) {
	inParallel(t)
	dir := t.TempDir()
	file := filepath.Join(dir, "clients.pem")
	own := writeAuthority(t, file)
	stranger := writeAuthority(t, filepath.Join(dir, "strangers.pem"))
	certificate := httptest.NewUnstartedServer(nil) // for its certificate
	certificate.StartTLS()
	defer certificate.Close()
	pair := certificate.TLS.Certificates[0]
	der, err := x509.MarshalPKCS8PrivateKey(pair.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	o := &guardFlags{tlsCert: filepath.Join(dir, "cert"), tlsKey: filepath.Join(dir, "key"), clientCA: file}
	err = errors.Join(os.WriteFile(o.tlsCert, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: pair.Certificate[0]}), 0o600),
		os.WriteFile(o.tlsKey, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), 0o600))
	if err != nil {
		t.Fatal(err)
	}
	secure, err := o.openTLS("unused", newServeLog(&app{err: io.Discard}, &logFlags{}))
	if err != nil {
		t.Fatal(err)
	}
	hs := newHTTPServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { _, _ = io.WriteString(w, r.Proto) }), secure,
		newServeLog(&app{err: io.Discard}, &logFlags{}))
	l, _ := listenLoopback(t)
	var serving sync.WaitGroup
	serving.Go(func() { _ = hs.ServeTLS(l, "", "") })
	defer serving.Wait()
	defer hs.Close()
	sessions := tls.NewLRUClientSessionCache(9)
	served := func(certificates ...tls.Certificate) bool {
		proto, _, err := fetchTLS(t, l, "example.com", &tls.Config{RootCAs: certificate.Client().Transport.(*http.Transport).TLSClientConfig.RootCAs,
			Certificates: certificates, ClientSessionCache: sessions})
		if err == nil && proto != "HTTP/2.0" {
			t.Errorf("served over %s", proto)
		}
		return err == nil
	}
	for _, who := range []string{"first", "second"} { // the second has a session to resume
		if !served(own) {
			t.Errorf("the %s connection of the own client is refused", who)
		}
	}
	if served(stranger) || served() {
		t.Error("a stranger or nobody is served")
	}
	if err := os.Rename(filepath.Join(dir, "strangers.pem"), file); err != nil {
		t.Fatal(err)
	}
	if err := secure.reload(); err != nil {
		t.Fatal(err)
	}
	if served(own) || !served(stranger) {
		t.Error("the new authority does not decide")
	}
	if err := os.WriteFile(file, []byte("half a fi"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := secure.reload(); err == nil || !strings.Contains(err.Error(), "has no certificate in PEM") || !served(stranger) {
		t.Errorf("a broken file: %v", err)
	}
}

// A roundTripFunc is a transport.
type roundTripFunc func(r *http.Request) (*http.Response, error)

func (f roundTripFunc) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// What the authority says of a certificate stays, although it refuses that autocert gives the
// authorization up.
func TestFailureOfDeactivation(t *testing.T) {
	said := ""
	f := &failureRecorder{next: roundTripFunc(func(*http.Request) (*http.Response, error) {
		return &http.Response{StatusCode: http.StatusBadRequest, Body: io.NopCloser(strings.NewReader(said))}, nil
	})}
	for _, c := range []struct{ payload, said string }{
		{`{}`, `{"type":"x","detail":"Failed to connect"}`},
		{`{"resource":"authz","status":"deactivated","delete":true}`, `{"type":"x","detail":"a deprecated field"}`},
	} {
		said = c.said
		body := `{"payload":"` + base64.RawURLEncoding.EncodeToString([]byte(c.payload)) + `"}`
		r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://127.0.0.1/", strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		resp, err := f.RoundTrip(r)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
	}
	if refusal, unreachable := f.last(); refusal != "Failed to connect" || unreachable != nil {
		t.Errorf("the failure is %q, %v", refusal, unreachable)
	}
}
