package server

import (
	"bytes"
	"embed"
	"html/template"
	"net/http"
	"strings"
	"sync"

	"github.com/rstream-dev/rstream/internal/wire"
)

// pathDashboard is the path of the page that shows the board.
const pathDashboard = "/dashboard"

//go:embed dashboard
var dashboardFiles embed.FS

// A dashboardPage is one of the two pages at /dashboard: the board, or the login for those
// who may not see it. It has its script and style in itself and loads nothing else. All data
// come from the API, so the board's page tells a stranger nothing either.
type dashboardPage struct {
	*template.Template
	style, script string
	policy        string // for Content-Security-Policy
}

// dashboardValues are the values in these pages.
type dashboardValues struct {
	Style   template.CSS
	Script  template.JS
	Guarded bool   // the server asks for tokens
	Subject string // of the token
	Problem string // why the login is shown
}

var (
	boardPage = sync.OnceValue(func() *dashboardPage { return newDashboardPage("board") })
	loginPage = sync.OnceValue(func() *dashboardPage { return newDashboardPage("login") })
)

func newDashboardPage(name string) *dashboardPage {
	file := func(name string) string {
		b, err := dashboardFiles.ReadFile("dashboard/" + name)
		if err != nil { // cannot happen: the files are constants
			panic(err)
		}
		return string(b)
	}
	p := &dashboardPage{template.Must(template.New(name).Parse(file(name + ".html"))), file("style.css"), file(name + ".js"), ""}
	// With Trusted Types no text can become HTML or a script, however it is inserted.
	p.policy = policyOf(p.build(dashboardValues{})) + "; require-trusted-types-for 'script'; trusted-types 'none'"
	return p
}

func (p *dashboardPage) build(values dashboardValues) string {
	values.Style, values.Script = template.CSS(p.style), template.JS(p.script)
	var b bytes.Buffer
	if err := p.Execute(&b, values); err != nil { // cannot happen: every value is a string
		panic(err)
	}
	return b.String()
}

// getDashboard returns the page that shows the board: GET /dashboard.
func (s *Server) getDashboard(w http.ResponseWriter, _ *http.Request) *wire.Error {
	if _, problem := s.mayViewBoard(w); problem != nil {
		return problem
	}
	values := dashboardValues{}
	if g := recorderOf(w).grant; g != nil {
		values.Guarded, values.Subject = true, g.Subject
	}
	page := boardPage()
	setPageHeaders(w.Header(), page.policy)
	_, _ = w.Write([]byte(page.build(values))) // fails only if the client is gone
	return nil
}

// isDashboard reports whether a request is for the dashboard.
func isDashboard(r *http.Request) bool { return rawPath(r) == pathDashboard }

// offerDashboardLogin sends a form to log in to a browser that opened the dashboard without a
// token that allows to see the board. It reports whether it did.
func (s *Server) offerDashboardLogin(w http.ResponseWriter, r *http.Request, problem *wire.Error) bool {
	if !isDashboard(r) || s.cfg.NoDashboard || !wire.PrefersHTML(r.Header.Values("Accept")) {
		return false
	}
	values := dashboardValues{}
	switch {
	case problem.Status == http.StatusForbidden && recorderOf(w).grant != nil, problem.Status == http.StatusUnauthorized && recorderOf(w).byCookie:
		values.Problem = strings.ToUpper(problem.Detail[:1]) + problem.Detail[1:] + "."
	case problem.Status != http.StatusUnauthorized:
		return false
	}
	page := loginPage()
	setPageHeaders(w.Header(), page.policy)
	w.WriteHeader(problem.Status)
	_, _ = w.Write([]byte(page.build(values)))
	return true
}
