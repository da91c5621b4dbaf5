package main

import (
	"bytes"
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"golang.org/x/crypto/acme"
	"golang.org/x/crypto/acme/autocert"
)

// acmeCertificates are certificates that an authority issues by ACME (RFC 8555). It checks
// our names by a handshake with us (TLS-ALPN-01, RFC 8737), so it needs no other port.
//
// autocert issues and renews. A handshake never makes it ask the authority, as authorities
// count failures and then refuse a name for hours: keepCertificates asks, with pauses.
type acmeCertificates struct {
	names     map[string]*acmeName
	first     string // of names, as --acme gives them
	directory string
	say       *serveLog

	asking sync.Mutex // held while the authority is asked for one name
}

// An acmeName is a name and whether there is a certificate for it. Each has a manager of its own, so that
// a failure is known to be that of a name.
type acmeName struct {
	manager  autocert.Manager
	failures failureRecorder

	tried chan struct{} // closed after the first try

	mu  sync.Mutex
	err error // of the last try; nil if there is a certificate
}

const (
	// firstPause and lastPause are how long the authority is left alone after a failure:
	// the pause doubles each time. Let's Encrypt allows five failures per name and hour.
	firstPause = time.Minute
	lastPause  = time.Hour
	// renewalCheck is how often the ages of certificates are checked.
	renewalCheck = 6 * time.Hour
	// renewalTime is how long autocert may take to renew a certificate of the folder that is
	// found to be old at the start.
	renewalTime = 15 * time.Minute
)

// newACME returns the certificates of --acme. It asks the authority for nothing yet.
func (o *guardFlags) newACME(db string, say *serveLog) *acmeCertificates {
	folder := o.acmeCache
	if folder == "" {
		folder = filepath.Join(filepath.Dir(db), "acme")
	}
	c := &acmeCertificates{names: map[string]*acmeName{}, first: o.acmeNames[0], directory: cmp.Or(o.acmeDirectory, autocert.DefaultACMEDirectory), say: say}
	for _, name := range o.acmeNames {
		n := &acmeName{failures: failureRecorder{next: http.DefaultTransport}, tried: make(chan struct{})}
		n.manager = autocert.Manager{
			Prompt: autocert.AcceptTOS, Cache: autocert.DirCache(folder),
			HostPolicy: func(_ context.Context, host string) error { return c.checkName(host) },
			Client: &acme.Client{DirectoryURL: c.directory, UserAgent: "rstream/" + programVersion(),
				HTTPClient: &http.Client{Transport: &n.failures, Timeout: time.Minute}},
		}
		c.names[strings.ToLower(name)] = n
	}
	return c
}

// checkACMEName refuses a text that is no name an authority could check.
func checkACMEName(name string) error {
	_, err := netip.ParseAddr(name)
	valid := func(r rune) bool {
		return r == '-' || r == '.' || r >= '0' && r <= '9' || r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z'
	}
	if err == nil || strings.ContainsFunc(name, func(r rune) bool { return !valid(r) }) || !strings.Contains(strings.Trim(name, "."), ".") || strings.HasSuffix(name, ".") {
		return usagef("--acme %q: want a public host name, such as log.example.com", name)
	}
	return nil
}

func (c *acmeCertificates) checkName(host string) error {
	if c.names[host] == nil {
		return fmt.Errorf("%.100q is not a name of this server; --acme fetches a certificate for it", host)
	}
	return nil
}

// get returns the certificate for a handshake. It waits for the first try of the authority.
func (c *acmeCertificates) get(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	host := strings.ToLower(strings.TrimSuffix(hello.ServerName, "."))
	if host == "" {
		return nil, errors.New("the client names no host; connect with a name of --acme")
	}
	if err := c.checkName(host); err != nil {
		return nil, err
	}
	n := c.names[host]
	if isChallenge(hello) {
		return n.manager.GetCertificate(hello)
	}
	select {
	case <-n.tried:
	case <-hello.Context().Done():
		return nil, hello.Context().Err()
	}
	n.mu.Lock()
	err := n.err
	n.mu.Unlock()
	if err != nil {
		return nil, err
	}
	return c.fetch(host)
}

// fetch returns the certificate of a name: the one in use, or the one in the folder, or else
// a new one from the authority.
func (c *acmeCertificates) fetch(name string) (*tls.Certificate, error) {
	// autocert keeps another certificate for clients that know only RSA: there is none.
	return c.names[name].manager.GetCertificate(&tls.ClientHelloInfo{ServerName: name, CipherSuites: []uint16{tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256}})
}

// keepCertificates gets the certificates of all names, and says if one is not renewed, until
// ctx ends.
func (c *acmeCertificates) keepCertificates(ctx context.Context) {
	var keeping sync.WaitGroup
	for name, n := range c.names {
		keeping.Go(func() { c.keepCertificate(ctx, name, n) })
	}
	keeping.Wait()
}

func (c *acmeCertificates) keepCertificate(ctx context.Context, name string, n *acmeName) {
	tried := sync.OnceFunc(func() { close(n.tried) })
	told := false // that there is a certificate
	for pause, starting := firstPause, true; ; starting = false {
		if !told { // else autocert asks, at times of its own
			n.failures.record("", nil)
		}
		cert, err := c.tryFetch(ctx, name)
		if ctx.Err() != nil {
			tried()
			return
		}
		n.mu.Lock()
		n.err = err
		n.mu.Unlock()
		wait := renewalCheck
		switch {
		case err != nil:
			c.say.Error("no certificate", "name", name, "error", err, "retry_in", pause.String())
			wait, pause = pause, min(2*pause, lastPause)
		case starting && isOld(cert):
			wait = renewalTime
		default:
			pause = firstPause
			c.warnOfAge(name, cert)
		}
		if err == nil && !told {
			c.say.logCertificate(name, cert.Leaf.NotAfter)
		}
		told = err == nil
		tried()
		select {
		case <-ctx.Done():
			return
		case <-time.After(wait):
		}
	}
}

