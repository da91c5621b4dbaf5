package server

import (
	"cmp"
	"encoding/json"
	"mime"
	"net/http"
	"net/url"
	"slices"
	"time"

	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/internal/auth"
	"github.com/rstream-dev/rstream/internal/wire"
)

// A page cannot give EventSource an Authorization header, so it sends its token once, to
// /login, and the browser keeps it in a cookie that no script can read. The cookie is only
// another way to bring the token: it is checked like one at every request.

// Names of the cookie. Browsers take a name with __Host- only over TLS and from this very
// host; a cookie without it, which others may have set, is not read there.
const (
	secureCookie = "__Host-rstream"
	plainCookie  = "rstream" // of a server without TLS
)

// maxCookie is the longest token of a cookie: browsers drop a cookie whose name and value
// are longer than 4,096 bytes together.
const maxCookie = 4096 - len(secureCookie)

// maxLogin is the greatest size of the body of a login, in bytes.
const maxLogin = 2 * auth.MaxToken

func cookieName(secure bool) string {
	if secure {
		return secureCookie
	}
	return plainCookie
}

// setCookie sets the cookie for as long as its token is valid, or deletes it if token is
// empty.
func (s *Server) setCookie(w http.ResponseWriter, r *http.Request, token string, left time.Duration) {
	secure := s.isSecure(r)
	c := http.Cookie{Name: cookieName(secure), Value: token, Path: "/", Secure: secure, HttpOnly: true, SameSite: http.SameSiteStrictMode, MaxAge: -1}
	if token != "" {
		c.MaxAge = max(int(left/time.Second), 1)
	}
	http.SetCookie(w, &c)
}

// cookieToken returns the token in the cookie of a request, "" if it has none or if a page
// sent it that may not use it.
func (s *Server) cookieToken(r *http.Request) (string, *wire.Error) {
	if r.Header["Cookie"] == nil || !s.mayUseCookie(r) {
		return "", nil
	}
	name := cookieName(s.isSecure(r))
	switch cookies := r.CookiesNamed(name); len(cookies) {
	case 0:
		return "", nil
	case 1:
		return cookies[0].Value, nil
	default: // another page of this host has set one for a part of the paths
		return "", wire.Errorf(http.StatusBadRequest, "the cookie %s is given %d times", name, len(cookies))
	}
}

// mayUseCookie reports whether the page that sent a request may use a cookie: one of the
// server's own origin, or of one that is allowed by its name. Without Origin, it is no page,
// or a page reads from its own origin, or it embeds what it cannot read, an image for
// example, and browsers say so in Sec-Fetch-Site.
func (s *Server) mayUseCookie(r *http.Request) bool {
	origin := r.Header.Get("Origin")
	if origin == "" {
		return slices.Contains([]string{"", "same-origin", "none"}, r.Header.Get("Sec-Fetch-Site"))
	}
	return s.isOwnOrigin(r) || slices.Contains(s.cfg.Origins, origin)
}

// isOwnOrigin reports whether a page of the server's own origin sent the request. The scheme
// counts: whoever is on the network can be http:// of any host.
func (s *Server) isOwnOrigin(r *http.Request) bool {
	scheme := "http"
	if s.isSecure(r) {
		scheme = "https"
	}
	u, err := url.Parse(r.Header.Get("Origin"))
	return err == nil && u.Scheme == scheme && isSameOrigin(r.Header.Get("Origin"), r.Host)
}

// mayWriteByCookie refuses to append by cookie for a page of another origin: the browser
// sends the cookie by itself, whoever made the request.
func (s *Server) mayWriteByCookie(rec *recorder, r *http.Request) *wire.Error {
	if !rec.byCookie || s.isOwnOrigin(r) {
		return nil
	}
	return wire.Errorf(http.StatusForbidden,
		"a cookie lets no page of %q append; send Authorization: Bearer TOKEN", r.Header.Get("Origin"))
}

// A login is the response to POST /login: what the token in the cookie allows, and until
// when.
type login struct {
	Subject string          `json:"sub"`
	Expires string          `json:"expires"`
	Read    []event.Topic   `json:"read,omitempty"`
	Write   []event.Topic   `json:"write,omitempty"`
	Board   auth.BoardRight `json:"board,omitempty"`
}

// postLogin sets the cookie of a valid token: POST /login.
func (s *Server) postLogin(w http.ResponseWriter, r *http.Request) *wire.Error {
	if problem := s.checkLogin(r); problem != nil {
		return problem
	}
	token, problem := loginToken(w, r)
	if problem != nil {
		return problem
	}
	if token == "" {
		return tokenProblem(w.Header(), auth.ErrNoToken)
	}
	rec := recorderOf(w)
	if problem := s.admitToken(rec, r, token); problem != nil {
		return problem
	}
	if len(token) > maxCookie {
		return wire.Errorf(http.StatusRequestEntityTooLarge, "the token has %d bytes; browsers keep at most %d in a cookie", len(token), maxCookie)
	}
	rec.ruled = true
	g := rec.grant
	s.setCookie(w, r, token, g.Left())
	return writeJSON(w, login{g.Subject, g.Expires.UTC().Format(time.RFC3339), g.Read, g.Write, g.Board})
}

// postLogout deletes the cookie: POST /logout. The token stays valid.
func (s *Server) postLogout(w http.ResponseWriter, r *http.Request) *wire.Error {
	if problem := s.checkLogin(r); problem != nil {
		return problem
	}
	recorderOf(w).ruled = true
	s.setCookie(w, r, "", 0)
	w.WriteHeader(http.StatusNoContent)
	return nil
}

// checkLogin refuses a login or logout of a server without tokens, and by a page that may
// not use the cookie: it could log the user in as somebody else.
func (s *Server) checkLogin(r *http.Request) *wire.Error {
	if s.cfg.Guard == nil {
		return wire.Errorf(http.StatusNotFound, "this server asks for no tokens")
	}
	if s.mayUseCookie(r) {
		return nil
	}
	origin := cmp.Or(r.Header.Get("Origin"), "of another site")
	if isSameOrigin(origin, r.Host) {
		return wire.Errorf(http.StatusForbidden, "origin %.80q is https, the request is not; if a proxy serves https, use --behind", origin)
	}
	return wire.Errorf(http.StatusForbidden, "pages of origin %.80q may not log in; to allow it, use --allow-origin %.80q", origin, origin)
}

// loginToken returns the token of a login: of its Authorization header, or of its body, a
// form or JSON.
func loginToken(w http.ResponseWriter, r *http.Request) (string, *wire.Error) {
	token, problem := bearerToken(r)
	if problem != nil {
		return "", problem
	}
	body, problem := readBody(w, r, maxLogin)
	if problem != nil || len(body) == 0 {
		return token, problem
	}
	if token != "" {
		return "", wire.Errorf(http.StatusBadRequest, "the token is given twice: in Authorization and in the body")
	}
	if got, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err == nil && got == wire.JSON {
		var in struct {
			Token string `json:"token"`
		}
		if json.Unmarshal(body, &in) != nil || in.Token == "" { // the error could quote the token
			return "", wire.Errorf(http.StatusBadRequest, `body: want {"token": "TOKEN"}`)
		}
		return in.Token, nil
	}
	if problem := checkForm(r, body, wire.FormData+" or "+wire.JSON); problem != nil {
		return "", problem
	}
	form, err := url.ParseQuery(string(body))
	if err != nil || len(form) != 1 || len(form["token"]) != 1 || form.Get("token") == "" {
		return "", wire.Errorf(http.StatusBadRequest, "body: want token=TOKEN")
	}
	return form.Get("token"), nil
}
