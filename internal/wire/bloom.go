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

// ParseNegotiation reads the parameters of a POST /bloom of frames: the topic, or a
// storage as id. The stretch stands in the frames.
func ParseNegotiation(rawQuery string) (event.Topic, error) {
	v, err := params(rawQuery, []string{"topic", "id"})
	if err != nil {
		return event.Topic{}, err
	}
	item, err := bloomItem(v)
	return item.Of, err
}

// A BloomQuery is what /bloom asks in JSON: who lacks what of some sets in a stretch.
type BloomQuery struct {
	Since event.Moment  // the zero Moment is the beginning
	Until *event.Moment // nil is the head
	Items []BloomItem
}

// A BloomItem is one set that is asked about, and what the asking side has of it.
type BloomItem struct {
	ID    string // the storage as it was named, or
	Topic string // the topic
	Of    event.Topic
	Known
	Count *uint64 // how many events the asking side has, if it says so
	Back  bool    // the answer shall have a filter, whoever has more
}

// A BloomAnswer says what the asking side lacks of one set.
type BloomAnswer struct {
	ID      string        `json:"id,omitempty"`
	Topic   string        `json:"topic,omitempty"`
	Count   uint64        `json:"count"`
	Digest  window.Digest `json:"digest"`            // SHA-256 over the hashes in ascending order
	Missing []event.Hash  `json:"missing,omitzero"`  // what the asking side certainly lacks; nil if it said nothing
	More    bool          `json:"more,omitempty"`    // there is more missing than fits
	Unknown []event.Hash  `json:"unknown,omitempty"` // what only the asking side has
	Filter  string        `json:"bloomFilter,omitempty"`
}

// BloomAnswers answers a POST of items.
type BloomAnswers struct {
	Items []BloomAnswer `json:"items"`
}

var stretchParams = []string{"since", "until"}

// ParseBloom reads the parameters of GET /bloom.
func ParseBloom(rawQuery string) (*BloomQuery, error) {
	v, err := params(rawQuery, append([]string{"topic", "id", "bloomFilter", "have", "count", "back"}, stretchParams...))
	if err != nil {
		return nil, err
	}
	item, err := bloomItem(v)
	if err != nil {
		return nil, err
	}
	if item.Known, err = parseKnown(rawQuery, v); err != nil {
		return nil, err
	}
	if v.Has("count") {
		n, err := strconv.ParseUint(v.Get("count"), 10, 64)
		if err != nil {
			return nil, fmt.Errorf("count: %.20q is not a number", v.Get("count"))
		}
		item.Count = &n
	}
	if v.Has("back") {
		if item.Back = v.Get("back") == "1"; !item.Back && v.Get("back") != "0" {
			return nil, fmt.Errorf("back: %.20q is neither 0 nor 1", v.Get("back"))
		}
	}
	q := &BloomQuery{Items: []BloomItem{item}}
	return q, q.stretch(v)
}

// ParsePostBloom reads POST /bloom {"items": [{"id": …, …}, …]}, and the stretch from
// the URL.
func ParsePostBloom(rawQuery string, body []byte) (*BloomQuery, error) {
	v, err := params(rawQuery, stretchParams)
	if err != nil {
		return nil, err
	}
	q := &BloomQuery{}
	if err := q.stretch(v); err != nil {
		return nil, err
	}
	ms, err := event.Members(body)
	if err != nil {
		return nil, fmt.Errorf("body: %w", err)
	}
	var list []json.RawMessage
	if len(ms) != 1 || ms[0].Name != "items" || json.Unmarshal(ms[0].Value, &list) != nil || len(list) == 0 {
		return nil, errors.New(`body: want {"items": [{"id": …}, …]} and nothing else`)
	}
	if err := notTooMany("items", len(list)); err != nil {
		return nil, err
	}
	for _, raw := range list {
		item, err := parseBloomItem(raw)
		if err != nil {
			return nil, fmt.Errorf("items: %w", err)
		}
		q.Items = append(q.Items, item)
	}
	return q, nil
}

func parseBloomItem(raw json.RawMessage) (item BloomItem, err error) {
	ms, err := event.Members(raw)
	if err != nil {
		return item, err
	}
	names := url.Values{}
	for _, m := range ms {
		switch ours, err := item.Known.member(m); {
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
			item.Count = new(uint64)
			err = json.Unmarshal(m.Value, item.Count)
		case "back":
			err = json.Unmarshal(m.Value, &item.Back)
		default:
			err = fmt.Errorf("unknown member %.40q; known are id, topic, bloomFilter, have, count, back", m.Name)
		}
		if err != nil {
			return item, err
		}
	}
	if err := item.Known.check(); err != nil {
		return item, err
	}
	named, err := bloomItem(names)
	item.ID, item.Topic, item.Of = named.ID, named.Topic, named.Of
	return item, err
}

// bloomItem reads what a comparison is about: a topic, or one storage as id.
func bloomItem(v url.Values) (item BloomItem, err error) {
	switch {
	case v.Has("id") && v.Has("topic"):
		err = errors.New("id and topic: only one of them can be given")
	case v.Has("id"):
		item.ID = v.Get("id")
		user, path, err := event.SplitStorage(item.ID)
		if err != nil {
			return item, err
		}
		item.Of = event.Exactly(user, path)
	case !v.Has("topic"):
		err = errors.New("topic or id: one of them is needed")
	default:
		item.Topic = v.Get("topic")
		item.Of, err = oneTopic(v)
	}
	return item, err
}

func (q *BloomQuery) stretch(v url.Values) error {
	r, err := (&Query{}).withRange(v)
	if err == nil {
		q.Since, q.Until = r.Since, r.Until
	}
	return err
}
