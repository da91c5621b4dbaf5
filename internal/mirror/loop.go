package mirror

import "strings"

// maxVia is the greatest number of mirrors in a row.
const maxVia = 16

// isIn reports whether via, as in wire.HeaderVia, has this mirror, or more mirrors than there
// can be. Mirrors that follow each other in a circle would pass an append on for ever.
func (m *Mirror) isIn(via string) bool {
	return strings.Contains(via, m.name) || strings.Count(via, ",") >= maxVia-1
}

// addTo returns via with this mirror.
func (m *Mirror) addTo(via string) string {
	if via == "" {
		return m.name
	}
	return m.name + ", " + via
}
