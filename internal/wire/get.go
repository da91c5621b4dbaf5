package wire

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"strings"

	"github.com/rstream-dev/rstream/event"
)

// ParseGet reads the parameters of GET /get: id, or items, repeatable or separated
// by commas (a comma in a path is written %2C), and the range.
func ParseGet(rawQuery string) (*Query, error) {
	v, err := params(rawQuery, append([]string{"id", "items"}, rangeParams...))
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
	return storages(ids, v)
}

// ParsePostGet reads POST /get: {"items": "id"}, {"items": ["id", …]} or
// {"items": [{"id": "id"}, …]}, and the range from the URL.
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
		return nil, errors.New(`body: want {"items": …} and nothing else`)
	}
	ids, err := parseItems(ms[0])
	if err != nil {
		return nil, fmt.Errorf("body: %w", err)
	}
	return storages(ids, v)
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

func parseItems(items event.Member) ([]string, error) {
	if items.Value[0] == '"' {
		id, err := items.Text()
		return []string{id}, err
	}
	var list []json.RawMessage
	if err := json.Unmarshal(items.Value, &list); err != nil || list == nil {
		return nil, errors.New("items: want a storage or a list of storages")
	}
	if err := notTooMany("items", len(list)); err != nil {
		return nil, err
	}
	var ids []string
	for _, raw := range list {
		id, err := parseItem(raw)
		if err != nil {
			return nil, fmt.Errorf("items: %w", err)
		}
		ids = append(ids, id)
	}
	return ids, nil
}

// parseItem reads "id" or {"id": "id"}.
func parseItem(raw json.RawMessage) (string, error) {
	item := event.Member{Name: "id", Value: raw}
	if raw[0] == '{' {
		ms, err := event.Members(raw)
		if err != nil {
			return "", err
		}
		if len(ms) != 1 || ms[0].Name != "id" {
			return "", fmt.Errorf(`want {"id": …} and nothing else, not %.80s`, raw)
		}
		item = ms[0]
	}
	return item.Text()
}
