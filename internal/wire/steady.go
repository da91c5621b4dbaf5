package wire

import (
	"regexp"
	"sync"
)

// ownAddress is where the text of a connection's error has the address of this end.
var ownAddress = sync.OnceValue(func() *regexp.Regexp {
	return regexp.MustCompile(`\b(read|write|close) (tcp|tcp4|tcp6) (\[[0-9A-Fa-f:.%a-z]+\]|[0-9.]+):[0-9]+->`)
})

// SteadyText returns the text of a connection's error without the address of this end, whose port
// is another one each time: two errors with one cause have one text.
func SteadyText(err error) string {
	return ownAddress().ReplaceAllString(err.Error(), "$1 $2 ")
}
