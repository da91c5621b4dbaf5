package wire

import "fmt"

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
