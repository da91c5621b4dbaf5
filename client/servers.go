package client

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"time"

	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/window"
)

const (
	// failedTime is how long a server that has failed is asked after the others.
	failedTime = 10 * time.Second
	// asideTime is how long a server that sent a wrong answer is not asked, if there is
	// another one.
	asideTime = 10 * time.Minute
	// speedTime is how long a measured speed says something.
	speedTime = time.Minute
)

// A serverState is what a Client has seen of one of its servers.
type serverState struct {
	answered bool      // it has answered a request
	rest     time.Time // it has asked for a pause until then
	failed   time.Time // when it failed; zero once it has sent a whole response since
	aside    time.Time // it sent a wrong answer, and is not asked until then
	doubtful bool      // that it did rests on the word of another server, and no more
	speed    float64   // bytes a second, 0 if not known
	measured time.Time // when

	vouched   bool      // it has given the digest of a page
	unchecked time.Time // it has not, and is not asked for one until then

	lacks map[string]time.Time // the subjects that it has said another server has, and when

	head      event.ID // the newest that it reported
	requests  int64
	bytes     int64                        // of response bodies
	supplied  map[event.Topic]window.Spans // in pages
	overtaken int64                        // responses that were left because it was slow
	problem   error                        // why it was left last
	problemAt time.Time
	reported  time.Time // when OnLeave was called last
}

// isFresh reports whether there is no reason against asking the server now.
func (s *serverState) isFresh(now time.Time) bool {
	return !now.Before(s.aside) && !now.Before(s.rest) && now.Sub(s.failed) >= failedTime
}

// preferredKey is the key of a context whose requests go to one server first.
type preferredKey struct{}

// preferServer returns a context whose requests go to a server first, if there are several.
func preferServer(ctx context.Context, base string) context.Context {
	return context.WithValue(ctx, preferredKey{}, base)
}

// preferFirst returns a context whose requests go to the server that is named first. Its digest
// is the one that counts if two differ.
func (c *Client) preferFirst(ctx context.Context) context.Context {
	return preferServer(ctx, c.cfg.Servers[0])
}

// onlyKey is the key of a context whose requests go to one server and to no other.
type onlyKey struct{}

// An onlyOne is the value of onlyKey.
type onlyOne struct {
	base     string
	mayLeave bool
}

// onlyServer returns a context whose requests go to one server only. They are not retried.
// They are errOvertaken if the server is slow and mayLeave is true.
func onlyServer(ctx context.Context, base string, mayLeave bool) context.Context {
	return context.WithValue(ctx, onlyKey{}, onlyOne{base, mayLeave})
}

// onlyOf returns the server to which the requests of ctx are limited, "" if they are not.
func onlyOf(ctx context.Context) (base string, mayLeave bool) {
	only, _ := ctx.Value(onlyKey{}).(onlyOne)
	return only.base, only.mayLeave
}

// serversToAsk returns the servers that may be asked now, the best one first. It is never
// empty.
func (c *Client) serversToAsk(ctx context.Context) []int {
	if len(c.cfg.Servers) == 1 {
		return []int{0}
	}
	if only, _ := onlyOf(ctx); only != "" {
		return []int{slices.Index(c.cfg.Servers, only)}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	n, now := len(c.cfg.Servers), time.Now()
	preferred := slices.Index(c.cfg.Servers, preferredOf(ctx))
	var order []int
	for i := range n {
		i = (c.current + i) % n
		if !now.Before(c.servers[i].aside) && !now.Before(c.servers[i].rest) {
			order = append(order, i)
		}
	}
	rank := func(i int) int {
		switch {
		case now.Sub(c.servers[i].failed) < failedTime:
			return 2
		case i == preferred:
			return 0
		}
		return 1
	}
	slices.SortStableFunc(order, func(a, b int) int { return cmp.Compare(rank(a), rank(b)) })
	if len(order) == 0 {
		order = []int{c.firstRested()}
	}
	return order
}

func preferredOf(ctx context.Context) string {
	base, _ := ctx.Value(preferredKey{}).(string)
	return base
}

// firstRested returns the server that may be asked first, if none may be asked now. The
// caller holds mu.
func (c *Client) firstRested() int {
	first := 0
	for i := range c.servers {
		a, b := &c.servers[i], &c.servers[first]
		if cmp.Or(a.aside.Compare(b.aside), a.rest.Compare(b.rest)) < 0 {
			first = i
		}
	}
	return first
}

// restTime returns how long no server may be asked.
func (c *Client) restTime() time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	rest := time.Duration(-1)
	for i := range c.servers {
		if s := &c.servers[i]; !time.Now().Before(s.aside) {
			if left := max(0, time.Until(s.rest)); rest < 0 || left < rest {
				rest = left
			}
		}
	}
	return max(0, rest)
}

