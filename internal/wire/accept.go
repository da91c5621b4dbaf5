package wire

import (
	"mime"
	"strconv"
	"strings"
)

// Media types.
const (
	JSON     = "application/json"
	NDJSON   = "application/x-ndjson"
	SSE      = "text/event-stream"
	Problem  = "application/problem+json"
	FormData = "application/x-www-form-urlencoded"
	Frames   = "application/vnd.rstream.reconcile" // of package reconcile
)

// Form is the encoding of the events in a response.
type Form int

// The forms.
const (
	Page   Form = iota // one JSON object
	Lines              // NDJSON
	Stream             // Server-Sent Events
)

// A mediaRange is an item of an Accept header that selects one of the forms.
type mediaRange struct {
	form Form
	wild bool // a wildcard
	q    float64
}

// NegotiateForm returns the form for the given Accept headers: the one with the highest q,
// among equals one listed by name before a wildcard, and then the first. Without a
// preference, it is Page. ok is false if no form is acceptable.
func NegotiateForm(accept []string) (form Form, ok bool) {
	header := strings.Join(accept, ",")
	if strings.Trim(header, ", \t") == "" {
		return Page, true
	}
	var best mediaRange
	ranges, named := parseAccept(header)
	for _, r := range ranges {
		if r.wild && named[r.form] {
			continue // the q of the form itself takes precedence
		}
		if r.q > best.q || r.q == best.q && best.wild && !r.wild {
			best = r
		}
	}
	return best.form, best.q > 0
}

// parseAccept parses an Accept header. It skips unknown types and invalid items.
func parseAccept(header string) (ranges []mediaRange, named [Stream + 1]bool) {
	for part := range strings.SplitSeq(header, ",") {
		mediaType, params, err := mime.ParseMediaType(part)
		if err != nil {
			continue
		}
		r, known := rangeOf(mediaType)
		if s, given := params["q"]; given {
			r.q, err = strconv.ParseFloat(s, 64)
			known = known && err == nil && r.q >= 0 && r.q <= 1
		}
		if !known {
			continue
		}
		ranges = append(ranges, r)
		named[r.form] = named[r.form] || !r.wild
	}
	return ranges, named
}

func rangeOf(mediaType string) (r mediaRange, known bool) {
	switch mediaType {
	case SSE, "event/text-stream": // a common misspelling
		return mediaRange{form: Stream, q: 1}, true
	case NDJSON, "application/ndjson", "application/jsonl", "application/jsonlines":
		return mediaRange{form: Lines, q: 1}, true
	case JSON:
		return mediaRange{form: Page, q: 1}, true
	case "text/*":
		return mediaRange{form: Stream, wild: true, q: 1}, true
	case "application/*", "*/*":
		return mediaRange{form: Page, wild: true, q: 1}, true
	}
	return mediaRange{}, false
}

// PrefersHTML reports whether Accept headers name HTML, as browsers do, and do not prefer JSON.
func PrefersHTML(accept []string) bool {
	var page, data float64
	for part := range strings.SplitSeq(strings.Join(accept, ","), ",") {
		mediaType, params, err := mime.ParseMediaType(part)
		if err != nil {
			continue
		}
		q := 1.0
		if s, given := params["q"]; given {
			if q, err = strconv.ParseFloat(s, 64); err != nil || !(q >= 0 && q <= 1) {
				continue
			}
		}
		switch mediaType {
		case "text/html":
			page = max(page, q)
		case JSON:
			data = max(data, q)
		}
	}
	return page > 0 && page >= data
}
