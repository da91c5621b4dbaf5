package board

import (
	"slices"

	"github.com/rstream-dev/rstream/event"
)

// A Connection is an open stream of a reader. It is not modified: a change makes a new one.
type Connection struct {
	Node    string        `json:"node,omitempty"` // empty in a report, which names it once
	Log     string        `json:"-"`              // that the node serves
	ID      uint64        `json:"id"`             // never given twice while the node runs
	Topics  []event.Topic `json:"topics"`
	Since   event.Time    `json:"since"`
	Address string        `json:"address"`
	Subject string        `json:"subject,omitempty"` // of the reader's token

	Lag
}

// Lag says how far a reader is behind the log.
type Lag struct {
	Events uint64 `json:"lag"`    // ids between its position and the head, 0 if nothing waits for it
	Behind bool   `json:"behind"` // it reads from the log, not from its queue
}

// Reads reports whether the reader gets all events of topic, because one of its topics
// contains it.
func (c *Connection) Reads(topic event.Topic) bool {
	return slices.ContainsFunc(c.Topics, func(t event.Topic) bool { return t.Contains(topic) })
}

// A Node is a process with connections.
type Node struct {
	Name    string     `json:"node"`
	Version string     `json:"version,omitempty"`
	Since   event.Time `json:"since"`         // when it started
	Log     string     `json:"log"`           // the id of its log
	Head    string     `json:"head"`          // the newest position of its log
	URL     string     `json:"url,omitempty"` // where other nodes reach it
}

// A TopicCount says how many connections concern a topic.
type TopicCount struct {
	Topic       event.Topic `json:"topic"`
	Connections int         `json:"connections"` // those that ask for this very topic
	Readers     int         `json:"readers"`     // those that get all events of it, also by a wider topic
}

// CountTopics counts the connections of each topic that one of conns asks for, in the order
// of the topics' text.
func CountTopics(conns []*Connection) []TopicCount {
	counts := map[event.Topic]*TopicCount{}
	byUser := map[string][]*TopicCount{} // "" for topics of any user
	alone := map[event.Topic]int{}       // connections with one topic, of which many are alike
	var others []*Connection
	for _, c := range conns {
		for i, t := range c.Topics {
			if slices.Contains(c.Topics[:i], t) {
				continue
			}
			n := counts[t]
			if n == nil {
				n = &TopicCount{Topic: t}
				counts[t] = n
				user, _ := t.User()
				byUser[user] = append(byUser[user], n)
			}
			n.Connections++
		}
		if len(c.Topics) == 1 {
			alone[c.Topics[0]]++
		} else {
			others = append(others, c)
		}
	}
	add := func(topics []event.Topic, n int) {
		c := Connection{Topics: topics}
		for _, user := range usersOf(topics, byUser) {
			for _, count := range byUser[user] {
				if c.Reads(count.Topic) {
					count.Readers += n
				}
			}
		}
	}
	for t, n := range alone {
		add([]event.Topic{t}, n)
	}
	for _, c := range others {
		add(c.Topics, 1)
	}
	all := make([]TopicCount, 0, len(counts))
	for _, n := range counts {
		all = append(all, *n)
	}
	slices.SortFunc(all, func(a, b TopicCount) int { return compareTopics(a.Topic, b.Topic) })
	return all
}

// usersOf returns the users of which topics may contain a topic, each once.
func usersOf(topics []event.Topic, byUser map[string][]*TopicCount) (users []string) {
	for _, t := range topics {
		user, ok := t.User()
		if !ok { // of all users
			users = users[:0]
			for user := range byUser {
				users = append(users, user)
			}
			return users
		}
		if !slices.Contains(users, user) {
			users = append(users, user)
		}
	}
	return users
}
