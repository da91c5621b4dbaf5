package client

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"time"

	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/internal/wire"
	"github.com/rstream-dev/rstream/window"
)

const (
	// checkTime is the longest that a page waits for the digest of another server.
	checkTime = time.Second
	// firstCredit is how long pages may wait in all, in addition to the time that they took to come.
	firstCredit = checkTime / 2
	// uncheckedTime is how long a server that does not give digests is not asked for those of pages.
	uncheckedTime = time.Minute
)

// A pageCheck compares a page that one server sends with the digest that another server has of its
// range, before anything of it is stored. A server that invents, changes or leaves out events, and
// whose own digest says the same, is therefore found with its first wrong page, and set aside. A
// comparison at the end would find it when it has sent everything.
//
// The digest is requested as soon as the header of the page has said how far it goes. It is a few
// hundred bytes, and usually there before the events are.
//
// The check is no condition: with one server there is none, and a server that is slow, behind, or
// does not answer about the range is not waited for. In all, pages wait no longer than they took to
// come, and half a second, so that a server far away makes a pull from a near one twice as long at
// most. A page without a digest is stored, and the comparison of the whole range at the end still
// counts. If the two servers differ, a dispute decides which of them is wrong.
type pageCheck struct {
	c     *Client
	base  string // the server of the digest
	query wire.WindowQuery
	began time.Time

	// The request. A second one begins when the first has ended.
	span   window.Span
	cancel context.CancelFunc
	done   chan struct{} // closed once sum and err are set
	sum    wire.Window
	err    error
}

// startCheck requests the digest of a page, from another server than the one that sends it. It
// returns nil if there is none to ask.
func (c *Client) startCheck(ctx context.Context, o *openPage) *pageCheck {
	if o.err != nil || len(c.cfg.Servers) == 1 {
		return nil
	}
	base := c.digestServer(o.base, o.topics)
	k := &pageCheck{c: c, base: base, began: time.Now(), query: wire.WindowQuery{Topic: o.topics[0], More: o.topics[1:], Sum: true}}
	span := window.Span{From: o.span.From, To: o.next.ID}
	if base == "" || !fitsURL(base+"/windows", k.queryOf(span).Values().Encode()) {
		return nil
	}
	k.request(ctx, span)
	return k
}

// digestServer returns the server to ask for the digest of a page of topics from base, "" if there
// is none: the first one of the others that is well and answers about digests.
func (c *Client) digestServer(base string, topics []event.Topic) string {
	subject := topicsSubject(topics)
	c.mu.Lock()
	defer c.mu.Unlock()
	now := time.Now()
	for i, other := range c.cfg.Servers {
		if s := &c.servers[i]; other != base && s.isFresh(now) && !now.Before(s.unchecked) && !s.lacksSubject(subject) {
			return other
		}
	}
	return ""
}

// recordUnchecked records that a server does not give digests.
func (c *Client) recordUnchecked(base string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.stateOf(base).unchecked = time.Now().Add(uncheckedTime)
}

// recordLate records that a server has not given a digest in time. One that has given others
// may only be far away.
func (c *Client) recordLate(base string, waited time.Duration) {
	c.mu.Lock()
	vouched := c.stateOf(base).vouched
	c.mu.Unlock()
	if !vouched || waited >= checkTime {
		c.recordUnchecked(base)
	}
}

// addCredit adds the time that a page took to come to the time that pages may wait, and returns that.
func (c *Client) addCredit(took time.Duration) time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.credit = min(c.credit+took, checkTime)
	return c.credit
}

// spendCredit subtracts the time that a page has waited for the digest of a server.
func (c *Client) spendCredit(base string, waited time.Duration, came bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.credit = max(0, c.credit-waited)
	if came {
		c.stateOf(base).vouched = true
	}
}

// rangeOf returns a span as a Range of positions.
func (c *Client) rangeOf(span window.Span) Range {
	until := c.momentAt(span.To)
	return Range{Since: c.momentAt(span.From), Until: &until}
}

func (k *pageCheck) queryOf(span window.Span) *wire.WindowQuery {
	q, r := k.query, k.c.rangeOf(span)
	q.Since, q.Until = r.Since, r.Until
	return &q
}

// request requests the digest of a span.
func (k *pageCheck) request(ctx context.Context, span window.Span) {
	done := make(chan struct{})
	ctx, k.cancel = context.WithCancel(onlyServer(ctx, k.base, false))
	k.span, k.done = span, done
	go func() {
		defer close(done)
		k.sum, _, k.err = requestWindows(ctx, k.c, k.queryOf(span), func(base string, sum *wire.Window) error {
			return checkBounds(base, k.c.rangeOf(span), sum)
		})
	}()
}

// end ends the request.
func (k *pageCheck) end() {
	if k != nil {
		k.cancel()
		<-k.done
	}
}

