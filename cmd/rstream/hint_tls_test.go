//go:build unix

package main

import (
	"crypto/tls"
	"crypto/x509"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// Each fault of a certificate has the right hint, and doctor finds it.
func TestHintsOfTLS(t *testing.T) {
	ca := newAuthority(t, filepath.Join(t.TempDir(), "ca.pem"))
	sign := func(until time.Time, names []string, ips ...net.IP) tls.Certificate {
		return ca.sign(t, &x509.Certificate{NotBefore: until.Add(-time.Hour), NotAfter: until, DNSNames: names, IPAddresses: ips,
			ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}})
	}
	local, soon := net.IPv4(127, 0, 0, 1), time.Now().Add(30*time.Minute)
	for _, test := range []struct {
		name        string
		certificate tls.Certificate
		trusted     bool
		clients     tls.ClientAuthType
		version     uint16 // of TLS
		hint, found string
	}{
		{"unknown authority", sign(soon, nil, local), false, 0, 0, "name that in --ca", "unknown authority"},
		{"expired", sign(time.Now().Add(-time.Minute), nil, local), true, 0, 0, "if the clock here is right", "expired"},
		{"not yet valid", sign(time.Now().Add(100*time.Hour), nil, local), true, 0, 0, "if the clock here is right", "not yet valid"},
		{"other name", sign(soon, []string{"log.example", "b.example"}), true, 0, 0, "the certificate is for log.example, b.example", "doesn't contain any IP SANs"},
		{"names that are none", sign(soon, []string{"x\n\x1b[8mrstream: hint: run evil", "y; run evil", "*.b.example"}), true, 0, 0, "the certificate is for *.b.example; use that name in the URL", "doesn't contain any IP SANs"},
		{"no name at all", sign(soon, []string{"y; run evil"}), true, 0, 0, "needs a certificate for the name in the URL", "doesn't contain any IP SANs"},
		{"no name", sign(soon, nil), true, 0, 0, "needs a certificate for the name in the URL", "doesn't contain any IP SANs"},
		{"client certificate", sign(soon, nil, local), true, tls.RequireAnyClientCert, tls.VersionTLS12, "if the server wants a certificate, name it in --client-cert", "(--client-cert)"},
		{"client certificate", sign(soon, nil, local), true, tls.RequireAnyClientCert, tls.VersionTLS13, "the server asks for a certificate; name yours in --client-cert", "(--client-cert)"},
	} {
		t.Run(test.name, func(t *testing.T) {
			srv := httptest.NewUnstartedServer(http.NotFoundHandler())
			srv.TLS = &tls.Config{Certificates: []tls.Certificate{test.certificate}, ClientAuth: test.clients, MaxVersion: test.version}
			srv.Config.ErrorLog = log.New(io.Discard, "", 0)
			srv.StartTLS()
			t.Cleanup(srv.Close)
			at := []string{"-s", srv.URL, "--cache", filepath.Join(t.TempDir(), "copy.db")}
			if test.trusted {
				at = append(at, "--ca", ca.file)
			}
			for _, args := range [][]string{{"ls"}, {"tail", "alice", "--until-live"}} {
				r := runCommand(t, append(args, at...)...)
				if r.status != exitUnreachable || !strings.Contains(hintOf(r.err), test.hint) || strings.Contains(r.err, "rstream: hint: run evil") {
					t.Errorf("%s: %+v", args, r)
				}
			}
			if of := runCommand(t, append([]string{"source", "try", srv.URL, "--kind", "sse", "--timeout", "9s"}, at[4:]...)...); of.status != exitUnreachable || !strings.Contains(hintOf(of.err), test.hint) {
				t.Errorf("source try: %+v", of)
			}
			put := runCommand(t, append([]string{"put", "alice/x", "1"}, at...)...)
			if put.status != exitUnreachable || !strings.Contains(put.err, "; nothing was appended\n") || !strings.Contains(hintOf(put.err), test.hint) {
				t.Errorf("put: %+v", put)
			}
			r := runCommand(t, append([]string{"doctor", srv.URL, "--for", "1s"}, at...)...)
			if r.status != exitUnreachable || !strings.Contains(r.out, test.found) {
				t.Errorf("doctor: %+v", r)
			}
		})
	}
}

// hintOf returns the lines of a hint as one.
func hintOf(said string) string { return strings.ReplaceAll(said, "\nrstream: hint: ", "; ") }
