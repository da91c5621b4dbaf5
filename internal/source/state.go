package source

import (
	"encoding/json"
	"fmt"

	"github.com/rstream-dev/rstream/event"
)

// A state is what the log keeps of a source, in the transaction that appends its events.
type state struct {
	Version    int    `json:"v"`
	Step       int64  `json:"step"`            // commits so far: no two states are equal
	Begun      bool   `json:"begun,omitempty"` // there was a connection
	Cursor     string `json:"cursor,omitempty"`
	Generation uint32 `json:"generation,omitempty"`
	Highest    uint64 `json:"highest,omitempty"` // foreign id of the generation, if ids are numbers
	Seen       int64  `json:"seen,omitempty"`    // events that were noted for repeats
	Time       int64  `json:"time"`              // of the last commit, µs
	Loose      bool   `json:"loose,omitempty"`   // events were stored that come after the cursor
	Mapping    string `json:"mapping,omitempty"` // with which events were stored
	Trouble    string `json:"trouble,omitempty"` // why there is no connection
	Gaps       int    `json:"gaps,omitempty"`    // so far, also those that retention has dropped
	Refused    int    `json:"refused,omitempty"` // events so far
}

const stateVersion = 1

func parseState(b []byte) (s state, err error) {
	if b == nil {
		return state{Version: stateVersion}, nil
	}
	if err := json.Unmarshal(b, &s); err != nil {
		return s, fmt.Errorf("read the state of the source: %w", err)
	}
	if s.Version != stateVersion {
		return s, fmt.Errorf("the state of the source is of version %d, which this program does not know", s.Version)
	}
	return s, nil
}

func (s *state) encode() []byte {
	b, _ := json.Marshal(s) // it has only numbers and text
	return b
}

// A Status is what the state of a source tells a person.
type Status struct {
	Cursor  string
	Stored  event.Time // of the last commit; 0 if there was none
	Trouble string     // why there is no connection, "" if there is one
	Gaps    int        // so far
	Refused int        // events so far that could not be mapped
}

// ReadStatus reads the state that a log keeps of a source, which may be nil.
func ReadStatus(stored []byte) (Status, error) {
	s, err := parseState(stored)
	return Status{s.Cursor, event.Time(s.Time), s.Trouble, s.Gaps, s.Refused}, err
}

// ResetState returns the state with which a source begins as if for the first time, from the
// one that a log keeps of it. Its gaps are still counted.
func ResetState(stored []byte) ([]byte, error) {
	s, err := parseState(stored)
	if err != nil {
		return nil, err
	}
	s = state{Version: stateVersion, Step: s.Step + 1, Gaps: s.Gaps, Refused: s.Refused}
	return s.encode(), nil
}
