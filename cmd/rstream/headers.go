package main

import (
	"bytes"
	"fmt"
	"net/http"
	"net/textproto"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/rstream-dev/rstream/internal/wire"
)

// parseHeaders parses headers: each is "Name: value", or @FILE with one header a line. Its
// errors do not quote a value, which may be a secret.
func parseHeaders(args []string) (http.Header, error) {
	headers := http.Header{}
	for _, arg := range args {
		lines := []string{arg}
		if path, isFile := strings.CutPrefix(arg, "@"); isFile {
			b, err := os.ReadFile(path)
			if err != nil {
				return nil, usagef("--header: %w", err)
			}
			lines = strings.Split(string(bytes.TrimSpace(bytes.TrimPrefix(b, byteOrderMark))), "\n")
		}
		for _, line := range lines {
			name, value, ok := strings.Cut(strings.TrimSpace(line), ":")
			if !ok || !isToken(name) {
				return nil, usagef("--header: want a header such as 'X-Name: value'")
			}
			value = strings.TrimSpace(value)
			if strings.ContainsFunc(value, func(r rune) bool { return r < ' ' && r != '\t' || r == 0x7f }) {
				return nil, usagef("--header %s: has control characters; for several headers, repeat --header", name)
			}
			name = textproto.CanonicalMIMEHeaderKey(name)
			headers[name] = append(headers[name], value)
		}
	}
	return headers, nil
}

// filesOfHeaders returns the files among headers.
func filesOfHeaders(args []string) (files []string) {
	for _, arg := range args {
		if path, isFile := strings.CutPrefix(arg, "@"); isFile {
			files = append(files, path)
		}
	}
	return files
}

// isToken reports whether name is valid for a header.
func isToken(name string) bool {
	return name != "" && !strings.ContainsFunc(name, func(r rune) bool {
		return r <= ' ' || r >= 0x7f || strings.ContainsRune(`"(),/:;<=>?@[\]{}`, r)
	})
}

// parseRequestHeaders is parseHeaders for requests of the client, which sets some headers
// itself.
func parseRequestHeaders(args []string) (http.Header, error) {
	headers, err := parseHeaders(args)
	for name, values := range headers {
		switch {
		case name == "Host":
			return nil, usagef("--header Host: name the host in the URL of --server")
		case wire.IsOwnHeader(name):
			return nil, usagef("--header %s: rstream sets this header itself", name)
		case len(values) == 1 && values[0] == "":
			return nil, usagef("--header %s: must have a value", name)
		}
	}
	return headers, err
}

// maskHeader returns a value of --header without its secret.
func maskHeader(arg string) string {
	name, _, ok := strings.Cut(arg, ":")
	switch {
	case strings.HasPrefix(arg, "@"):
		return arg
	case !ok:
		return "…"
	}
	return name + ": …"
}

// serverHeaders returns the headers for requests to a server: those of the command line and
// the environment, and those that the config file has for it, if the others do not have the
// same name.
func (a *app) serverHeaders(server string) http.Header {
	headers, c := http.Header{}, a.credentialsOf(server)
	for _, path := range c.headerFiles {
		a.warnIfExposed(path)
	}
	for _, own := range []http.Header{c.headers, a.headers} {
		for name, values := range own {
			headers[name] = values
		}
	}
	return headers
}

// checkAuthorization decides between an Authorization header and a token for each server:
// the one that is set closer to the command wins.
func (a *app) checkAuthorization() error {
	for _, server := range a.servers {
		header, token := a.headerOrigin(server), a.tokenOrigin(server)
		if header == token && header != unset {
			return usagef("--header Authorization and a token cannot be combined")
		}
	}
	return nil
}

// headerOrigin returns where the Authorization header for a server comes from.
func (a *app) headerOrigin(server string) origin {
	switch {
	case a.headers.Get("Authorization") != "":
		return a.settings.origins["header"]
	case a.credentialsOf(server).headers.Get("Authorization") != "":
		return inServers
	}
	return unset
}

// tokenOrigin returns where the token for a server comes from.
func (a *app) tokenOrigin(server string) origin {
	nearest := unset
	if a.credentials.tokenFile != "" {
		nearest = a.settings.origins["token-file"]
	}
	if a.credentials.tokenCommand != "" {
		nearest = min(nearest, a.settings.origins["token-command"])
	}
	if a.environmentToken() != "" {
		nearest = min(nearest, inEnvironment)
	}
	if c := a.credentialsOf(server); nearest == unset && (c.tokenFile != "" || c.tokenCommand != "") {
		nearest = inServers
	}
	return nearest
}

// sendsHeader reports whether the Authorization header for a server takes the place of a
// token.
func (a *app) sendsHeader(server string) bool { return a.headerOrigin(server) < a.tokenOrigin(server) }

// requestHeaders returns the headers for a request to a server, without an Authorization
// that a token takes the place of.
func (a *app) requestHeaders(server string) http.Header {
	headers := a.serverHeaders(server)
	if !a.sendsHeader(server) {
		headers.Del("Authorization")
	}
	return headers
}

// anyHeaderAnnotation marks commands whose requests may have any header.
const anyHeaderAnnotation = "any header"

// readHeaders parses --header.
func (a *app) readHeaders(cmd *cobra.Command) (err error) {
	parse := parseRequestHeaders
	if cmd.Annotations[anyHeaderAnnotation] != "" {
		parse = parseHeaders
	}
	if a.headers, err = parse(a.credentials.headerArgs); err != nil {
		if from := a.settings.sourceOf("header"); from != "" {
			err = fmt.Errorf("%s: %w", from, err)
		}
		return &usageError{err}
	}
	for _, path := range filesOfHeaders(a.credentials.headerArgs) {
		a.warnIfExposed(path)
	}
	return a.checkAuthorization()
}
