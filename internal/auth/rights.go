package auth

import (
	"encoding/json"
	"fmt"

	"github.com/rstream-dev/rstream/event"
)

// Rights are the topics that may be read and appended to. The zero Rights allow nothing.
type Rights struct {
	Read  []event.Topic `json:"read,omitempty"`
	Write []event.Topic `json:"write,omitempty"`
}

// UnmarshalJSON refuses members that it does not know, since they may restrict the others,
// and null for a topic, which would be the zero Topic: everything.
func (r *Rights) UnmarshalJSON(b []byte) error {
	var lists map[string][]*event.Topic // unlike a struct, it tells "read" from "READ"
	if err := json.Unmarshal(b, &lists); err != nil {
		return err
	}
	var all Rights
	for name, list := range lists {
		to := &all.Read
		switch name {
		case "read":
		case "write":
			to = &all.Write
		default:
			return fmt.Errorf("unknown member %.40q; want read or write", name)
		}
		for _, t := range list {
			if t == nil {
				return fmt.Errorf("%s: want topics, not null", name)
			}
			*to = append(*to, *t)
		}
	}
	*r = all
	return nil
}

// CanRead reports whether one topic of r.Read contains t.
func (r *Rights) CanRead(t event.Topic) bool { return covers(r.Read, t) }

// CanWrite reports whether one topic of r.Write contains t.
func (r *Rights) CanWrite(t event.Topic) bool { return covers(r.Write, t) }

// MatchesRead reports whether the storage belongs to a topic of r.Read.
func (r *Rights) MatchesRead(user, path string) bool { return matchesOne(r.Read, user, path) }

// MatchesWrite reports whether the storage belongs to a topic of r.Write.
func (r *Rights) MatchesWrite(user, path string) bool { return matchesOne(r.Write, user, path) }

// covers reports whether one of the granted topics contains t. A topic that several of
// them contain only together is not covered.
func covers(granted []event.Topic, t event.Topic) bool {
	for _, g := range granted {
		if g.Contains(t) {
			return true
		}
	}
	return false
}

func matchesOne(granted []event.Topic, user, path string) bool {
	for _, g := range granted {
		if g.Matches(user, path) {
			return true
		}
	}
	return false
}
