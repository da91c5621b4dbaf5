package wire

import (
	"fmt"
	"net/url"

	"github.com/rstream-dev/rstream/event"
)

// A SnapshotQuery is what GET /snapshot asks: the state of a topic at a moment.
type SnapshotQuery struct {
	Topic event.Topic
	At    event.Moment
	After string // a storage; what stands up to it is left out
}

// Values returns q as URL parameters.
func (q *SnapshotQuery) Values() url.Values {
	v := url.Values{"topic": {q.Topic.String()}, "at": {q.At.String()}}
	if q.After != "" {
		v.Set("after", q.After)
	}
	return v
}

// ParseSnapshot reads the parameters of GET /snapshot. Without at it is now.
func ParseSnapshot(rawQuery string) (*SnapshotQuery, error) {
	v, err := params(rawQuery, []string{"topic", "at", "after"})
	if err != nil {
		return nil, err
	}
	q := &SnapshotQuery{At: event.Now}
	if q.Topic, err = oneTopic(v); err != nil {
		return nil, err
	}
	if v.Has("at") {
		if q.At, err = event.ParseMoment(v.Get("at")); err != nil {
			return nil, fmt.Errorf("at: %w", err)
		}
	}
	if v.Has("after") {
		q.After = v.Get("after")
		if _, _, err := event.SplitStorage(q.After); err != nil {
			return nil, fmt.Errorf("after: %w", err)
		}
	}
	return q, nil
}
