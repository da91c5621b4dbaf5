package wire

import (
	"encoding/hex"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/rstream-dev/rstream/event"
)

// setPrefix begins the path of POST /set/{user}/{path}.
const setPrefix = "/set/"

// SetPath returns the path of POST /set/{user}/{path}, escaped.
func SetPath(user, path string) string {
	segments := strings.Split(path, "/")
	for i, s := range segments {
		segments[i] = url.PathEscape(s)
	}
	return setPrefix + url.PathEscape(user) + "/" + strings.Join(segments, "/")
}

// ParseSetPath reads the user and the path from the raw, escaped path of a request.
// It is split before it is unescaped, so %2F cannot end a user, unless the storage is one
// segment as a whole, as routers write /set/:id.
func ParseSetPath(escaped string) (user, path string, err error) {
	rest, ok := strings.CutPrefix(escaped, setPrefix)
	rawUser, rawPath, ok2 := strings.Cut(rest, "/")
	if ok && !ok2 {
		if id, err := url.PathUnescape(rest); err == nil && strings.Contains(id, "/") {
			s, err := event.ParseStorage(id)
			return s.User, s.Path, err
		}
	}
	if !ok || !ok2 {
		return "", "", errors.New("path: want /set/{user}/{path}")
	}
	if user, err = url.PathUnescape(rawUser); err != nil {
		return "", "", fmt.Errorf("user: %w", err)
	}
	if path, err = url.PathUnescape(rawPath); err != nil {
		return "", "", fmt.Errorf("path: %w", err)
	}
	if err := event.CheckUser(user); err != nil {
		return "", "", err
	}
	if err := event.CheckPath(path); err != nil {
		return "", "", err
	}
	return user, path, nil
}

// ParseSetBody reads the body of POST /set/{user}/{path}: value, key and type. keyed
// reports whether it names a key, an empty one included.
func ParseSetBody(body []byte, user, path string) (d event.Draft, keyed bool, err error) {
	d, keyed, ok := event.ScanBody(body, user, path)
	if !ok {
		if d, keyed, err = parseSetBody(body, user, path); err != nil {
			return event.Draft{}, false, err
		}
	}
	if err := d.CheckNew(); err != nil {
		return event.Draft{}, false, fmt.Errorf("body: %w", err)
	}
	return d, keyed, nil
}

// parseSetBody is ParseSetBody of whatever comes.
func parseSetBody(body []byte, user, path string) (d event.Draft, keyed bool, err error) {
	ms, err := event.Members(body)
	if err != nil {
		return event.Draft{}, false, fmt.Errorf("body: %w", err)
	}
	d = event.Draft{User: user, Path: path, Type: event.Put}
	for _, m := range ms {
		switch m.Name {
		case "value":
			d.Value, err = event.CompactValue(m.Value)
		case "key":
			keyed = true
			d.Key, err = m.Text()
		case "type":
			var s string
			s, err = m.Text()
			d.Type = event.Type(s)
		default:
			err = fmt.Errorf("unknown member %.40q; known are value, key, type", m.Name)
		}
		if err != nil {
			return event.Draft{}, false, fmt.Errorf("body: %w", err)
		}
	}
	if err := d.Check(); err != nil {
		return event.Draft{}, false, fmt.Errorf("body: %w", err)
	}
	return d, keyed, nil
}

// SetResult is one line of the answer to a batch: what became of the draft in the
// same line of the request, empty lines not counted.
type SetResult struct {
	Status int        `json:"status"` // 201, or 200 if the log knew the hash
	ID     event.ID   `json:"id"`
	Time   event.Time `json:"time"` // of an event that was dropped left out
	Hash   event.Hash `json:"hash"`
	// Dropped means that the log took the event once, and has dropped it since.
	Dropped bool `json:"dropped,omitempty"`
}

// resultLen is about as long as a SetResult is.
const resultLen = 160

// AppendResults appends a batch's results, each a SetResult, as NDJSON.
func AppendResults(b []byte, receipts []event.Receipt) []byte {
	b = slices.Grow(b, resultLen*len(receipts))
	for i := range receipts {
		r := &receipts[i]
		status := 201
		if r.Known {
			status = 200
		}
		b = append(b, `{"status":`...)
		b = strconv.AppendInt(b, int64(status), 10)
		b = append(b, ',')
		if r.Dropped {
			b = appendDropped(b, r)
			continue
		}
		b = append(b, `"id":"`...)
		b = r.ID.AppendTo(b)
		b = append(b, `","time":"`...)
		b = r.Time.AppendTo(b)
		b = append(b, `","hash":"`...)
		b = hex.AppendEncode(b, r.Hash[:])
		b = append(b, "\"}\n"...)
	}
	return b
}

// AppendReceipt appends the answer to a single append, with a line feed: the event's
// line, or what is still known of it.
func AppendReceipt(b []byte, r *event.Receipt) []byte {
	if r.Dropped {
		return appendDropped(append(b, '{'), r)
	}
	return append(r.AppendLine(b), '\n')
}

// appendDropped appends the last members of an object, which are all that a log tells of
// an event that it took and has dropped since.
func appendDropped(b []byte, r *event.Receipt) []byte {
	b = append(b, `"id":"`...)
	b = r.ID.AppendTo(b)
	b = append(b, `","hash":"`...)
	b = hex.AppendEncode(b, r.Hash[:])
	return append(b, "\",\"dropped\":true}\n"...)
}
