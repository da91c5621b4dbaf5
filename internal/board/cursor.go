package board

import (
	"fmt"
	"strconv"
	"strings"
)

// A Cursor is a position in the changes of a board. The zero Cursor is none.
type Cursor struct {
	look   string // random, another one whenever a board begins to be looked at
	number uint64 // of the last change
}

// veiledCursor is none of a board: looks are longer.
var veiledCursor = Cursor{look: "0"}

// String returns the text of c: LOOK.NUMBER.
func (c Cursor) String() string { return c.look + "." + strconv.FormatUint(c.number, 10) }

// ParseCursor parses the text of a cursor.
func ParseCursor(s string) (Cursor, error) {
	look, digits, ok := strings.Cut(s, ".")
	number, err := strconv.ParseUint(digits, 10, 64)
	if !ok || look == "" || err != nil {
		return Cursor{}, fmt.Errorf("%.40q is no cursor of a board", s)
	}
	return Cursor{look, number}, nil
}
