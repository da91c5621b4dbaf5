package window

import (
	"fmt"

	"github.com/rstream-dev/rstream/event"
)

// A NotHeldError says that what follows a position is not held: in a log because
// the history before Oldest is gone, in a copy because it was not fetched.
type NotHeldError struct {
	After  event.ID
	Oldest event.ID // the next position from which something is held
	Some   bool     // whether anything is held after After at all
}

func (e *NotHeldError) Error() string {
	if !e.Some {
		return fmt.Sprintf("nothing is held after %s", e.After)
	}
	return fmt.Sprintf("nothing is held between %s and %s", e.After, e.Oldest)
}
