package server

import (
	"bytes"
	"crypto/sha256"
	_ "embed"
	"encoding/base64"
	"html/template"
	"net/http"
	"strings"
	"sync"

	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/internal/auth"
	"github.com/rstream-dev/rstream/internal/wire"
)

//go:embed front.html
var frontHTML string

// A frontPage is the page that browsers get at /. Where a token is needed and there is none, it
// is only a form to log in.
type frontPage struct {
	*template.Template
	policy string // for Content-Security-Policy
}

// front parses the page when it is first needed. Only its own script and style may run, which
// the policy names by their digests, and it may connect only to its own server.
var front = sync.OnceValue(func() *frontPage {
	p := &frontPage{Template: template.Must(template.New("front").Parse(frontHTML))}
	var b bytes.Buffer
	if err := p.Execute(&b, frontValues{}); err != nil { // cannot happen: the page is a constant
		panic(err)
	}
	p.policy = policyOf(b.String())
	return p
})

// policyOf returns the policy of a page with one script and one style.
func policyOf(page string) string {
	return "default-src 'none'; script-src " + digestOf(page, "script") + "; style-src " + digestOf(page, "style") +
		"; img-src data:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
}

// digestOf returns the source expression of the content of the page's only element of a name.
func digestOf(page, name string) string {
	_, rest, _ := strings.Cut(page, "<"+name+">")
	content, _, _ := strings.Cut(rest, "</"+name+">")
	sum := sha256.Sum256([]byte(content))
	return "'sha256-" + base64.StdEncoding.EncodeToString(sum[:]) + "'"
}

// frontValues are the values in the page.
type frontValues struct {
	Log, Head, Horizon string
	Readers            *int // nil if the bearer may not know it
	Host               string
	Topic              string // to follow at first
	Dashboard          bool   // there is one that the reader may see

	IsGuarded    bool   // the server asks for tokens
	IsStranger   bool   // the reader has none, and must log in
	AsksForToken bool   // the reader is not logged in
	Subject      string // of the token of the cookie
}

// writeFront sends the page with the server information.
func (s *Server) writeFront(w http.ResponseWriter, r *http.Request, info *wire.Info) {
	values := frontValues{Log: info.Log, Head: info.Head.ID.String(), Horizon: info.Horizon.ID.String(), Host: r.Host, Topic: event.All.String(), Dashboard: !s.cfg.NoDashboard}
	if s.cfg.Guard == nil { // else the metrics, which have it, are at another address
		n := s.readerStats(info.Head.ID).Readers
		values.Readers = &n
	}
	if rec := recorderOf(w); rec.grant != nil {
		values.IsGuarded, values.AsksForToken = true, rec.grant.IsPublic()
		values.Dashboard = values.Dashboard && rec.grant.Board == auth.BoardRead
		if rec.byCookie {
			values.Subject = rec.grant.Subject
		}
		if len(rec.grant.Read) > 0 && !rec.grant.CanRead(event.All) {
			values.Topic = rec.grant.Read[0].String()
		}
	}
	sendFront(w, &values, http.StatusOK)
}

// offerFrontLogin sends a form to log in to a browser that opened the page without a valid token,
// since its user could not give it one otherwise. It reports whether it did.
func (s *Server) offerFrontLogin(w http.ResponseWriter, r *http.Request, problem *wire.Error) bool {
	if problem.Status != http.StatusUnauthorized || !isFront(r) || !wire.PrefersHTML(r.Header.Values("Accept")) {
		return false
	}
	sendFront(w, &frontValues{Log: s.log.Log(), IsStranger: true, AsksForToken: true}, problem.Status)
	return true
}

// isFront reports whether a request is for the page, or the JSON in its place.
func isFront(r *http.Request) bool {
	return rawPath(r) == "/" && (r.Method == http.MethodGet || r.Method == http.MethodHead)
}

// sendFront sends the page.
func sendFront(w http.ResponseWriter, values *frontValues, status int) {
	page := front()
	var b bytes.Buffer
	if err := page.Execute(&b, values); err != nil { // cannot happen: every value is a string, a number or a bool
		panic(err)
	}
	setPageHeaders(w.Header(), page.policy)
	w.WriteHeader(status)
	_, _ = w.Write(b.Bytes()) // fails only if the client is gone
}

func setPageHeaders(h http.Header, policy string) {
	h.Set("Cache-Control", "no-store")
	h.Set("Content-Security-Policy", policy)
	h.Set("Content-Type", "text/html; charset=utf-8")
	h.Set("Referrer-Policy", "no-referrer")
}
