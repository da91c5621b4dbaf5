package wire

import (
	"errors"
	"fmt"
	"net/url"

	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/window"
)

// A Window describes a range of a topic's history, as GET /windows returns it.
type Window struct {
	From   event.Cursor  `json:"from"`
	To     event.Cursor  `json:"to"`
	Start  *event.Time   `json:"start,omitempty"` // of the last event at or before From; absent if From is the beginning, and in a sum
	End    *event.Time   `json:"end,omitempty"`   // of the last event at or before To
	Count  uint64        `json:"count"`           // events of the topic in the range
	Digest window.Digest `json:"digest"`
}

// Span returns the range of w.
func (w *Window) Span() window.Span { return window.Span{From: w.From.ID, To: w.To.ID} }

// A WindowList holds the windows of a range, one for each block. Blocks without an event
// of the topic are left out.
type WindowList struct {
	From    event.Cursor `json:"from"`
	To      event.Cursor `json:"to"`
	Windows []Window     `json:"windows"`
	Next    event.Cursor `json:"next"` // where the next list begins; To if this one is the last
}

// A WindowQuery holds the parameters of GET /windows: a request for the window around a
// moment, for the windows of a range, or for the range as a single window.
type WindowQuery struct {
	Topic event.Topic
	More  []event.Topic // of a sum: further topics, whose events belong to it, too
	At    *event.Moment // excludes Since, Until and Sum
	Since event.Moment
	Until *event.Moment // nil is the head
	Sum   bool          // the range as a single window
}

// Topics returns all topics of q.
func (q *WindowQuery) Topics() []event.Topic { return append([]event.Topic{q.Topic}, q.More...) }

// Values returns q as URL parameters.
func (q *WindowQuery) Values() url.Values {
	v := url.Values{}
	for _, t := range q.Topics() {
		v.Add("topic", t.String())
	}
	if q.At != nil {
		v.Set("at", q.At.String())
		return v
	}
	v.Set("since", q.Since.String())
	if q.Until != nil {
		v.Set("until", q.Until.String())
	}
	if q.Sum {
		v.Set("sum", "1")
	}
	return v
}

// ParseWindows parses the parameters of GET /windows.
func ParseWindows(rawQuery string) (*WindowQuery, error) {
	v, err := parseParams(rawQuery, []string{"topic", "at", "since", "until", "sum"})
	if err != nil {
		return nil, err
	}
	q := &WindowQuery{}
	if v.Has("sum") {
		if q.Sum = v.Get("sum") == "1"; !q.Sum && v.Get("sum") != "0" {
			return nil, fmt.Errorf("sum: want 0 or 1, not %.20q", v.Get("sum"))
		}
	}
	if err := q.parseTopics(v); err != nil {
		return nil, err
	}
	if v.Has("at") {
		if v.Has("since") || v.Has("until") || v.Has("sum") {
			return nil, errors.New("at cannot be combined with since, until or sum")
		}
		m, err := event.ParseMoment(v.Get("at"))
		if err != nil {
			return nil, fmt.Errorf("at: %w", err)
		}
		q.At = &m
		return q, nil
	}
	if !v.Has("since") {
		return nil, errors.New("at or since is required; since=beginning selects all windows")
	}
	r, err := (&Query{}).withRange(v)
	if err != nil {
		return nil, err
	}
	q.Since, q.Until = r.Since, r.Until
	return q, nil
}

// parseTopics parses the topic of q, or the topics of a sum.
func (q *WindowQuery) parseTopics(v url.Values) (err error) {
	if !q.Sum || len(v["topic"]) < 2 {
		q.Topic, err = parseTopic(v)
		return err
	}
	topics, err := parseTopics(v["topic"])
	if err != nil {
		return err
	}
	q.Topic, q.More = topics[0], topics[1:]
	return nil
}

// parseTopic parses the topic of a request that has exactly one.
func parseTopic(v url.Values) (event.Topic, error) {
	if n := len(v["topic"]); n != 1 {
		return event.Topic{}, fmt.Errorf("want exactly one topic, not %d", n)
	}
	return event.ParseTopic(v.Get("topic"))
}
