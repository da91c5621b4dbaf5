package main

import (
	"net/url"
	"strconv"
	"strings"
)

// parseOrigins returns the values of --allow-origin in the form in which browsers send the origin of
// a page: in lower case, and without the port that its scheme has anyway.
func parseOrigins(given []string) (origins []string, err error) {
	for _, text := range given {
		if text == "*" || text == "null" { // null is the origin of a file
			origins = append(origins, text)
			continue
		}
		u, err := url.Parse(text)
		if err != nil || !isOrigin(u) {
			return nil, usagef("--allow-origin %s: want an origin such as https://app.example.com, or *", text)
		}
		host := strings.ToLower(u.Host)
		switch u.Scheme {
		case "https":
			host = strings.TrimSuffix(host, ":443")
		case "http":
			host = strings.TrimSuffix(host, ":80")
		}
		origins = append(origins, u.Scheme+"://"+host)
	}
	return origins, nil
}

// isOrigin reports whether a URL has the parts of an origin, and no others. A name that is not ASCII
// is sent as punycode.
func isOrigin(u *url.URL) bool {
	if u.Scheme == "" || u.Hostname() == "" || u.User != nil || u.ForceQuery || u.RawQuery != "" || u.Fragment != "" || strings.Trim(u.Path, "/") != "" {
		return false
	}
	if strings.ContainsFunc(u.Host, func(r rune) bool { return r > '~' || strings.ContainsRune("*,;\"'", r) }) {
		return false
	}
	port := u.Port()
	if port == "" {
		return !strings.HasSuffix(u.Host, ":")
	}
	n, err := strconv.ParseUint(port, 10, 16)
	return err == nil && strconv.FormatUint(n, 10) == port
}
