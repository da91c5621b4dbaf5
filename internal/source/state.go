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
	Time       int64  `json:"time"`              // when events, the cursor or a gap were last stored, µs
	Loose      bool   `json:"loose,omitempty"`   // events were stored that come after the cursor
	Shared     int    `json:"shared,omitempty"`  // above 0 if several of the last events in a row have had one id
	Among      bool   `json:"among,omitempty"`   // and others with the id of the cursor may follow
	Mapping    string `json:"mapping,omitempty"` // with which events were stored
	URL        string `json:"url,omitempty"`     // of the cursor, without secrets
	Trouble    string `json:"trouble,omitempty"` // why there is no connection

	// Of an rstream server: the id of its log, and whether it was restored from a backup
	// since it is followed.
	Log      string `json:"log,omitempty"`
	Restored bool   `json:"restored,omitempty"`

	// So far, also what retention has dropped.
	Events  int64 `json:"events,omitempty"` // that were taken, also if the log had them
	Bytes   int64 `json:"bytes,omitempty"`  // of their data
	Gaps    int   `json:"gaps,omitempty"`
	Refused int   `json:"refused,omitempty"` // events
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
	Stored  event.Time // when events, the cursor or a gap were last stored; 0 for never
	Trouble string     // why there is no connection, "" if there is one

	// So far: the events that were taken, the bytes of their data, gaps, and events that
	// could not be mapped.
	Events, Bytes int64
	Gaps, Refused int
}

// ReadStatus reads the state that a log keeps of a source, which may be nil.
func ReadStatus(stored []byte) (Status, error) {
	s, err := parseState(stored)
	return s.status(), err
}

func (s *state) status() Status {
	return Status{s.Cursor, event.Time(s.Time), s.Trouble, s.Events, s.Bytes, s.Gaps, s.Refused}
}

// ResetState returns the state with which a source begins as if for the first time, from the
// one that a log keeps of it. What was counted so far still is.
func ResetState(stored []byte) ([]byte, error) {
	s, err := parseState(stored)
	if err != nil {
		return nil, err
	}
	s = state{Version: stateVersion, Step: s.Step + 1, Events: s.Events, Bytes: s.Bytes, Gaps: s.Gaps, Refused: s.Refused}
	return s.encode(), nil
}
