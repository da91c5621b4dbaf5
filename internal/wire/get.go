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

// ParseGet reads the parameters of GET /get: id, or items, repeatable or separated
// by commas (a comma in a path is written %2C), what the reader has of them, and the
// range.
func ParseGet(rawQuery string) (*Query, error) {
	v, err := params(rawQuery, append([]string{"id", "items", "bloomFilter", "have"}, rangeParams...))
	if err != nil {
		return nil, err
	}
	ids := v["id"]
	if v.Has("items") {
		if len(ids) > 0 {
			return nil, errors.New("id and items: only one of them can be given")
		}
		ids = rawList(rawQuery, "items")
	}
	known, err := parseKnown(rawQuery, v)
	if err != nil {
		return nil, err
	}
	q, err := storages(ids, v)
	if err == nil && !known.IsZero() {
		q.Known = slices.Repeat([]Known{known}, len(q.Topics))
	}
	return q, err
}

// ParseHashes reads POST /get {"hashes": [HASH, …]}, with stubs, that asks for events
// wherever they are. ok is false if the body asks for something else.
func ParseHashes(rawQuery string, body []byte) (hashes []event.Hash, stubs, ok bool, err error) {
	ms, err := event.Members(body)
	if err != nil || len(ms) != 1 || ms[0].Name != "hashes" {
		return nil, false, false, nil // whoever reads it as something else says what is wrong
	}
	v, err := params(rawQuery, []string{"stubs"})
	if err != nil {
		return nil, false, true, err
	}
	q, err := (&Query{}).withRange(v)
	if err != nil {
		return nil, false, true, err
	}
	if hashes, err = parseHashes("hashes", ms[0].Value); err != nil {
		err = fmt.Errorf("body: %w", err)
	}
	return hashes, q.Stubs, true, err
}

// AppendHashes appends the body of POST /get that asks for hashes.
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

// ParsePostGet reads POST /get: {"items": "id"}, {"items": ["id", …]} or
// {"items": [{"id": "id", "bloomFilter": …, "have": …}, …]}, and the range from the
// URL.
func ParsePostGet(rawQuery string, body []byte) (*Query, error) {
	v, err := params(rawQuery, rangeParams)
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
	ids, known, err := parseItems(ms[0])
	if err != nil {
		return nil, fmt.Errorf("body: %w", err)
	}
	q, err := storages(ids, v)
	if err == nil && slices.ContainsFunc(known, func(k Known) bool { return !k.IsZero() }) {
		q.Known = known
	}
	return q, err
}

// storages asks for each "user/path" as a topic of one storage, within a range.
func storages(ids []string, v url.Values) (*Query, error) {
	if len(ids) == 0 {
		return nil, errors.New("id: is missing; want a storage such as alice/posts/1")
	}
	if err := notTooMany("items", len(ids)); err != nil {
		return nil, err
	}
	q := &Query{}
	for _, id := range ids {
		user, path, err := event.SplitStorage(id)
		if err != nil {
			return nil, err
		}
		q.Topics = append(q.Topics, event.Exactly(user, path))
	}
	return q.withRange(v)
}

// rawList returns the values of a parameter, split at commas that stand as they
// are and not as %2C. url.ParseQuery has accepted rawQuery.
func rawList(rawQuery, name string) (list []string) {
	for pair := range strings.SplitSeq(rawQuery, "&") {
		key, value, _ := strings.Cut(pair, "=")
		if key, err := url.QueryUnescape(key); err != nil || key != name {
			continue
		}
		for part := range strings.SplitSeq(value, ",") {
			// A comma cannot stand within an escape that has been accepted.
			s, _ := url.QueryUnescape(part)
			list = append(list, s)
		}
	}
	return list
}

func parseItems(items event.Member) (ids []string, known []Known, err error) {
	if items.Value[0] == '"' {
		id, err := items.Text()
		return []string{id}, []Known{{}}, err
	}
	var list []json.RawMessage
	if err := json.Unmarshal(items.Value, &list); err != nil || list == nil {
		return nil, nil, errors.New("items: want a storage or a list of storages")
	}
	if err := notTooMany("items", len(list)); err != nil {
		return nil, nil, err
	}
	for _, raw := range list {
		id, k, err := parseItem(raw)
		if err != nil {
			return nil, nil, fmt.Errorf("items: %w", err)
		}
		ids, known = append(ids, id), append(known, k)
	}
	return ids, known, nil
}

// parseItem reads "id" or {"id": "id", …}.
func parseItem(raw json.RawMessage) (id string, k Known, err error) {
	if raw[0] != '{' {
		id, err = event.Member{Name: "id", Value: raw}.Text()
		return id, k, err
	}
	ms, err := event.Members(raw)
	if err != nil {
		return "", k, err
	}
	named := false
	for _, m := range ms {
		ours, err := k.member(m)
		switch {
		case err != nil:
		case m.Name == "id":
			named = true
			id, err = m.Text()
		case !ours:
			err = fmt.Errorf(`want {"id": …}, bloomFilter or have, and nothing else, not %.80s`, raw)
		}
		if err != nil {
			return "", k, err
		}
	}
	if !named {
		return "", k, fmt.Errorf(`want {"id": …}, not %.80s`, raw)
	}
	return id, k, k.check()
}
