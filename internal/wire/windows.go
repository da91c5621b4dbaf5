package wire

import (
	"errors"
	"fmt"
	"net/url"

	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/window"
)

// A Window is what GET /windows tells of a stretch of a topic's history.
type Window struct {
	From   event.Cursor  `json:"from"`
	To     event.Cursor  `json:"to"`
	Start  *event.Time   `json:"start,omitempty"` // of the last event at or before From; left out from the beginning and in a sum
	End    *event.Time   `json:"end,omitempty"`   // of the last event at or before To
	Count  uint64        `json:"count"`           // events of the topic in it
	Digest window.Digest `json:"digest"`
}

// Span returns the stretch of w.
func (w *Window) Span() window.Span { return window.Span{From: w.From.ID, To: w.To.ID} }

// A WindowList is the windows of a stretch, block by block. Blocks without an event
// of the topic are left out.
type WindowList struct {
	From    event.Cursor `json:"from"`
	To      event.Cursor `json:"to"`
	Windows []Window     `json:"windows"`
	Next    event.Cursor `json:"next"` // go on from here; To when the list is complete
}

// A WindowQuery is what GET /windows asks: the window around a moment, the windows
// of a stretch, or the stretch as one.
type WindowQuery struct {
	Topic event.Topic
	At    *event.Moment // excludes the others
	Since event.Moment
	Until *event.Moment // nil is the head
	Sum   bool
}

// Values returns q as URL parameters.
func (q *WindowQuery) Values() url.Values {
	v := url.Values{"topic": {q.Topic.String()}}
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

// ParseWindows reads the parameters of GET /windows.
func ParseWindows(rawQuery string) (*WindowQuery, error) {
	v, err := params(rawQuery, []string{"topic", "at", "since", "until", "sum"})
	if err != nil {
		return nil, err
	}
	q := &WindowQuery{}
	if q.Topic, err = oneTopic(v); err != nil {
		return nil, err
	}
	if v.Has("sum") {
		if q.Sum = v.Get("sum") == "1"; !q.Sum && v.Get("sum") != "0" {
			return nil, fmt.Errorf("sum: %.20q is neither 0 nor 1", v.Get("sum"))
		}
	}
	if v.Has("at") {
		if v.Has("since") || v.Has("until") || v.Has("sum") {
			return nil, errors.New("at: names one window; since, until and sum do not go with it")
		}
		m, err := event.ParseMoment(v.Get("at"))
		if err != nil {
			return nil, fmt.Errorf("at: %w", err)
		}
		q.At = &m
		return q, nil
	}
	if !v.Has("since") {
		return nil, errors.New("at or since: one of them is needed; since=beginning is all")
	}
	r, err := (&Query{}).withRange(v)
	if err != nil {
		return nil, err
	}
	q.Since, q.Until = r.Since, r.Until
	return q, nil
}

// oneTopic reads the topic of a request that is about one.
func oneTopic(v url.Values) (event.Topic, error) {
	if n := len(v["topic"]); n != 1 {
		return event.Topic{}, fmt.Errorf("topic: stands %d times; want one", n)
	}
	return event.ParseTopic(v.Get("topic"))
}
