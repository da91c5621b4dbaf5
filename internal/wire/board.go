package wire

import (
	"errors"
	"fmt"
)

// Paths of the board. Their streams are the same.
const (
	PathConnections = "/api/connections"
	PathChanges     = "/api/events"
)

// ParseBoard parses the parameters of GET /api/connections. ends reports whether the stream
// ends after the state: until=now.
func ParseBoard(rawQuery string) (ends bool, err error) {
	v, err := parseParams(rawQuery, []string{"until"})
	if err != nil || !v.Has("until") {
		return false, err
	}
	if until := v.Get("until"); until != "now" {
		return false, fmt.Errorf("until: the board has no time but now, not %.40q", until)
	}
	return true, nil
}

// Paths for the nodes of a board.
const (
	PathLooks   = "/board/looks"
	PathReports = "/board/reports"
)

// LookEvent is the type of the event that announces to a node whether somebody looks.
const LookEvent = "look"

// ParseLooks parses the parameters of GET /board/looks: the name of the node, and whether the
// stream ends after the first announcement: until=now.
func ParseLooks(rawQuery string) (node string, ends bool, err error) {
	v, err := parseParams(rawQuery, []string{"node", "until"})
	switch {
	case err != nil:
		return "", false, err
	case !v.Has("node"):
		return "", false, errors.New("node is missing")
	case v.Has("until") && v.Get("until") != "now":
		return "", false, fmt.Errorf("until: want now, not %.40q", v.Get("until"))
	}
	return v.Get("node"), v.Has("until"), nil
}
