package wire

import (
	"net/url"
	"regexp"
	"strings"
)

// RedactURL returns a URL, or what was meant as one, with *** in place of its user and
// password. All URLs that people may have written are shown through it.
func RedactURL(s string) string {
	at := strings.LastIndexByte(s, '@')
	if at < 0 {
		return s
	}
	scheme, _, ok := strings.Cut(s[:at], "://")
	if ok {
		scheme += "://"
	} else {
		scheme = ""
	}
	// Without a user, what follows the host may have an @ of its own, unless it can be
	// the end of a password that has a / ? or # in it.
	if u, err := url.Parse(s); err == nil && u.User == nil && u.Path != "" && !strings.Contains(u.Path+u.Fragment, "@") {
		return s
	}
	return scheme + "***" + s[at:]
}

// WithoutUser returns a URL without its user and password, as it may be stored.
func WithoutUser(s string) string {
	u, err := url.Parse(s)
	if err != nil || u.User == nil {
		return s
	}
	u.User = nil
	return u.String()
}

var inText = regexp.MustCompile("([A-Za-z][A-Za-z0-9+.-]*://)[^\\s\"'`<>]*@")

// Redact does in a text what RedactURL does: errors of other packages quote URLs.
func Redact(text string) string { return inText.ReplaceAllString(text, "$1***@") }
