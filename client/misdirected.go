package client

import (
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/internal/wire"
)

const (
	// misdirectedTime is how long a server is asked last about something that it has said another
	// server has: it may be given more topics.
	misdirectedTime = 10 * time.Minute
	// maxMisdirected bounds how many such subjects are remembered of a server.
	maxMisdirected = 1000
)

// subjectOf returns what a request is about, for servers that only have a part of it: its topics
// or, if it has none, its path.
func subjectOf(path string, contentType string, body []byte) string {
	path, params, _ := strings.Cut(path, "?")
	if contentType == wire.FormData {
		params = string(body)
	}
	values, err := url.ParseQuery(params)
	if topics := values["topic"]; err == nil && len(topics) > 0 {
		return joinSubject(topics)
	}
	return path
}

// topicsSubject returns what a request of topics is about.
func topicsSubject(topics []event.Topic) string {
	names := make([]string, len(topics))
	for i, t := range topics {
		names[i] = t.String()
	}
	return joinSubject(names)
}

// storagesSubject returns what an append of drafts is about.
func storagesSubject(drafts []event.Draft) string {
	names := make([]string, len(drafts))
	for i := range drafts {
		names[i] = drafts[i].User + "/" + drafts[i].Path
	}
	return "append " + joinSubject(names)
}

func joinSubject(names []string) string {
	names = slices.Clone(names)
	slices.Sort(names)
	return strings.Join(slices.Compact(names), " ")
}

// recordMisdirected records that a server has said that another one has a subject.
func (c *Client) recordMisdirected(base, subject string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	i := slices.Index(c.cfg.Servers, base)
	if i < 0 {
		return
	}
	s := &c.servers[i]
	if s.lacks == nil || len(s.lacks) >= maxMisdirected {
		s.lacks = map[string]time.Time{}
	}
	s.lacks[subject] = time.Now()
}

// putMisdirectedLast moves the servers that do not have a subject to the end.
func (c *Client) putMisdirectedLast(order []int, subject func() string) []int {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !slices.ContainsFunc(order, func(i int) bool { return len(c.servers[i].lacks) > 0 }) {
		return order
	}
	key := subject()
	var first, last []int
	for _, i := range order {
		if c.servers[i].lacksSubject(key) {
			last = append(last, i)
		} else {
			first = append(first, i)
		}
	}
	return append(first, last...)
}

// lacksSubject reports whether the server has said that another one has a subject.
func (s *serverState) lacksSubject(subject string) bool {
	at, ok := s.lacks[subject]
	return ok && time.Since(at) < misdirectedTime
}