// fastest returns the server that was fastest lately, the first one of those whose speed is not
// known.
func (c *Client) fastest(bases []string) string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.MaxFunc(bases, func(a, b string) int {
		return cmp.Compare(c.stateOf(a).speed, c.stateOf(b).speed)
	})
}

// stateOf returns the state of a server. The caller holds c.mu.
func (c *Client) stateOf(base string) *serverState {
	return &c.servers[slices.Index(c.cfg.Servers, base)]
}

// isFreshServer reports whether there is no reason against asking a server now.
func (c *Client) isFreshServer(base string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.stateOf(base).isFresh(time.Now())
}

// mayAsk reports whether a server may be asked now, although it may have failed.
func (c *Client) mayAsk(base string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	s, now := c.stateOf(base), time.Now()
	return !now.Before(s.aside) && !now.Before(s.rest)
}

// hasFresh reports whether a server other than base, which may be "", can take over.
func (c *Client) hasFresh(base string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := time.Now()
	for i := range c.servers {
		if c.cfg.Servers[i] != base && c.servers[i].isFresh(now) {
			return true
		}
	}
	return false
}

// recordContact records that a server of our log has answered. From now on a failed
// connection is retried, even the first one of a call.
func (c *Client) recordContact(base string, head event.ID) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.reached = true
	if i := slices.Index(c.cfg.Servers, base); i >= 0 {
		c.servers[i].answered = true
		c.servers[i].head = max(c.servers[i].head, head)
	}
}

// recordFailure records that a server failed, and lets the next one be asked first, unless
// another goroutine has done so.
func (c *Client) recordFailure(base string, cause error) {
	c.recordProblem(base, cause, func(s *serverState, now time.Time) { s.failed = now })
	c.reportLeft(base, cause)
}

// reportLeft calls OnLeave if there is another server, and OnLeave was not called for this one
// lately. A server that lags is left as often as it lags, and nothing is wrong with it.
func (c *Client) reportLeft(base string, cause error) {
	i := slices.Index(c.cfg.Servers, base)
	if c.cfg.OnLeave == nil || i < 0 || saysBehind(cause) || !c.hasFresh(base) {
		return
	}
	c.mu.Lock()
	s, now := &c.servers[i], time.Now()
	late := s.reported.IsZero() || now.Sub(s.reported) >= asideTime
	if late {
		s.reported = now
	}
	c.mu.Unlock()
	if late {
		c.cfg.OnLeave(publicURL(base), cause)
	}
}

// countRequest counts a request to a server.
func (c *Client) countRequest(base string) {
	c.stats.requests.Add(1)
	c.mu.Lock()
	defer c.mu.Unlock()
	if i := slices.Index(c.cfg.Servers, base); i >= 0 {
		c.servers[i].requests++
	}
}

// recordRest records that a server has asked for a pause.
func (c *Client) recordRest(base string, pause time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if i := slices.Index(c.cfg.Servers, base); i >= 0 {
		c.servers[i].rest = time.Now().Add(pause)
	}
}

// recordProblem records why a server is left. change changes its state further.
func (c *Client) recordProblem(base string, cause error, change func(s *serverState, now time.Time)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	i := slices.Index(c.cfg.Servers, base)
	if i < 0 {
		return
	}
	now := time.Now()
	c.servers[i].problem, c.servers[i].problemAt = cause, now
	change(&c.servers[i], now)
	if c.current == i {
		c.current = (i + 1) % len(c.cfg.Servers)
	}
}

// recordSupply records that the events of a span came from a server.
func (c *Client) recordSupply(base string, topics []event.Topic, span window.Span) {
	if len(c.cfg.Servers) == 1 {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	s := c.stateOf(base)
	if s.supplied == nil {
		s.supplied = map[event.Topic]window.Spans{}
	}
	for _, t := range topics {
		s.supplied[t] = s.supplied[t].Add(span)
	}
}

// suppliedOf returns the parts of blocks of which a server has sent events of topic.
func (c *Client) suppliedOf(server int, topic event.Topic, blocks window.Spans) (parts window.Spans) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for t, spans := range c.servers[server].supplied {
		if t.Overlaps(topic) {
			parts = append(parts, spans.Intersect(blocks)...)
		}
	}
	return parts
}

