package main

import (
	"net/url"
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
		if err != nil || u.Scheme == "" || u.Host == "" || strings.Contains(u.Host, "*") || strings.Trim(u.Path, "/") != "" || u.RawQuery != "" || u.Fragment != "" || u.User != nil {
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
