package bench

import (
	"fmt"
	"strconv"

	"github.com/rstream-dev/rstream/event"
)

// An Input generates the events of a run. Two inputs with the same User and Run
// generate the same events.
type Input struct {
	User string
	Run  string // makes the keys of this run unique
	// Storages is the number of storages that the events are spread over. If zero,
	// 1,000.
	Storages int
}

const storages = 1000

// Draft returns append i. Its line has about 250 bytes.
func (in Input) Draft(i int) event.Draft {
	n := in.Storages
	if n == 0 {
		n = storages
	}
	path := "posts/" + strconv.Itoa(i%n)
	return event.Draft{User: in.User, Path: path, Type: event.Put, Key: in.Run + strconv.Itoa(i), Value: appendValue(nil, i)}
}

// Body returns append i as the body of a POST to its storage.
func (in Input) Body(i int) []byte {
	d := in.Draft(i)
	return fmt.Appendf(nil, `{"key":%q,"value":%s}`, d.Key, d.Value)
}

// Line returns append i as a line of a batch.
func (in Input) Line(i int) []byte {
	d := in.Draft(i)
	return fmt.Appendf(nil, "{\"user\":%q,\"path\":%q,\"key\":%q,\"value\":%s}\n", d.User, d.Path, d.Key, d.Value)
}

// Events returns the events that a log would make of the first n appends.
func (in Input) Events(n int) []event.Event {
	evs := make([]event.Event, n)
	for i := range evs {
		d := in.Draft(i)
		evs[i] = event.New(event.ID(i+1), 1_700_000_000_000_000+event.Time(i), d, d.Hash())
	}
	return evs
}