// refetchFrom returns the server of which to fetch blocks that differ from the digest of from:
// from itself, unless the events that are here are its own.
func (c *Client) refetchFrom(from string, topic event.Topic, blocks window.Spans) string {
	i := slices.Index(c.cfg.Servers, from)
	if i < 0 || len(c.suppliedOf(i, topic, blocks)) == 0 {
		return from
	}
	for _, other := range c.serversToAsk(context.Background()) {
		if other != i {
			return c.cfg.Servers[other]
		}
	}
	return from
}

// suppliers returns the servers other than except that have sent events of topic in spans.
func (c *Client) suppliers(topic event.Topic, spans window.Spans, except string) (bases []string) {
	for i, base := range c.cfg.Servers {
		if base != except && len(c.suppliedOf(i, topic, spans)) > 0 {
			bases = append(bases, base)
		}
	}
	return bases
}

// sendersAt returns the servers other than except that have sent the pages in which events belong.
func (c *Client) sendersAt(items []placedItem, except string) (bases []string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for i, base := range c.cfg.Servers {
		sent := func(item placedItem) bool {
			for t, spans := range c.servers[i].supplied {
				if t.Matches(item.of.User, item.of.Path) && spans.Contains(spanOfEvent(item.ID)) {
					return true
				}
			}
			return false
		}
		if base != except && slices.ContainsFunc(items, sent) {
			bases = append(bases, base)
		}
	}
	return bases
}

// recordWhole records that a server has sent a whole response.
func (c *Client) recordWhole(server int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.servers[server].failed = time.Time{}
}

// setAside records that a server sent a wrong answer. It reports false if no other server
// may be asked: then the answer is an error of the call.
func (c *Client) setAside(base string, cause error) bool { return c.setAsideOn(base, cause, false) }

// setAsideOn is setAside. If that the answer is wrong rests on the word of another server and no
// more, it is doubtful: the server is heard again when others disagree, and asked again by the next
// Client.
func (c *Client) setAsideOn(base string, cause error, doubtful bool) bool {
	if !slices.Contains(c.cfg.Servers, base) || !c.hasOther(base) {
		return false
	}
	if c.isAside(base) {
		c.mu.Lock()
		s := c.stateOf(base)
		s.doubtful = s.doubtful && doubtful
		c.mu.Unlock()
		return true
	}
	c.recordProblem(base, cause, func(s *serverState, now time.Time) { s.aside, s.doubtful = now.Add(asideTime), doubtful })
	c.noteServers()
	if c.cfg.OnAside != nil {
		c.cfg.OnAside(publicURL(base), cause)
	}
	return true
}

// isDoubtful reports whether a server is set aside on the word of another one, and no more.
func (c *Client) isDoubtful(base string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := c.stateOf(base)
	return s.doubtful && time.Now().Before(s.aside)
}

// reinstate ends that a server is set aside on the word of another one.
func (c *Client) reinstate(base string) {
	if !c.isDoubtful(base) {
		return
	}
	c.mu.Lock()
	s := c.stateOf(base)
	s.aside, s.doubtful, s.problem = time.Time{}, false, nil
	c.mu.Unlock()
	c.noteServers()
}

// isAside reports whether a server is set aside.
func (c *Client) isAside(base string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return time.Now().Before(c.stateOf(base).aside)
}

// hasOther reports whether there is a server other than base that has not been set aside.
func (c *Client) hasOther(base string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	for i := range c.servers {
		if c.cfg.Servers[i] != base && !time.Now().Before(c.servers[i].aside) {
			return true
		}
	}
	return false
}

// leaveServer reports whether another server can continue at once after err, and sets aside
// the server of a wrong answer.
func (c *Client) leaveServer(err error) bool {
	var wrong *ProtocolError
	var short *ShortenedError
	switch {
	case len(c.cfg.Servers) == 1:
		return false
	case errors.Is(err, errOvertaken):
		return true
	case errors.As(err, &wrong):
		return c.setAside(wrong.URL, err)
	case permanent(err), errors.As(err, new(*tokenError)): // a server was not asked
		return false
	case errors.As(err, &short):
		c.recordFailure(c.serverOfPublic(short.URL), err)
	}
	return c.hasFresh("")
}

// serverOfPublic returns the server that errors show as public, "" if there is none.
func (c *Client) serverOfPublic(public string) string {
	for _, base := range c.cfg.Servers {
		if publicURL(base) == public {
			return base
		}
	}
	return ""
}
