package pages

import "github.com/rstream-dev/rstream/event"

// A Locator says where a line is. It holds for one transaction: later, the page may have
// been rewritten under another key.
//
// Sum is the checksum of the line, since the hash in the line does not cover its time.
type Locator struct {
	Page           int64
	Offset, Length uint16 // Length 0 means all lines of the page
	Sum            uint32
}

// A Posted is an event and where its line is.
type Posted struct {
	ID event.ID
	Locator
}

// MaxKey is the largest key of a page.
const MaxKey = 1<<39 - 1
