package bench

import (
	"testing"

	"github.com/rstream-dev/rstream/event"
)

// Every event of the user belongs to one of the topics, evenly, and no other event does.
func TestTopicLog(t *testing.T) {
	for _, share := range []int{1, sparseShare} {
		l := topicLog{in: Input{User: "bench"}, topics: 7, share: share, events: 70}
		var topics []event.Topic
		for _, name := range l.names() {
			topic, err := event.ParseTopic(name)
			if err != nil {
				t.Fatal(err)
			}
			topics = append(topics, topic)
		}
		counts := make([]int, len(topics))
		users := 0
		for i := range l.events * share {
			d := l.draft(i)
			if d.User == l.in.User {
				users++
			}
			for j, topic := range topics {
				if topic.Matches(d.User, d.Path) {
					counts[j]++
				}
			}
		}
		for j, n := range counts {
			if n != l.events/l.topics || users != l.events {
				t.Errorf("1 in %d: topic %d has %d of the user's %d events, want %d of %d", share, j, n, users, l.events/l.topics, l.events)
			}
		}
	}
}
