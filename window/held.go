package window

import (
	"fmt"

	"github.com/rstream-dev/rstream/event"
)

// A NotHeldError reports that the events just after a position are not held: in a log
// because they were dropped, in a copy because they were not fetched.
type NotHeldError struct {
	After  event.ID
	Oldest event.ID // the next position after which events are held, if Some
	Some   bool     // whether any events after After are held
}

func (e *NotHeldError) Error() string {
	if !e.Some {
		return fmt.Sprintf("nothing is held after %s", e.After)
	}
	return fmt.Sprintf("nothing is held between %s and %s", e.After, e.Oldest)
}
