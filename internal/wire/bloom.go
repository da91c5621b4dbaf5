package wire

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"strconv"

	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/window"
)

// ParseNegotiation parses the parameters of a POST /bloom of frames: the topic, or a
// storage as id. The range is in the frames.
func ParseNegotiation(rawQuery string) (event.Topic, error) {
	v, err := parseParams(rawQuery, []string{"topic", "id"})
	if err != nil {
		return event.Topic{}, err
	}
	if !v.Has("id") && !v.Has("topic") {
		return event.Topic{}, errors.New("topic or id is required")
	}
	item, err := bloomItem(v)
	return item.Of, err
}

// A BloomQuery is a request to /bloom in JSON, which compares sets in a range.
type BloomQuery struct {
	Since event.Moment  // the zero Moment is the beginning
	Until *event.Moment // nil is the head
	Items []BloomItem
	One   bool // items is an object and not a list, here and in the response
}

// A BloomItem is one set to compare, and what the requester has of it.
type BloomItem struct {
	ID    string // the storage as given, or
	Topic string // the topic as given
	Of    event.Topic
	PeerHas
	Count      *uint64 // number of events that the requester has, if given
	WantFilter bool    // send a filter in any case, whichever side has more events
}

// A BloomAnswer is the difference between the two sides of one set.
type BloomAnswer struct {
	ID      string        `json:"id,omitempty"`
	Topic   string        `json:"topic,omitempty"`
	Count   uint64        `json:"count"`
	Digest  window.Digest `json:"digest"`            // SHA-256 over the hashes in ascending order
	Missing []event.Hash  `json:"missing,omitzero"`  // events that the requester certainly lacks; nil if its PeerHas is zero
	More    bool          `json:"more,omitempty"`    // more events are missing than listed
	Unknown []event.Hash  `json:"unknown,omitempty"` // events that only the requester has
	Filter  string        `json:"bloomFilter,omitempty"`
}

// BloomAnswers is the response to a POST of a list of items.
type BloomAnswers struct {
	Items []BloomAnswer `json:"items"`
}

// A BloomSingle is the response to a POST of one item without a list.
type BloomSingle struct {
	Item BloomAnswer `json:"items"`
}

var boundParams = []string{"since", "until"}

// ParseBloom parses the parameters of GET /bloom.
func ParseBloom(rawQuery string) (*BloomQuery, error) {
	v, err := parseParams(rawQuery, append([]string{"topic", "id", "bloomFilter", "have", "count", "back"}, boundParams...))
	if err != nil {
		return nil, err
	}
	item, err := bloomItem(v)
	if err != nil {
		return nil, err
	}
	if item.PeerHas, err = parsePeerHas(rawQuery, v); err != nil {
		return nil, err
	}
	if v.Has("count") {
		if item.Count, err = parseCount(v.Get("count")); err != nil {
			return nil, err
		}
	}
	if item.WantFilter, err = parseFlag(v, "back", false); err != nil {
		return nil, err
	}
	q := &BloomQuery{Items: []BloomItem{item}}
	return q, q.parseRange(v)
}

// parseCount parses the number of events that the requester has.
func parseCount(s string) (*uint64, error) {
	n, err := strconv.ParseUint(s, 10, 64)
	if err != nil {
		return nil, fmt.Errorf("count: want an integer from 0 to 2^64-1, not %.20s", s)
	}
	return &n, nil
}

// ParsePostBloom parses POST /bloom. The body is {"items": ITEM} or {"items": [ITEM, …]},
// and an item is {"id": …, …}. The range is in the URL.
func ParsePostBloom(rawQuery string, body []byte) (*BloomQuery, error) {
	v, err := parseParams(rawQuery, boundParams)
	if err != nil {
		return nil, err
	}
	q := &BloomQuery{}
	if err := q.parseRange(v); err != nil {
		return nil, err
	}
	ms, err := event.Members(body)
	if err != nil {
		return nil, fmt.Errorf("body: %w", err)
	}
	if len(ms) != 1 || ms[0].Name != "items" {
		return nil, errors.New(`body: want {"items": [{"id": …}, …]} and nothing else`)
	}
	return q, q.parseItems(ms[0].Value)
}

// parseItems parses one item or a list of items.
func (q *BloomQuery) parseItems(value json.RawMessage) error {
	list := []json.RawMessage{value}
	if q.One = value[0] == '{'; !q.One {
		if list = nil; json.Unmarshal(value, &list) != nil || len(list) == 0 {
			return errors.New(`items: want {"id": …} or a list of at least one`)
		}
	}
	if err := notTooMany("items", len(list)); err != nil {
		return err
	}
	for _, raw := range list {
		item, err := parseBloomItem(raw)
		if err != nil {
			return fmt.Errorf("items: %w", err)
		}
		q.Items = append(q.Items, item)
	}
	return nil
}

func parseBloomItem(raw json.RawMessage) (item BloomItem, err error) {
	if raw[0] != '{' {
		return item, fmt.Errorf(`want {"id": …} or {"topic": …}, not %.40s`, raw)
	}
	ms, err := event.Members(raw)
	if err != nil {
		return item, err
	}
	names := url.Values{}
	for _, m := range ms {
		switch ours, err := item.PeerHas.parseMember(m); {
		case err != nil:
			return item, err
		case ours:
			continue
		}
		switch m.Name {
		case "id", "topic":
			var s string
			s, err = m.Text()
			names.Set(m.Name, s)
		case "count":
			item.Count, err = parseCount(string(m.Value))
		case "back":
			if item.WantFilter = string(m.Value) == "true"; !item.WantFilter && string(m.Value) != "false" {
				err = fmt.Errorf("back: want true or false, not %.20s", m.Value)
			}
		default:
			err = fmt.Errorf("unknown member %.40q; want id, topic, bloomFilter, have, count or back", m.Name)
		}
		if err != nil {
			return item, err
		}
	}
	if err := item.PeerHas.checkOneForm(); err != nil {
		return item, err
	}
	named, err := bloomItem(names)
	item.ID, item.Topic, item.Of = named.ID, named.Topic, named.Of
	return item, err
}

// bloomItem parses the set to compare: a topic, one storage as id, or the whole log if
// neither is given.
func bloomItem(v url.Values) (item BloomItem, err error) {
	switch {
	case v.Has("id") && v.Has("topic"):
		err = errors.New("id and topic cannot be combined")
	case v.Has("id"):
		item.ID = v.Get("id")
		storage, err := event.ParseStorage(item.ID)
		if err != nil {
			return item, err
		}
		item.Of = event.Exactly(storage)
	case !v.Has("topic"):
		item.Topic, item.Of = event.All.String(), event.All
	default:
		item.Topic = v.Get("topic")
		item.Of, err = parseTopic(v)
	}
	return item, err
}

func (q *BloomQuery) parseRange(v url.Values) error {
	r, err := (&Query{}).withRange(v)
	if err == nil {
		q.Since, q.Until = r.Since, r.Until
	}
	return err
}
