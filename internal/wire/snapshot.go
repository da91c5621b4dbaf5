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
	Until *event.Moment // where a stream ends; if nil, never
}

// Values returns q as URL parameters.
func (q *SnapshotQuery) Values() url.Values {
	v := url.Values{"topic": {q.Topic.String()}, "at": {q.At.String()}}
	if q.After != (event.Storage{}) {
		v.Set("after", q.After.String())
	}
	if q.Until != nil {
		v.Set("until", q.Until.String())
	}
	return v
}

// ParseSnapshot parses the parameters of GET /snapshot. Without at, it is event.Now.
func ParseSnapshot(rawQuery string) (*SnapshotQuery, error) {
	v, err := parseParams(rawQuery, []string{"topic", "at", "after", "until"})
	if err != nil {
		return nil, err
	}
	q := &SnapshotQuery{At: event.Now}
	if q.Topic, err = parseTopic(v); err != nil {
		return nil, err
	}
	if err := q.parseMoments(v); err != nil {
		return nil, err
	}
	return q, nil
}

// ParseRoom parses the parameters of GET /api/room/TOPIC.
func ParseRoom(topic event.Topic, rawQuery string) (*SnapshotQuery, error) {
	v, err := parseParams(rawQuery, []string{"at", "until"})
	if err != nil {
		return nil, err
	}
	q := &SnapshotQuery{Topic: topic, At: event.Now}
	if err := q.parseMoments(v); err != nil {
		return nil, err
	}
	return q, nil
}

func (q *SnapshotQuery) parseMoments(v url.Values) (err error) {
	if v.Has("at") {
		if q.At, err = event.ParseMoment(v.Get("at")); err != nil {
			return fmt.Errorf("at: %w", err)
		}
	}
	if v.Has("after") {
		if q.After, err = event.ParseStorage(v.Get("after")); err != nil {
			return fmt.Errorf("after: %w", err)
		}
	}
	if v.Has("until") {
		until, err := event.ParseMoment(v.Get("until"))
		if err != nil {
			return fmt.Errorf("until: %w", err)
		}
		q.Until = &until
	}
	return nil
}