// digestOf returns the digest of a span, or false if it does not come in time.
func (k *pageCheck) digestOf(ctx context.Context, span window.Span) (sum wire.Window, ok bool) {
	credit := k.c.addCredit(time.Since(k.began))
	if span != k.span { // the page was cut
		k.end()
		k.request(ctx, span)
	}
	patience := time.NewTimer(credit)
	defer patience.Stop()
	began := time.Now()
	late := false
	select {
	case <-k.done:
	case <-patience.C:
		select {
		case <-k.done: // it was there at once, and there was no time to wait
		default:
			late = true
		}
	case <-ctx.Done():
		return sum, false
	}
	waited := time.Since(began)
	k.c.spendCredit(k.base, waited, !late && k.err == nil)
	switch {
	case late:
		k.c.recordLate(k.base, waited)
	case k.err == nil:
		return k.sum, true
	case ctx.Err() != nil: // nothing is known about the server
	case !errors.As(k.err, new(*ProtocolError)) || !k.c.setAside(k.base, k.err):
		k.c.recordUnchecked(k.base)
	}
	return sum, false
}

// checkPage compares the events that have come of a page with the digest of another server. It
// returns what is to be stored: the page or, if the events are wrong, the part before them and, if
// possible, the right ones. An error means that the rest has to be fetched from another server.
func (c *Client) checkPage(ctx context.Context, o *openPage, p page) ([]page, error) {
	p.base, p.unvouched = o.base, len(c.cfg.Servers) > 1
	span := window.Span{From: o.span.From, To: p.next.ID}
	if o.check == nil {
		return []page{p}, nil
	}
	sum, ok := o.check.digestOf(ctx, span)
	switch {
	case !ok && ctx.Err() != nil:
		return nil, context.Cause(ctx)
	case !ok:
		return []page{p}, nil
	}
	evs, ok := c.withExcepted(ctx, o, p, span)
	if digest, count := window.DigestOf(leavesOf(evs)); !ok || digest == sum.Digest && count == sum.Count {
		if !p.next.Mark.Agrees(sum.To.Mark) {
			p.next.Mark = 0 // or a wrong mark would make other servers refuse the copy
		}
		p.unvouched = !ok
		return []page{p}, nil
	}
	return c.disputePage(ctx, o, p, evs)
}

// withExcepted returns the events of a page together with those that it leaves out, because they
// are held. It reports false if these cannot be read.
func (c *Client) withExcepted(ctx context.Context, o *openPage, p page, span window.Span) ([]event.Event, bool) {
	if len(o.except) == 0 {
		return p.events, true
	}
	evs := slices.Clone(p.events)
	err := c.store.Each(ctx, o.except, span, func(ev *event.Event) error {
		evs = append(evs, *ev)
		return nil
	})
	slices.SortFunc(evs, func(a, b event.Event) int { return cmp.Compare(a.ID, b.ID) })
	return evs, err == nil
}

// leavesOf returns the leaves of events.
func leavesOf(evs []event.Event) []window.Leaf {
	var l window.Leafer
	for i := range evs {
		l.Add(evs[i].ID, evs[i].Time, evs[i].Hash)
	}
	return l.Leaves()
}

// disputePage finds out which server is wrong if a page, whose events with those that are held are
// evs, differs from the digest of another server. It is about the first block that differs.
func (c *Client) disputePage(ctx context.Context, o *openPage, p page, evs []event.Event) ([]page, error) {
	span := window.Span{From: o.span.From, To: p.next.ID}
	topic, ours := c.differingTopic(ctx, o, span, evs)
	d, err := c.newDispute(ctx, topic, span, o.check.base)
	if err != nil {
		return nil, err
	}
	found := differingBlocks(topic, span, ours, d.listOf(), &Verified{})
	if d == nil || len(found) == 0 { // it does not answer, or contradicts its own digest
		c.recordUnchecked(o.check.base)
		return []page{p}, nil
	}
	first := &found[0]
	if len(o.except) == 0 {
		d.hearSender(o.base, first)
	}
	if err := d.findWrong(ctx, found[:1]); err != nil {
		return nil, err
	}
	wrong := d.wrong[o.base]
	if wrong == nil {
		return []page{p}, nil
	}
	before := p.upTo(first.Span.From)
	if len(o.topics) == 1 && len(o.except) == 0 && d.sent != nil {
		return []page{before, *d.sent}, nil
	}
	return []page{before}, wrong
}

// differingTopic returns the first topic of a page in which evs differ from the digest of the other
// server, and the leaves of its events. If no topic does, or the server does not say, it is any.
func (c *Client) differingTopic(ctx context.Context, o *openPage, span window.Span, evs []event.Event) (topic event.Topic, ours []window.Leaf) {
	ctx, cancel := context.WithTimeout(onlyServer(ctx, o.check.base, false), listTime)
	defer cancel()
	for _, topic = range o.topics {
		ours = leavesOf(slices.DeleteFunc(slices.Clone(evs), func(ev event.Event) bool { return !topic.Matches(ev.User, ev.Path) }))
		if len(o.topics) == 1 {
			break
		}
		sum, err := c.requestSum(ctx, topic, c.rangeOf(span))
		if digest, count := window.DigestOf(ours); err != nil || digest != sum.Digest || count != sum.Count {
			break
		}
	}
	return topic, ours
}

// upTo returns the part of p up to a position.
func (p page) upTo(at event.ID) page {
	n, _ := slices.BinarySearchFunc(p.events, at+1, func(ev event.Event, id event.ID) int { return cmp.Compare(ev.ID, id) })
	p.events, p.next, p.size = slices.Clip(p.events[:n]), event.Point{ID: at}, 0
	for i := range p.events {
		p.size += len(p.events[i].Line())
	}
	return p
}
