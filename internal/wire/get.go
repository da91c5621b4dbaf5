package wire

import (
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"

	"github.com/rstream-dev/rstream/event"
)

// ParseGet parses the parameters of GET /get: id or items, which may be repeated, the
// events that the reader has of them, and the range. A filter may follow a second question
// mark.
func ParseGet(rawQuery string) (*Query, error) {
	rawQuery = strings.Replace(rawQuery, "?bloomFilter=", "&bloomFilter=", 1)
	v, err := parseParams(rawQuery, append([]string{"id", "items", "bloomFilter", "have"}, rangeParams...))
	if err != nil {
		return nil, err
	}
	items, err := parseNames(rawQuery, v)
	if err != nil {
		return nil, err
	}
	known, err := parsePeerHas(rawQuery, v)
	if err != nil {
		return nil, err
	}
	if !known.IsZero() {
		for i := range items {
			if !items[i].IsZero() {
				return nil, errors.New("bloomFilter and have are given both in items and as parameters")
			}
			items[i].PeerHas = known
		}
	}
	return storagesQuery(items, v)
}

// An item is a storage to read, and the events that the reader has of it.
type item struct {
	id string
	PeerHas
}

// parseNames parses id or items from the parameters of a GET.
func parseNames(rawQuery string, v url.Values) (items []item, err error) {
	if v.Has("id") && v.Has("items") {
		return nil, errors.New("id and items cannot be combined")
	}
	for _, id := range v["id"] {
		if looksLikeJSON(id) && event.CheckJSON([]byte(id)) == nil {
			return nil, fmt.Errorf("id: want one storage such as alice/posts/1, not JSON: %.40q; use items for JSON", id)
		}
		items = append(items, item{id: id})
	}
	for _, raw := range rawValues(rawQuery, "items") {
		more, err := parseItemsParam(raw)
		if err != nil {
			return nil, fmt.Errorf("items: %w", err)
		}
		if items = append(items, more...); len(items) > MaxTopics {
			break // storages returns the error
		}
	}
	return items, nil
}

// looksLikeJSON reports whether a parameter is meant as JSON. A user that begins like this must
// be given within JSON.
func looksLikeJSON(s string) bool {
	return strings.HasPrefix(s, "[") || strings.HasPrefix(s, "{") || strings.HasPrefix(s, `"`)
}

// parseItemsParam parses one value of items, still escaped: JSON, or storages separated by
// commas (a comma in a path is written %2C).
func parseItemsParam(raw string) (items []item, err error) {
	text, err := url.QueryUnescape(raw)
	if err != nil {
		return nil, err
	}
	if text = strings.Trim(text, " \t\r\n"); looksLikeJSON(text) {
		if err := event.CheckJSON([]byte(text)); err != nil {
			return nil, err
		}
		return parseItemList(json.RawMessage(text))
	}
	for _, id := range splitRaw(raw) {
		items = append(items, item{id: id})
	}
	return items, nil
}

// ParseHashes parses POST /get with {"hashes": [HASH, …]}, which reads events of any topic.
// q has the form of the events. It is nil, without an error, if the body is of another kind.
func ParseHashes(rawQuery string, body []byte) (hashes []event.Hash, q *Query, err error) {
	ms, err := event.Members(body)
	if err != nil || len(ms) != 1 || ms[0].Name != "hashes" {
		return nil, nil, nil // ParsePostGet reports the error, if it is one
	}
	v, err := parseParams(rawQuery, formParams)
	if err != nil {
		return nil, nil, err
	}
	q = &Query{}
	if err := q.withForm(v); err != nil {
		return nil, nil, err
	}
	if hashes, err = parseHashes("hashes", ms[0].Value); err != nil {
		return nil, nil, fmt.Errorf("body: %w", err)
	}
	return hashes, q, nil
}

// AppendHashes appends the body of a POST /get of hashes to b.
func AppendHashes(b []byte, hashes []event.Hash) []byte {
	b = append(b, `{"hashes":[`...)
	for i, h := range hashes {
		if i > 0 {
			b = append(b, ',')
		}
		b = append(hex.AppendEncode(append(b, '"'), h[:]), '"')
	}
	return append(b, "]}"...)
}

