package bench

import (
	"encoding/json"
	"strings"
	"testing"
)

// sample returns results of every kind.
func sample() []Result {
	r := &runner{}
	r.addCompared("append batch", 66_000, "events/s", baseline{rawRows, 100_000}, goal{0.95, 1.2})
	r.addCompared("append batch against a file", 66_000, "events/s", baseline{plainFile, 400_000}, goal{})
	r.addCompared("fanout 1000", 95, "events/s", baseline{bareBroadcaster, 100}, goal{at: 0.9})
	r.addCompared("append batch against redis", 66_000, "events/s", baseline{"redis", 100_000}, goal{stretch: 1})
	r.addCompared("topics 50", 40, "µs/event", baseline{"one topic", 10}, goal{at: 1.5})
	r.addCompared("idle", 28.8, "KiB/subscriber", baseline{bareBroadcaster, 26.4}, goal{at: 1.1})
	r.addFigure("state first line", 3.5, "ms")
	r.atMost("disk", 80, "bytes/event", 75)
	r.atMost("match allocations", 0, "allocations", 0)
	return r.results
}

// Programs read these lines. Members may be added to them, and none removed.
func TestResultsAsJSON(t *testing.T) {
	want := `{"type":"bench","name":"append batch","value":66000,"unit":"events/s","limit":100000,"ratio":0.66,"goal":0.95,"pass":false,"against":"raw rows","stretch":1.2}
{"type":"bench","name":"append batch against a file","value":66000,"unit":"events/s","limit":400000,"ratio":0.165,"pass":true,"against":"plain file"}
{"type":"bench","name":"fanout 1000","value":95,"unit":"events/s","limit":100,"ratio":0.95,"goal":0.9,"pass":true,"against":"bare broadcaster"}
{"type":"bench","name":"append batch against redis","value":66000,"unit":"events/s","limit":100000,"ratio":0.66,"pass":true,"against":"redis","stretch":1}
{"type":"bench","name":"topics 50","value":40,"unit":"µs/event","limit":10,"ratio":4,"goal":1.5,"pass":false,"against":"one topic"}
{"type":"bench","name":"idle","value":28.8,"unit":"KiB/subscriber","limit":26.4,"ratio":1.091,"goal":1.1,"pass":true,"against":"bare broadcaster"}
{"type":"bench","name":"state first line","value":3.5,"unit":"ms","pass":true}
{"type":"bench","name":"disk","value":80,"unit":"bytes/event","goal":75,"pass":false}
{"type":"bench","name":"match allocations","value":0,"unit":"allocations","goal":0,"pass":true}
`
	var got strings.Builder
	enc := json.NewEncoder(&got)
	for _, b := range sample() {
		if err := enc.Encode(b); err != nil {
			t.Fatal(err)
		}
	}
	if got.String() != want {
		t.Errorf("results are\n%s, want\n%s", got.String(), want)
	}
}

func TestResultsAsTable(t *testing.T) {
	want := `
what                         value                limit                    ratio  goal           
append batch                 66000 events/s       100000 (raw rows)        0.66   ≥ 0.95 (1.20)  missed
append batch against a file  66000 events/s       400000 (plain file)      0.17                  
fanout 1000                  95.0 events/s        100 (bare broadcaster)   0.95   ≥ 0.90         ok
append batch against redis   66000 events/s       100000 (redis)           0.66   (≥ 1.00)       
topics 50                    40.0 µs/event        10.0 (one topic)         4.00   ≤ 1.50         missed
idle                         28.8 KiB/subscriber  26.4 (bare broadcaster)  1.09   ≤ 1.10         ok
state first line             3.50 ms                                                             
disk                         80.0 bytes/event                                     ≤ 75.0         missed
match allocations            0.00 allocations                                     ≤ 0.00         ok
`
	var got strings.Builder
	got.WriteByte('\n')
	if err := WriteTable(&got, sample()); err != nil {
		t.Fatal(err)
	}
	if got.String() != want {
		t.Errorf("the table is%s, want%s", got.String(), want)
	}
}
