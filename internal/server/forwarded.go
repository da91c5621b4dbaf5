package server

import (
	"net/http"
	"net/netip"
	"slices"
	"strings"
)

// clientAddr returns the address of the client that sent a request, zero if it is not known.
// Behind a trusted proxy it is the one that the proxy names.
func (s *Server) clientAddr(r *http.Request) netip.Addr {
	peer := peerAddr(r)
	if !s.trusts(peer) {
		return peer
	}
	byList := s.walkHops(peer, splitList(r.Header.Values("X-Forwarded-For")))
	if r.Header["Forwarded"] == nil {
		return byList
	}
	byPairs := s.walkHops(peer, forwardedValues(r, "for"))
	switch {
	case r.Header["X-Forwarded-For"] == nil:
		return byPairs
	case byList == byPairs:
		return byList
	}
	// A proxy sets one of them and passes on the other, which the client could have made
	// up. Which one is not known, so neither is believed.
	return peer
}

// clientHost returns the address of the client as text, and whatever stands for one if it has
// none.
func (s *Server) clientHost(r *http.Request) string {
	if a := s.clientAddr(r); a.IsValid() {
		return a.String()
	}
	return r.RemoteAddr
}

// isSecure reports whether the client sent a request over TLS, to the server or to a trusted
// proxy.
func (s *Server) isSecure(r *http.Request) bool {
	if r.TLS != nil {
		return true
	}
	if len(s.cfg.Behind) == 0 || !s.trusts(peerAddr(r)) {
		return false
	}
	values := splitList(r.Header.Values("X-Forwarded-Proto"))
	if values == nil {
		values = forwardedValues(r, "proto")
	}
	return len(values) > 0 && strings.EqualFold(values[len(values)-1], "https")
}

func peerAddr(r *http.Request) netip.Addr {
	peer, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil {
		return netip.Addr{}
	}
	return plainAddr(peer.Addr())
}

// plainAddr returns an address in the one form in which addresses are compared.
func plainAddr(a netip.Addr) netip.Addr { return a.Unmap().WithZone("") }

// trusts reports whether what a address says about others is believed.
func (s *Server) trusts(a netip.Addr) bool {
	return slices.ContainsFunc(s.cfg.Behind, func(p netip.Prefix) bool { return p.Contains(a) })
}

// walkHops follows hops from the last one, which the peer has added, to the first address
// that is not a trusted proxy. The hops before it could be made up. A hop that is no address
// ends the walk.
func (s *Server) walkHops(peer netip.Addr, hops []string) netip.Addr {
	at := peer
	for i := len(hops) - 1; i >= 0 && s.trusts(at); i-- {
		next, ok := parseHop(hops[i])
		if !ok {
			break
		}
		at = next
	}
	return at
}

// parseHop parses an address with or without a port.
func parseHop(text string) (netip.Addr, bool) {
	if withPort, err := netip.ParseAddrPort(text); err == nil {
		return plainAddr(withPort.Addr()), true
	}
	if inner, ok := strings.CutPrefix(text, "["); ok {
		text = strings.TrimSuffix(inner, "]")
	}
	a, err := netip.ParseAddr(text)
	return plainAddr(a), err == nil
}

// splitList returns the elements of a header that is a list.
func splitList(values []string) (all []string) {
	for _, v := range values {
		for part := range strings.SplitSeq(v, ",") {
			all = append(all, strings.TrimSpace(part))
		}
	}
	return all
}

// forwardedValues returns the parameter name of each element of Forwarded (RFC 7239), "" for
// an element without it. A comma within quotes is no address, so it may split an element.
func forwardedValues(r *http.Request, name string) (all []string) {
	for _, element := range splitList(r.Header.Values("Forwarded")) {
		found := ""
		for pair := range strings.SplitSeq(element, ";") {
			if key, value, ok := strings.Cut(pair, "="); ok && strings.EqualFold(strings.TrimSpace(key), name) {
				found = strings.Trim(strings.TrimSpace(value), `"`)
			}
		}
		all = append(all, found)
	}
	return all
}