// ParsePostGet parses POST /get. The body is {"items": ITEM} or {"items": [ITEM, …]}, and
// an item is "id" or {"id": "id", "bloomFilter": …, "have": …}. The range is in the URL.
func ParsePostGet(rawQuery string, body []byte) (*Query, error) {
	v, err := parseParams(rawQuery, rangeParams)
	if err != nil {
		return nil, err
	}
	ms, err := event.Members(body)
	if err != nil {
		return nil, fmt.Errorf("body: %w", err)
	}
	if len(ms) != 1 || ms[0].Name != "items" {
		return nil, errors.New(`body: want {"items": …} or {"hashes": …} and nothing else`)
	}
	items, err := parseItemList(ms[0].Value)
	if err != nil {
		return nil, fmt.Errorf("body: items: %w", err)
	}
	return storagesQuery(items, v)
}

// storagesQuery returns a Query with one topic for each item, and the range in v.
func storagesQuery(items []item, v url.Values) (*Query, error) {
	if len(items) == 0 {
		return nil, errors.New("id or items: want at least one storage such as alice/posts/1")
	}
	if err := notTooMany("items", len(items)); err != nil {
		return nil, err
	}
	q := &Query{}
	for _, it := range items {
		storage, err := event.ParseStorage(it.id)
		if err != nil {
			return nil, err
		}
		q.Topics = append(q.Topics, event.Exactly(storage))
		q.PeerHas = append(q.PeerHas, it.PeerHas)
	}
	if !slices.ContainsFunc(q.PeerHas, func(k PeerHas) bool { return !k.IsZero() }) {
		q.PeerHas = nil
	}
	return q.withRange(v)
}

// rawValues returns the escaped values of a parameter in a query that url.ParseQuery has
// accepted.
func rawValues(rawQuery, name string) (values []string) {
	for pair := range strings.SplitSeq(rawQuery, "&") {
		key, value, _ := strings.Cut(pair, "=")
		if key, err := url.QueryUnescape(key); err == nil && key == name {
			values = append(values, value)
		}
	}
	return values
}

// splitRaw splits an escaped value at its commas, but not at %2C, and unescapes the parts.
// A valid escape contains no comma.
func splitRaw(value string) (list []string) {
	for part := range strings.SplitSeq(value, ",") {
		s, _ := url.QueryUnescape(part)
		list = append(list, s)
	}
	return list
}

// parseItemList parses an item or a list of items. value is well-formed JSON.
func parseItemList(value json.RawMessage) (items []item, err error) {
	list := []json.RawMessage{value}
	if value[0] == '[' {
		list = nil
		if err := json.Unmarshal(value, &list); err != nil {
			return nil, err
		}
	}
	if len(list) > MaxTopics {
		return nil, fmt.Errorf("%d given, but at most %d are allowed", len(list), MaxTopics)
	}
	for _, raw := range list {
		it, err := parseItem(raw)
		if err != nil {
			return nil, err
		}
		items = append(items, it)
	}
	return items, nil
}

// parseItem parses "id" or {"id": "id", …}.
func parseItem(raw json.RawMessage) (it item, err error) {
	switch raw[0] {
	case '"':
		it.id, err = event.Member{Name: "id", Value: raw}.Text()
		if err == nil && looksLikeJSON(it.id) && event.CheckJSON([]byte(it.id)) == nil {
			err = fmt.Errorf("want a storage such as \"alice/posts/1\", not JSON in a string: %.80s", raw)
		}
		return it, err
	case '{':
	default:
		return it, fmt.Errorf(`want a storage such as "alice/posts/1" or {"id": …}, or a list of them, not %.40s`, raw)
	}
	ms, err := event.Members(raw)
	if err != nil {
		return it, err
	}
	named := false
	for _, m := range ms {
		ours, err := it.parseMember(m)
		switch {
		case err != nil:
		case m.Name == "id":
			named = true
			it.id, err = m.Text()
		case !ours:
			err = fmt.Errorf(`want {"id": …}, bloomFilter or have, and nothing else, not %.80s`, raw)
		}
		if err != nil {
			return it, err
		}
	}
	if !named {
		return it, fmt.Errorf(`want {"id": …}, not %.80s`, raw)
	}
	return it, it.checkOneForm()
}
