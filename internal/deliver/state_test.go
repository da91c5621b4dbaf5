package deliver

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/rstream-dev/rstream/cache"
	"github.com/rstream-dev/rstream/event"
)

// The state of a later version is refused, even if its members have other types: events that it
// names as open would be passed over. A state that no consumer has stored is none.
func TestStateOfOthers(t *testing.T) {
	open, err := json.Marshal(encodeOpen([]openEvent{{1, 1}}))
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		state string
		at    event.ID
		want  string // in the error; "" if there is none
		done  int
	}{
		{`{"consumer":1,"open":` + string(open) + `}`, 2, "", 1},
		{`{"consumer":2,"open":` + string(open) + `}`, 2, "later version", 0},
		{`{"consumer":2,"open":[1]}`, 2, "the state of the consumer", 0},
		{`{"consumer":2}`, 0, "later version", 0},
		{`{"ledger":[1,2],"done":"all","open":` + string(open) + `}`, 1, "", 1},
		{`text`, 1, "", 1},
		{``, 0, "", 2},
	} {
		s := newListStore(2, 2)
		s.ConsumerStep = cache.ConsumerStep{Position: tt.at, State: []byte(tt.state)}
		done := 0
		worker := funcWorker(func(*Try) error { done++; return nil })
		err := Run(t.Context(), Config{Store: s, Batches: s.batches, NewWorker: func() Worker { return worker }})
		if (tt.want == "") != (err == nil) || err != nil && !strings.Contains(err.Error(), tt.want) || done != tt.done {
			t.Errorf("from the state %s at %s: %d events are done, %v; want %d, %q", tt.state, tt.at, done, err, tt.done, tt.want)
		}
	}
}
