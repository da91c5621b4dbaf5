package wire

import (
	"net/url"
	"regexp"
	"strings"
	"sync"
)

// RedactURL returns a URL with *** in place of its user and password. It also redacts text
// that is not a valid URL. Every URL that a user may have entered must be printed through
// it.
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
	// A URL without a user may have an @ after the host, but only where it cannot be the
	// end of a password that contains a /, ? or #.
	if u, err := url.Parse(s); err == nil && u.User == nil && u.Path != "" && !strings.Contains(u.Path+u.Fragment, "@") {
		return s
	}
	return scheme + "***" + s[at:]
}

// WithoutUser returns a URL without its user and password, so that it may be stored.
func WithoutUser(s string) string {
	u, err := url.Parse(s)
	if err != nil || u.User == nil {
		return s
	}
	u.User = nil
	return u.String()
}

// inText is compiled when it is first used, since most commands never use it.
var inText = sync.OnceValue(func() *regexp.Regexp {
	return regexp.MustCompile("([A-Za-z][A-Za-z0-9+.-]*://)[^\\s\"'`<>]*@")
})

// Redact redacts all URLs in a text, such as the errors of other packages.
func Redact(text string) string { return inText().ReplaceAllString(text, "$1***@") }
