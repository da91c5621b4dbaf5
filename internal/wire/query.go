package wire

import (
	"cmp"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/rstream-dev/rstream/event"
)

// A Query holds the parameters of GET /events and /get: topics and a range.
type Query struct {
	Topics []event.Topic
	Except []event.Topic // leave out events of these topics, which the reader holds
	Since  event.Moment  // the zero Moment is the beginning
	Until  *event.Moment // nil is the head, or no end for a stream
	Limit  *int          // events of a page; nil is the default, 0 only resolves Since
	Last   *int          // start so that this many events follow; excludes Since
	Stubs  bool          // send known events (all, if PeerHas is nil) as stubs

	Notices bool // send all events as notices

	// PeerHas describes the events that the reader has of each of Topics; nil if the
	// request does not say.
	PeerHas []PeerHas
}

// Values returns q as URL parameters.
func (q *Query) Values() url.Values {
	v := url.Values{}
	for _, t := range q.Topics {
		v.Add("topic", t.String())
	}
	for _, t := range q.Except {
		v.Add("except", t.String())
	}
	if cmp.Or(q.Since, event.FromBeginning) != event.FromBeginning {
		v.Set("since", q.Since.String())
	}
	if q.Until != nil {
		v.Set("until", q.Until.String())
	}
	if q.Limit != nil {
		v.Set("limit", strconv.Itoa(*q.Limit))
	}
	if q.Last != nil {
		v.Set("last", strconv.Itoa(*q.Last))
	}
	if q.Stubs {
		v.Set("stubs", "1")
	}
	if q.Notices {
		v.Set("values", "0")
	}
	return v
}

// formParams are the parameters that select how much of each event is sent. rangeParams
// also include those of the range.
var (
	formParams  = []string{"stubs", "values"}
	rangeParams = append([]string{"since", "until", "limit", "last"}, formParams...)
)

// ParseEvents parses the parameters of GET /events.
func ParseEvents(rawQuery string) (*Query, error) {
	v, err := parseParams(rawQuery, append([]string{"topic", "except"}, rangeParams...))
	if err != nil {
		return nil, err
	}
	if len(v["topic"]) == 0 {
		return nil, errors.New("topic is missing; topic=* selects everything")
	}
	q := &Query{}
	if q.Topics, err = parseTopics(v["topic"]); err != nil {
		return nil, err
	}
	if q.Except, err = parseTopics(v["except"]); err != nil {
		return nil, err
	}
	return q.withRange(v)
}

func parseTopics(names []string) (ts []event.Topic, err error) {
	for _, name := range names {
		t, err := event.ParseTopic(name)
		if err != nil {
			return nil, err
		}
		ts = append(ts, t)
	}
	return ts, nil
}

// parseParams parses a query. It refuses unknown parameters, and repeated ones that are not
// lists.
func parseParams(rawQuery string, known []string) (url.Values, error) {
	v, err := url.ParseQuery(rawQuery)
	if err != nil {
		return nil, fmt.Errorf("query: %w", err)
	}
	for _, name := range known { // such a name would be part of the value before it
		if strings.Contains(rawQuery, "?"+name+"=") {
			return nil, fmt.Errorf("?%s= follows another parameter; want &%[1]s=, or %%3F for a question mark in a value", name)
		}
	}
	for name, values := range v {
		if !slices.Contains(known, name) {
			return nil, fmt.Errorf("unknown parameter %.40q; want one of %s", name, strings.Join(known, ", "))
		}
		if many := name == "topic" || name == "except" || name == "items" || name == "have"; len(values) > 1 && !many {
			return nil, fmt.Errorf("parameter %s is given %d times", name, len(values))
		}
		if err := notTooMany(name, len(values)); err != nil {
			return nil, err
		}
	}
	return v, nil
}

func notTooMany(name string, n int) error {
	if n > MaxTopics {
		return fmt.Errorf("%s: %d given, but at most %d are allowed", name, n, MaxTopics)
	}
	return nil
}

// withRange adds the range in v to q.
func (q *Query) withRange(v url.Values) (_ *Query, err error) {
	if v.Has("since") && v.Has("last") {
		return nil, errors.New("since and last cannot be combined")
	}
	switch {
	case v.Has("since"):
		if q.Since, err = event.ParseMoment(v.Get("since")); err != nil {
			return nil, fmt.Errorf("since: %w", err)
		}
	case !v.Has("last"):
		q.Since = event.FromBeginning
	}
	if v.Has("until") {
		m, err := event.ParseMoment(v.Get("until"))
		if err != nil {
			return nil, fmt.Errorf("until: %w", err)
		}
		q.Until = &m
	}
	if q.Limit, err = parseLimit(v, "limit"); err != nil {
		return nil, err
	}
	if q.Last, err = parseLimit(v, "last"); err != nil {
		return nil, err
	}
	if err := q.withForm(v); err != nil {
		return nil, err
	}
	return q, nil
}

// withForm adds formParams in v to q.
func (q *Query) withForm(v url.Values) (err error) {
	if q.Stubs, err = parseFlag(v, "stubs", false); err != nil {
		return err
	}
	values, err := parseFlag(v, "values", true)
	q.Notices = !values
	if err == nil && q.Stubs && q.Notices {
		err = errors.New("stubs=1 and values=0 cannot be combined: a stub has no value")
	}
	return err
}

// parseFlag parses a parameter that is 0 or 1.
func parseFlag(v url.Values, name string, otherwise bool) (bool, error) {
	if !v.Has(name) {
		return otherwise, nil
	}
	on := v.Get(name) == "1"
	if !on && v.Get(name) != "0" {
		return false, fmt.Errorf("%s: want 0 or 1, not %.20q", name, v.Get(name))
	}
	return on, nil
}

// parseLimit parses a number of events. It returns nil if the parameter is missing.
func parseLimit(v url.Values, name string) (*int, error) {
	if !v.Has(name) {
		return nil, nil
	}
	n, err := strconv.ParseUint(v.Get(name), 10, 31)
	if err != nil || n > MaxLimit {
		return nil, fmt.Errorf("%s: want a number from 0 to %d, not %.20q", name, MaxLimit, v.Get(name))
	}
	limit := int(n)
	return &limit, nil
}