// tryFetch is fetch until ctx ends, with an error that says what to do.
func (c *acmeCertificates) tryFetch(ctx context.Context, name string) (*tls.Certificate, error) {
	type result struct {
		cert *tls.Certificate
		err  error
	}
	done := make(chan result, 1)
	go func() { // autocert takes no context, and gives up after five minutes
		c.asking.Lock()
		defer c.asking.Unlock()
		cert, err := c.fetch(name)
		if err != nil {
			err = c.explain(name, err)
		}
		done <- result{cert, err}
	}()
	select {
	case <-ctx.Done():
		return nil, ctx.Err()
	case r := <-done:
		return r.cert, r.err
	}
}

// explain returns an error that names the cause, which autocert leaves out, and what to do.
func (c *acmeCertificates) explain(name string, err error) error {
	refusal, unreachable := c.names[name].failures.last()
	switch {
	case refusal != "":
		return fmt.Errorf("the authority refuses %s: %s (its check must reach this server at port 443 of %s)", name, refusal, name)
	case errors.As(unreachable, new(x509.UnknownAuthorityError)):
		return fmt.Errorf("ask the authority at %s: %w; SSL_CERT_FILE can name its certificate", c.directory, unreachable)
	case unreachable != nil:
		return fmt.Errorf("ask the authority at %s: %w (certificates in the --acme-cache folder stay in use)", c.directory, unreachable)
	}
	return fmt.Errorf("certificate for %s: %s", name, strings.TrimPrefix(err.Error(), "acme/autocert: "))
}

// isOld reports whether a certificate should have been renewed by now. autocert renews when a
// third of the lifetime is left, 30 days at most.
func isOld(cert *tls.Certificate) bool {
	life := cert.Leaf.NotAfter.Sub(cert.Leaf.NotBefore)
	return time.Until(cert.Leaf.NotAfter) <= min(life/4, 29*24*time.Hour)
}

// warnOfAge says if a certificate is old. autocert says nothing if it cannot renew one.
func (c *acmeCertificates) warnOfAge(name string, cert *tls.Certificate) {
	if !isOld(cert) {
		return
	}
	c.say.Warn("the certificate is not renewed", "name", name, "expires", cert.Leaf.NotAfter.UTC().Format(time.RFC3339), "error", c.explain(name, errors.New("the authority has not issued another one")))
}

// A failureRecorder remembers why requests to an authority failed.
type failureRecorder struct {
	next http.RoundTripper

	mu          sync.Mutex
	refusal     string // what the authority said
	unreachable error
}

// last returns the failure of the last requests: what the authority said, or why it could
// not be reached.
func (f *failureRecorder) last() (refusal string, unreachable error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.refusal, f.unreachable
}

// maxACMEBody bounds the bytes read of an answer of an authority.
const maxACMEBody = 1 << 20

// RoundTrip implements http.RoundTripper.
func (f *failureRecorder) RoundTrip(r *http.Request) (*http.Response, error) {
	if isDeactivation(r) {
		return f.next.RoundTrip(r)
	}
	resp, err := f.next.RoundTrip(r)
	if err != nil {
		f.record("", err)
		return nil, err
	}
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxACMEBody))
	_ = resp.Body.Close()
	if err != nil {
		f.record("", err)
		return nil, err
	}
	resp.Body = io.NopCloser(bytes.NewReader(body))
	f.mu.Lock()
	defer f.mu.Unlock()
	f.unreachable = nil
	if said := refusalIn(body); said != "" {
		f.refusal = said
	}
	return resp, nil
}

func (f *failureRecorder) record(refusal string, unreachable error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.refusal, f.unreachable = refusal, unreachable
}

// isDeactivation reports whether a request gives up an authorization. autocert does that for those
// that have failed, while nobody waits for it: its failure says nothing about the certificate.
func isDeactivation(r *http.Request) bool {
	if r.GetBody == nil {
		return false
	}
	body, err := r.GetBody()
	if err != nil {
		return false
	}
	defer body.Close()
	var signed, asked struct{ Payload, Status string }
	if json.NewDecoder(body).Decode(&signed) != nil {
		return false
	}
	payload, err := base64.RawURLEncoding.DecodeString(signed.Payload)
	return err == nil && json.Unmarshal(payload, &asked) == nil && asked.Status == "deactivated"
}

// refusalIn returns the reason in an answer: a problem, or the error of an order or challenge. A nonce
// that was used up is none, since the request is sent again.
func refusalIn(body []byte) string {
	type problem struct{ Type, Detail string }
	var answer struct {
		problem
		Error      *problem
		Challenges []struct{ Error *problem }
	}
	if json.Unmarshal(body, &answer) != nil {
		return ""
	}
	said := answer.problem
	if answer.Error != nil {
		said = *answer.Error
	}
	for _, ch := range answer.Challenges {
		if ch.Error != nil {
			said = *ch.Error
		}
	}
	if strings.HasSuffix(said.Type, ":badNonce") {
		return ""
	}
	return said.Detail
}
