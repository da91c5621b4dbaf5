package window_test

import (
	"fmt"

	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/window"
)

// A topic is held where a window of the topic, or of one that contains it, is held.
func ExampleSet_Held() {
	topic := func(s string) event.Topic {
		t, err := event.ParseTopic(s)
		if err != nil {
			panic(err)
		}
		return t
	}
	windows := window.NewSet(
		window.Window{Topic: topic("alice"), From: 0, To: 100, State: window.Committed, Proven: true},
		window.Window{Topic: topic("alice/posts"), From: 100, To: 200, State: window.Pulling, Reached: 150},
	)
	all := window.Span{From: 0, To: 200}
	fmt.Println("alice/posts lacks", windows.Held(topic("alice/posts")).Gaps(all))
	fmt.Println("alice lacks", windows.Held(topic("alice")).Gaps(all))
	fmt.Println("proven of alice/posts", windows.Proven(topic("alice/posts")))
	// Output:
	// alice/posts lacks [000000000004P-0000000000068]
	// alice lacks [0000000000034-0000000000068]
	// proven of alice/posts [0000000000000-0000000000034]
}

// Two copies that hold the same events of a topic have the same digest, no matter how
// the events got there.
func ExampleDigestOf() {
	var l window.Leafer
	for id := event.ID(4095); id <= 4098; id++ {
		l.Add(id, event.Time(id), event.Hash{byte(id)})
	}
	leaves := l.Leaves()
	digest, count := window.DigestOf(leaves)
	fmt.Println(len(leaves), "blocks,", count, "events,", digest.String()[:16])
	// Output: 2 blocks, 4 events, 7e194f17b58188e4
}
