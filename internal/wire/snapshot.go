package wire

import (
	"fmt"
	"net/url"

	"github.com/rstream-dev/rstream/event"
)

// A SnapshotQuery holds the parameters of GET /snapshot: the state of Topic at a moment.
type SnapshotQuery struct {
	Topic event.Topic
	At    event.Moment
	After event.Storage // leaves out storages up to this one; if zero, none
}

// Values returns q as URL parameters.
func (q *SnapshotQuery) Values() url.Values {
	v := url.Values{"topic": {q.Topic.String()}, "at": {q.At.String()}}
	if q.After != (event.Storage{}) {
		v.Set("after", q.After.String())
	}
	return v
}

// ParseSnapshot parses the parameters of GET /snapshot. Without at, it is event.Now.
func ParseSnapshot(rawQuery string) (*SnapshotQuery, error) {
	v, err := parseParams(rawQuery, []string{"topic", "at", "after"})
	if err != nil {
		return nil, err
	}
	q := &SnapshotQuery{At: event.Now}
	if q.Topic, err = parseTopic(v); err != nil {
		return nil, err
	}
	if v.Has("at") {
		if q.At, err = event.ParseMoment(v.Get("at")); err != nil {
			return nil, fmt.Errorf("at: %w", err)
		}
	}
	if v.Has("after") {
		if q.After, err = event.ParseStorage(v.Get("after")); err != nil {
			return nil, fmt.Errorf("after: %w", err)
		}
	}
	return q, nil
}
