package client

import (
	"context"
	"fmt"

	"github.com/rstream-dev/rstream/event"
)

// A Source is an event stream of another server that a relay appends to its log.
type Source struct {
	Name      string      `json:"name"`
	Kind      string      `json:"kind"`
	URL       string      `json:"url"` // without secrets
	Connected bool        `json:"connected"`
	Since     *event.Time `json:"since"`            // of the connection or, if there is none, of its end; nil before the first
	Cursor    string      `json:"cursor"`           // from where the next connection goes on
	Stored    *event.Time `json:"stored"`           // when something was last stored; nil for never
	Behind    *int64      `json:"behind,omitempty"` // ids of an rstream server that are still to be read; nil for other servers
	Events    int64       `json:"events"`           // taken since the source was first followed
	Bytes     int64       `json:"bytes"`            // of their data
	Gaps      int64       `json:"gaps"`
	Refused   int64       `json:"refused"`           // events that could not be mapped
	Trouble   string      `json:"trouble,omitempty"` // why there is no connection
}

// Sources asks the server how its sources are. A server that is no relay has none. If the
// server asks for tokens, it needs the right to read .sources.
func (c *Client) Sources(ctx context.Context) (sources []Source, err error) {
	err = c.retryEach(ctx, c.newBackoff(), func(ctx context.Context) error {
		var answer struct {
			Sources []Source `json:"sources"`
		}
		err := c.askObject(ctx, "/sources", &answer)
		sources = answer.Sources
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("read the sources: %w", err)
	}
	return sources, nil
}

// An Origin says where an event of a relay came from: a source and, if it is not an event that
// the relay has made because of the source, what that calls it. Without a source, the event was
// appended to the log itself.
type Origin struct {
	ID     event.ID `json:"id"`
	Source string   `json:"source,omitempty"`
	Log    string   `json:"log,omitempty"` // of the source, if it is an rstream server
	Event  string   `json:"event,omitempty"`
}

// Origin asks the server where an event came from. ok is false if the server does not have the
// event, or does not show it.
func (c *Client) Origin(ctx context.Context, id event.ID) (origin Origin, ok bool, err error) {
	var answer struct {
		Origins []Origin `json:"origins"`
	}
	err = c.retryEach(ctx, c.newBackoff(), func(ctx context.Context) error {
		answer.Origins = nil
		return c.askObject(ctx, "/origin?id="+id.String(), &answer)
	})
	if err != nil {
		return origin, false, fmt.Errorf("read the origin of %s: %w", id, err)
	}
	for _, o := range answer.Origins {
		if o.ID == id {
			return o, true, nil
		}
	}
	return origin, false, nil
}
