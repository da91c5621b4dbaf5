package wire

import (
	"fmt"
	"net/url"
	"strconv"

	"github.com/rstream-dev/rstream/event"
)

// A UsageQuery holds the parameters of GET /storages: a part of the usages of a topic.
type UsageQuery struct {
	Topic   event.Topic
	After   event.Storage // leaves out storages up to this one; if zero, none
	Limit   int           // the most storages that the part is about
	Folders bool          // storages below a folder as one usage
}

// Values returns q as URL parameters.
func (q *UsageQuery) Values() url.Values {
	v := url.Values{"topic": {q.Topic.String()}, "limit": {strconv.Itoa(q.Limit)}}
	if q.After != (event.Storage{}) {
		v.Set("after", q.After.String())
	}
	if q.Folders {
		v.Set("folders", "1")
	}
	return v
}

// ParseUsage parses the parameters of GET /storages. Without limit, it is DefaultLimit.
func ParseUsage(rawQuery string) (*UsageQuery, error) {
	v, err := parseParams(rawQuery, []string{"topic", "after", "limit", "folders"})
	if err != nil {
		return nil, err
	}
	q := &UsageQuery{Limit: DefaultLimit}
	if q.Topic, err = parseTopic(v); err != nil {
		return nil, err
	}
	if v.Has("after") {
		if q.After, err = event.ParseStorage(v.Get("after")); err != nil {
			return nil, fmt.Errorf("after: %w", err)
		}
	}
	limit, err := parseLimit(v, "limit")
	switch {
	case err != nil:
		return nil, err
	case limit != nil && *limit == 0:
		return nil, fmt.Errorf("limit: want a number from 1 to %d, not 0", MaxLimit)
	case limit != nil:
		q.Limit = *limit
	}
	if q.Folders, err = parseFlag(v, "folders", false); err != nil {
		return nil, err
	}
	return q, nil
}

// A UsagePage is the response to GET /storages.
type UsagePage struct {
	Storages []event.Usage `json:"storages"`
	Next     string        `json:"next,omitempty"`    // the storage after which the next page begins; missing at the end
	Damaged  bool          `json:"damaged,omitempty"` // as in event.UsageList
}
