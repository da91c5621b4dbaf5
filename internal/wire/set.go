package wire

import (
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/rstream-dev/rstream/event"
)

// setPrefix is the first part of the path of POST /set/{user}/{path}.
const setPrefix = "/set/"

// SetPath returns the path of POST /set/{user}/{path}, escaped.
func SetPath(of event.Storage) string {
	segments := strings.Split(of.Path, "/")
	for i, s := range segments {
		segments[i] = url.PathEscape(s)
	}
	return setPrefix + url.PathEscape(of.User) + "/" + strings.Join(segments, "/")
}

// ParseSetPath parses the storage from the escaped path of a request. It splits
// the path before it unescapes it, so that %2F cannot end a user. Only if the whole storage
// is one segment, as routers write /set/:id, may its slashes be escaped.
func ParseSetPath(escaped string) (of event.Storage, err error) {
	rest, ok := strings.CutPrefix(escaped, setPrefix)
	rawUser, rawPath, ok2 := strings.Cut(rest, "/")
	if ok && !ok2 {
		if id, err := url.PathUnescape(rest); err == nil && strings.Contains(id, "/") {
			return event.ParseStorage(id)
		}
	}
	if !ok || !ok2 {
		return event.Storage{}, errors.New("path: want /set/{user}/{path}")
	}
	if of.User, err = url.PathUnescape(rawUser); err != nil {
		return event.Storage{}, fmt.Errorf("user: %w", err)
	}
	if of.Path, err = url.PathUnescape(rawPath); err != nil {
		return event.Storage{}, fmt.Errorf("path: %w", err)
	}
	if err := of.Check(); err != nil {
		return event.Storage{}, err
	}
	return of, nil
}

// ParseSetBody parses the body of POST /set/{user}/{path}: value, key and type. keyed
// reports whether it has a key, which may be empty.
func ParseSetBody(body []byte, of event.Storage) (d event.Draft, keyed bool, err error) {
	d, keyed, ok := event.ScanBody(body, of)
	if !ok {
		if d, keyed, err = parseSetBody(body, of); err != nil {
			return event.Draft{}, false, err
		}
	}
	if err := d.CheckNew(); err != nil {
		return event.Draft{}, false, fmt.Errorf("body: %w", err)
	}
	return d, keyed, nil
}

// parseSetBody parses every body that ParseSetBody's fast path does not accept.
func parseSetBody(body []byte, of event.Storage) (d event.Draft, keyed bool, err error) {
	ms, err := event.Members(body)
	if err != nil {
		return event.Draft{}, false, fmt.Errorf("body: %w", err)
	}
	d = event.Draft{User: of.User, Path: of.Path, Type: event.Put}
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
			err = fmt.Errorf("unknown member %.40q; want value, key or type", m.Name)
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

// A SetResult is one line of the response to a batch: the result of the draft in the same
// line of the request, not counting empty lines.
type SetResult struct {
	Status int        `json:"status"` // 201, or 200 if the log knew the hash
	ID     event.ID   `json:"id"`
	Time   event.Time `json:"time"` // absent if Dropped
	Hash   event.Hash `json:"hash"`
	// Dropped reports that the log once had the event, and has dropped it since.
	Dropped bool `json:"dropped,omitempty"`
}

// resultLen is the approximate length of a SetResult in bytes.
const resultLen = 160

// AppendResults appends the results of a batch to b as NDJSON, each line a SetResult.
func AppendResults(b []byte, receipts []event.Receipt) []byte {
	b = slices.Grow(b, resultLen*len(receipts))
	for i := range receipts {
		r := &receipts[i]
		status := 201
		if r.Duplicate {
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

// ParseResult parses a line of AppendResults. It also accepts other members and any order.
func ParseResult(line []byte) (r SetResult, err error) {
	if r.scan(line) {
		return r, nil
	}
	r = SetResult{}
	err = json.Unmarshal(line, &r)
	return r, err
}

// scan is the fast path of ParseResult for the usual form. If ok is false, the line may
// still be valid.
func (r *SetResult) scan(line []byte) (ok bool) {
	const begin, id, at, hash, end = `{"status":`, `,"id":"`, `","time":"`, `","hash":"`, `"}`
	switch status, rest := cutText(line, begin, len("201")); string(status) {
	case "201":
		r.Status, line = 201, rest
	case "200":
		r.Status, line = 200, rest
	default:
		return false
	}
	var text []byte
	text, line = cutText(line, id, event.IDLen)
	if r.ID.UnmarshalText(text) != nil {
		return false
	}
	text, line = cutText(line, at, len("2006-01-02T15:04:05.000000Z"))
	if r.Time.UnmarshalText(text) != nil {
		return false
	}
	text, line = cutText(line, hash, 2*len(r.Hash))
	return r.Hash.UnmarshalText(text) == nil && string(line) == end
}

// cutText returns the n bytes after label, and the rest, or nothing.
func cutText(line []byte, label string, n int) (text, rest []byte) {
	if len(line) < len(label)+n || string(line[:len(label)]) != label {
		return nil, nil
	}
	return line[len(label):][:n], line[len(label)+n:]
}

// AppendReceipt appends the response to a single append to b, with a line feed: the
// event's line, or if it was dropped, its id and hash.
func AppendReceipt(b []byte, r *event.Receipt) []byte {
	if r.Dropped {
		return appendDropped(append(b, '{'), r)
	}
	return append(r.AppendLine(b), '\n')
}

// appendDropped appends the last members of an object: all that a log still knows of an
// event that it dropped.
func appendDropped(b []byte, r *event.Receipt) []byte {
	b = append(b, `"id":"`...)
	b = r.ID.AppendTo(b)
	b = append(b, `","hash":"`...)
	b = hex.AppendEncode(b, r.Hash[:])
	return append(b, "\",\"dropped\":true}\n"...)
}
