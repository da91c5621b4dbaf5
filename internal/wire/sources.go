package wire

import (
	"errors"
	"fmt"
	"net/url"

	"github.com/rstream-dev/rstream/event"
)

// A Source is how a source of a relay is, as GET /sources returns it.
type Source struct {
	Name      string      `json:"name"`
	Kind      string      `json:"kind"`
	URL       string      `json:"url"` // without user, password and parameters
	Connected bool        `json:"connected"`
	Since     *event.Time `json:"since"`            // of the connection or, if there is none, of its end; null before the first
	Cursor    string      `json:"cursor"`           // from where the next connection goes on
	Stored    *event.Time `json:"stored"`           // when something was last stored; null for never
	Behind    *int64      `json:"behind,omitempty"` // ids of an rstream server that are still to be read
	Events    int64       `json:"events"`           // taken since the source was first followed
	Bytes     int64       `json:"bytes"`            // of their data
	Gaps      int64       `json:"gaps"`
	Refused   int64       `json:"refused"` // events that could not be mapped
	Trouble   string      `json:"trouble,omitempty"`
}

// An Origin is where an event of a log came from, as GET /origin returns it.
type Origin struct {
	ID     event.ID `json:"id"`
	Source string   `json:"source,omitempty"`
	Log    string   `json:"log,omitempty"`
	Event  string   `json:"event,omitempty"` // what the source calls the event
}

// MaxOrigins is how many events one request may ask the origins of.
const MaxOrigins = 100

// ParseOrigin parses the parameters of GET /origin.
func ParseOrigin(rawQuery string) (ids []event.ID, err error) {
	v, err := url.ParseQuery(rawQuery)
	if err != nil {
		return nil, fmt.Errorf("query: %w", err)
	}
	for name, values := range v {
		if name != "id" {
			return nil, fmt.Errorf("unknown parameter %.40q; want id", name)
		}
		for _, text := range values {
			id, err := event.ParseID(text)
			if err != nil {
				return nil, fmt.Errorf("id: %w", err)
			}
			ids = append(ids, id)
		}
	}
	switch {
	case len(ids) == 0:
		return nil, errors.New("id is missing; want that of an event")
	case len(ids) > MaxOrigins:
		return nil, fmt.Errorf("id: %d given, but at most %d are allowed", len(ids), MaxOrigins)
	}
	return ids, nil
}
