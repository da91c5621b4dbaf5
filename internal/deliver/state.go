package deliver

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/rstream-dev/rstream/event"
)

// A Status is how far a consumer is, as it was last stored.
type Status struct {
	Done     int64     // events done since the consumer began
	Failed   int64     // tries that have failed
	UnderWay int       // events under way
	Waiting  int       // storages that are blocked or catch up
	Rate     float64   // events done each second, of the last minute
	At       time.Time // when this was stored
	Position event.ID
}

// A storedState is stored with the position.
type storedState struct {
	Consumer int     `json:"consumer"` // version
	Done     int64   `json:"done"`
	Failed   int64   `json:"failed"`
	UnderWay int     `json:"under_way"`
	Rate     float64 `json:"rate"`
	At       int64   `json:"at"` // µs
	Open     []byte  `json:"open,omitempty"`
}

const stateVersion = 1

// ReadStatus decodes the state of a consumer.
func ReadStatus(state []byte) (Status, error) {
	s, err := decodeState(state)
	if err != nil || s.Consumer == 0 {
		return Status{}, err
	}
	return Status{Done: s.Done, Failed: s.Failed, UnderWay: s.UnderWay, Rate: s.Rate, At: time.UnixMicro(s.At)}, nil
}

// decodeState decodes the state of a cursor. If Consumer is 0, no consumer has stored it. If there
// is an error and Consumer is another number, it is a consumer's, perhaps of a later version.
func decodeState(state []byte) (s storedState, err error) {
	if len(state) == 0 {
		return s, nil
	}
	if err := json.Unmarshal(state, &s); err != nil {
		return s, fmt.Errorf("the state of the consumer: %w", err)
	}
	if s.Consumer > stateVersion {
		return s, errors.New("the state of the consumer is of a later version")
	}
	return s, nil
}

// An openEvent is the first unfinished event of a storage, and how many from it on may have
// been started.
type openEvent struct {
	id    event.ID
	begun int
}

// encodeOpen encodes events in the order of their ids.
func encodeOpen(list []openEvent) []byte {
	if len(list) == 0 {
		return nil
	}
	slices.SortFunc(list, func(a, b openEvent) int {
		if a.id < b.id {
			return -1
		}
		return 1
	})
	b := make([]byte, 0, 4*len(list))
	last := event.ID(0)
	for _, o := range list {
		b = binary.AppendUvarint(b, uint64(o.id-last))
		b = binary.AppendUvarint(b, uint64(o.begun))
		last = o.id
	}
	return b
}

func decodeOpen(b []byte) (list []openEvent, err error) {
	last := event.ID(0)
	for len(b) > 0 {
		delta, n := binary.Uvarint(b)
		if n <= 0 {
			return nil, errors.New("the state of the consumer is cut")
		}
		begun, m := binary.Uvarint(b[n:])
		if m <= 0 || begun > 1<<20 {
			return nil, errors.New("the state of the consumer is cut")
		}
		last += event.ID(delta)
		list = append(list, openEvent{last, int(begun)})
		b = b[n+m:]
	}
	return list, nil
}

// A meter measures the rate of the last minute.
type meter struct {
	samples []sample // oldest first
}

type sample struct {
	at   time.Time
	done int64
}

const (
	// MeterTime is how far back a Rate looks. One that was stored earlier says nothing about now.
	MeterTime = time.Minute
	meterStep = 2 * time.Second
)

// rate returns events a second after done events.
func (m *meter) rate(now time.Time, done int64) float64 {
	if n := len(m.samples); n == 0 || now.Sub(m.samples[n-1].at) >= meterStep {
		m.samples = append(m.samples, sample{now, done})
	}
	for len(m.samples) > 1 && now.Sub(m.samples[0].at) > MeterTime {
		m.samples = m.samples[1:]
	}
	passed := max(now.Sub(m.samples[0].at), time.Second) // a run of milliseconds says nothing about a second
	return float64(done-m.samples[0].done) / passed.Seconds()
}
