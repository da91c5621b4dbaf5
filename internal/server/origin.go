package server

import (
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"

	"github.com/rstream-dev/rstream/internal/wire"
)

// exposed are the response headers that pages of other origins may read.
var exposed = strings.Join([]string{
	wire.HeaderLog, wire.HeaderHead, wire.HeaderFrom, wire.HeaderTo, wire.HeaderNext, wire.HeaderLive, wire.HeaderEvents,
	wire.HeaderCount, wire.HeaderDigest, wire.HeaderBehind, "ETag", "Retry-After",
}, ", ")

// checkOrigin refuses requests of web pages from other origins. A page can reach a server on this
// machine by a name of its own (DNS rebinding), which Host reveals, or simply across
// origins, which Origin reveals. Errors have the same headers as other responses, so that an
// allowed page can read them.
func (s *Server) checkOrigin(w http.ResponseWriter, r *http.Request) *wire.Error {
	if s.cfg.Loopback && !isLoopback(r.Host) {
		return notLoopback(r)
	}
	origin := r.Header.Get("Origin")
	if origin == "" || isSameOrigin(origin, r.Host) {
		return nil
	}
	if !slices.Contains(s.cfg.Origins, origin) && !slices.Contains(s.cfg.Origins, "*") {
		return wire.Errorf(http.StatusForbidden, "origin %.80q is not allowed; to allow it, start the server with --allow-origin", origin)
	}
	h := w.Header()
	h.Set("Access-Control-Allow-Origin", origin)
	h.Set("Access-Control-Expose-Headers", exposed)
	if s.cfg.Guard != nil && slices.Contains(s.cfg.Origins, origin) { // allowed by name, so it may use the cookie
		h.Set("Access-Control-Allow-Credentials", "true")
	}
	if r.Method == http.MethodOptions {
		h.Set("Access-Control-Allow-Methods", "GET, HEAD, POST, QUERY")
		h.Set("Access-Control-Allow-Headers", "authorization, content-type, if-none-match, last-event-id, rstream-held, rstream-log")
		h.Set("Access-Control-Max-Age", "600")
	}
	return nil
}

// LoopbackOnly wraps h and refuses requests whose Host is not this machine.
func LoopbackOnly(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !isLoopback(r.Host) {
			notLoopback(r).Write(w)
			return
		}
		h.ServeHTTP(w, r)
	})
}

func notLoopback(r *http.Request) *wire.Error {
	return wire.Errorf(http.StatusForbidden, "host %.80q is not this machine; this server answers only to localhost", r.Host)
}

func isSameOrigin(origin, host string) bool {
	u, err := url.Parse(origin)
	return err == nil && u.Host != "" && strings.EqualFold(u.Host, host)
}

// isLoopback reports whether host, with or without a port, is this machine by a name that no
// DNS server controls.
func isLoopback(host string) bool {
	name := host
	if h, _, err := net.SplitHostPort(host); err == nil {
		name = h
	} else if strings.HasPrefix(host, "[") && strings.HasSuffix(host, "]") {
		name = host[1 : len(host)-1]
	}
	if strings.EqualFold(name, "localhost") {
		return true
	}
	addr, err := netip.ParseAddr(name)
	return err == nil && addr.IsLoopback()
}
