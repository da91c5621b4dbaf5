package main

import (
	"net"
	"net/netip"
	"strconv"
	"strings"
)

// urlOf returns a URL of a server that listens on an address, which a client on this machine can
// use. An unspecified address, such as 0.0.0.0, is none to connect to: loopback takes its place,
// or the name in the server's certificate, since clients check that.
func urlOf(address net.Addr, secure *serverTLS) string {
	scheme, at := "http", address.String()
	if secure != nil {
		scheme = "https"
	}
	p, err := netip.ParseAddrPort(at)
	if err != nil || !p.Addr().IsUnspecified() {
		return scheme + "://" + at
	}
	port := strconv.Itoa(int(p.Port()))
	if name := secure.publicName(); name == "" {
		at = net.JoinHostPort("127.0.0.1", port) // listeners on [::] take IPv4 as well
	} else if at = name; port != "443" {
		at = net.JoinHostPort(name, port)
	}
	return scheme + "://" + at
}

// publicName returns the first name of the server's certificate, "" if it has none.
func (t *serverTLS) publicName() string {
	switch {
	case t == nil:
		return ""
	case t.acme != nil:
		return strings.ToLower(t.acme.first)
	}
	for _, name := range t.files.leafNames() {
		if !strings.HasPrefix(name, "*") {
			return name
		}
	}
	return ""
}
