package main

import (
	"crypto/tls"
	"crypto/x509"
	"net"
	"testing"
)

// TestURLOf: the URL of a server is one that a client on this machine can use.
func TestURLOf(t *testing.T) {
	withNames := func(names ...string) *serverTLS {
		return &serverTLS{files: &certificateFiles{certificate: &tls.Certificate{Leaf: &x509.Certificate{DNSNames: names}}}}
	}
	public := &serverTLS{acme: &acmeCertificates{first: "Log.example.com"}}
	for _, test := range []struct {
		listens string
		secure  *serverTLS
		want    string
	}{
		{"127.0.0.1:8420", nil, "http://127.0.0.1:8420"},
		{"10.0.0.7:8420", public, "https://10.0.0.7:8420"},
		{"[::1]:8420", nil, "http://[::1]:8420"},
		{"0.0.0.0:8420", nil, "http://127.0.0.1:8420"},
		{"[::]:8420", nil, "http://127.0.0.1:8420"},
		{"[::]:443", public, "https://log.example.com"},
		{"[::]:8420", public, "https://log.example.com:8420"},
		{"[::]:443", withNames("*.lan", "log.lan"), "https://log.lan"},
		{"[::]:8420", withNames("*.lan"), "https://127.0.0.1:8420"},
	} {
		address, err := net.ResolveTCPAddr("tcp", test.listens)
		if err != nil {
			t.Fatal(err)
		}
		if got := urlOf(address, test.secure); got != test.want {
			t.Errorf("urlOf(%s) = %s, want %s", test.listens, got, test.want)
		}
	}
}
