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

	"github.com/rstream-dev/rstream/internal/wire"
)

//go:embed front.html
var frontHTML string

// A frontPage is the page that browsers get at /.
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
	p.policy = "default-src 'none'; script-src " + digestOf(b.String(), "script") + "; style-src " + digestOf(b.String(), "style") +
		"; img-src data:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
	return p
})

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
}

// writeFront sends the page with the server information.
func (s *Server) writeFront(w http.ResponseWriter, r *http.Request, info *wire.Info) {
	values := frontValues{Log: info.Log, Head: info.Head.ID.String(), Horizon: info.Horizon.ID.String(), Host: r.Host}
	if s.cfg.Guard == nil { // else the metrics, which have it, are at another address
		n := s.readerStats(info.Head.ID).Readers
		values.Readers = &n
	}
	page := front()
	var b bytes.Buffer
	if err := page.Execute(&b, values); err != nil { // cannot happen: every value is a string or a number
		panic(err)
	}
	h := w.Header()
	h.Set("Cache-Control", "no-store")
	h.Set("Content-Security-Policy", page.policy)
	h.Set("Content-Type", "text/html; charset=utf-8")
	h.Set("Referrer-Policy", "no-referrer")
	_, _ = w.Write(b.Bytes()) // fails only if the client is gone
}
