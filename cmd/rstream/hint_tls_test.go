package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// certificates makes an authority, written to a file, and certificates that it has signed.
type certificates struct {
	t    *testing.T
	ca   *x509.Certificate
	key  *ecdsa.PrivateKey
	file string
}

func newCertificates(t *testing.T) *certificates {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c := &certificates{t: t, key: key, file: filepath.Join(t.TempDir(), "ca.pem")}
	c.ca = &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "ca"}, NotBefore: time.Now().Add(-1000 * time.Hour),
		NotAfter: time.Now().Add(1000 * time.Hour), IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	der, err := x509.CreateCertificate(rand.Reader, c.ca, c.ca, &key.PublicKey, key)
	if err == nil {
		err = os.WriteFile(c.file, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// sign returns a certificate of a server, valid from an hour before until until.
func (c *certificates) sign(until time.Time, names []string, ips ...net.IP) tls.Certificate {
	c.t.Helper()
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{SerialNumber: big.NewInt(2), NotBefore: until.Add(-time.Hour), NotAfter: until,
		DNSNames: names, IPAddresses: ips, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}, c.ca, &c.key.PublicKey, c.key)
	if err != nil {
		c.t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: c.key}
}

// Each fault of a certificate has the right hint, and doctor finds it.
func TestHintsOfTLS(t *testing.T) {
	c := newCertificates(t)
	local, soon := net.IPv4(127, 0, 0, 1), time.Now().Add(30*time.Minute)
	for _, test := range []struct {
		name        string
		certificate tls.Certificate
		trusted     bool
		clients     tls.ClientAuthType
		hint, found string
	}{
		{"unknown authority", c.sign(soon, nil, local), false, 0, "name its file in --ca", "unknown authority"},
		{"expired", c.sign(time.Now().Add(-time.Minute), nil, local), true, 0, "if this machine's clock is right", "expired"},
		{"not yet valid", c.sign(time.Now().Add(100*time.Hour), nil, local), true, 0, "if this machine's clock is right", "not yet valid"},
		{"other name", c.sign(soon, []string{"log.example", "b.example"}), true, 0, "the certificate is for log.example, b.example", "doesn't contain any IP SANs"},
		{"no name", c.sign(soon, nil), true, 0, "needs a certificate for the name", "doesn't contain any IP SANs"},
		{"client certificate", c.sign(soon, nil, local), true, tls.RequireAnyClientCert, "asks for a certificate, name yours in --client-cert", "(--client-cert)"},
	} {
		t.Run(test.name, func(t *testing.T) {
			srv := httptest.NewUnstartedServer(http.NotFoundHandler())
			// TLS 1.2 sends its alert in the handshake, so it is not lost to an error of writing.
			srv.TLS = &tls.Config{Certificates: []tls.Certificate{test.certificate}, ClientAuth: test.clients}
			if test.clients != 0 {
				srv.TLS.MaxVersion = tls.VersionTLS12
			}
			srv.Config.ErrorLog = log.New(io.Discard, "", 0)
			srv.StartTLS()
			t.Cleanup(srv.Close)
			at := []string{"-s", srv.URL, "--cache", filepath.Join(t.TempDir(), "copy.db")}
			if test.trusted {
				at = append(at, "--ca", c.file)
			}
			for _, args := range [][]string{{"ls"}, {"tail", "alice", "--until-live"}} {
				r := runCommand(t, append(args, at...)...)
				if r.status != exitUnreachable || strings.Count(r.err, "rstream: hint: ") != 1 || !strings.Contains(r.err, test.hint) {
					t.Errorf("%s: %+v", args, r)
				}
			}
			r := runCommand(t, append([]string{"doctor", srv.URL, "--for", "1s"}, at...)...)
			if r.status != exitUnreachable || !strings.Contains(r.out, test.found) {
				t.Errorf("doctor: %+v", r)
			}
		})
	}
}
