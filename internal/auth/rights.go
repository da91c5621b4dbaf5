package auth

import (
	"encoding/json"
	"errors"
	"fmt"

	"github.com/rstream-dev/rstream/event"
)

// Rights are the topics that may be read and appended to, and what may be done with the
// board. The zero Rights allow nothing.
type Rights struct {
	Read  []event.Topic `json:"read,omitempty"`
	Write []event.Topic `json:"write,omitempty"`
	Board BoardRight    `json:"board,omitempty"`
}

// A BoardRight says what its bearer may do with the board. Neither right includes the other.
type BoardRight string

// The rights to the board.
const (
	NoBoard    BoardRight = ""
	BoardRead  BoardRight = "read"  // see who reads what
	BoardWrite BoardRight = "write" // report the connections of a node
)

// ParseBoardRight parses the name of a right to the board.
func ParseBoardRight(name string) (BoardRight, error) {
	if right := BoardRight(name); right == BoardRead || right == BoardWrite {
		return right, nil
	}
	return NoBoard, fmt.Errorf("%.40q is no right to the board; want read or write", name)
}

// UnmarshalJSON refuses members that it does not know, since they may restrict the others,
// and null for a topic, which would be the zero Topic: everything.
func (r *Rights) UnmarshalJSON(b []byte) error {
	var members map[string]json.RawMessage // unlike a struct, it tells "read" from "READ"
	if err := json.Unmarshal(b, &members); err != nil {
		return err
	}
	var all Rights
	for name, value := range members {
		var err error
		switch name {
		case "read":
			all.Read, err = unmarshalTopics(value)
		case "write":
			all.Write, err = unmarshalTopics(value)
		case "board":
			all.Board, err = unmarshalBoardRight(value)
		default:
			return fmt.Errorf("unknown member %.40q; want read, write or board", name)
		}
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	*r = all
	return nil
}

func unmarshalTopics(b []byte) (topics []event.Topic, err error) {
	var list []*event.Topic
	if err := json.Unmarshal(b, &list); err != nil {
		return nil, err
	}
	for _, t := range list {
		if t == nil {
			return nil, errors.New("want topics, not null")
		}
		topics = append(topics, *t)
	}
	return topics, nil
}

// unmarshalBoardRight refuses null and the empty name: a right that is not granted is left out.
func unmarshalBoardRight(b []byte) (BoardRight, error) {
	var name string
	if err := json.Unmarshal(b, &name); err != nil {
		return NoBoard, err
	}
	return ParseBoardRight(name)
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
