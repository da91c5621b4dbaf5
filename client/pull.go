package client

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync"
	"time"

	"github.com/rstream-dev/rstream/cache"
	"github.com/rstream-dev/rstream/client/internal/imports"
	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/internal/wire"
	"github.com/rstream-dev/rstream/reconcile"
	"github.com/rstream-dev/rstream/window"
)

// resolve has the server turn the moments of r into positions, once. From then on
// positions travel.
func (c *Client) resolve(ctx context.Context, topics []event.Topic, r Range) (span window.Span, err error) {
	err = c.retry(ctx, func(ctx context.Context, base string) (err error) {
		span, err = c.resolveBy(ctx, base, topics, r)
		return err
	})
	return span, err
}

// resolveBy is resolve by one server, asked once.
func (c *Client) resolveBy(ctx context.Context, base string, topics []event.Topic, r Range) (span window.Span, err error) {
	none := 0
	q := wire.Query{Topics: topics, Since: r.Since, Until: r.Until, Last: r.Last, Limit: &none}
	resp, err := c.get(ctx, base, &q, wire.NDJSON, nil)
	if err != nil {
		return span, err
	}
	defer resp.Body.Close()
	from, ok := wire.PositionIn(resp.Header, wire.HeaderFrom)
	to, ok2 := wire.PositionIn(resp.Header, wire.HeaderTo)
	if !ok || !ok2 || to < from {
		return span, &ProtocolError{base, "did not say which stretch it means"}
	}
	span = window.Span{From: from, To: to}
	return span, c.checkResolved(base, &q, span)
}

// checkResolved refuses other positions than those that were given as such.
func (c *Client) checkResolved(base string, q *wire.Query, span window.Span) error {
	since, given := q.Since.Cursor()
	wrong := given && q.Last == nil && since.ID != span.From
	if q.Until != nil {
		until, given := q.Until.Cursor()
		wrong = wrong || given && until.ID != span.To
	}
	if wrong {
		return &ProtocolError{base, fmt.Sprintf("answered %s, another stretch than was asked for", span)}
	}
	return nil
}

// get asks for events and checks that the answer is ours and 200.
func (c *Client) get(ctx context.Context, base string, q *wire.Query, accept string, header http.Header) (*http.Response, error) {
	if header == nil {
		header = http.Header{}
	}
	header.Set("Accept", accept)
	resp, err := c.askEvents(ctx, base, q.Values().Encode(), header)
	if err != nil {
		return nil, err
	}
	if err := c.checkEvents(base, q, accept, resp); err != nil {
		resp.Body.Close()
		return nil, err
	}
	return resp, nil
}

// checkEvents checks that an answer has the events that q asks for.
func (c *Client) checkEvents(base string, q *wire.Query, accept string, resp *http.Response) error {
	if resp.StatusCode == http.StatusOK {
		return c.checkIsRstream(base, resp.Header, accept)
	}
	if resp.StatusCode < 300 {
		return &ProtocolError{base, fmt.Sprintf("answered %d, although there is more to come", resp.StatusCode)}
	}
	after, _ := q.Since.Cursor()
	return refusal(readStatus(resp), after.ID)
}

// busyPause is how long to wait before asking again whether another process has
// fetched what is missing.
const busyPause = 100 * time.Millisecond

// pullMissing pulls, window by window, what is missing of span, and shows fresh what was
// stored. While it waits for others it shows fresh nothing, now and then: they may
// have stored something.
func (c *Client) pullMissing(ctx context.Context, topics []event.Topic, span window.Span, s *Synced, fresh func([]event.Event) error) error {
	return c.pullPlanned(ctx, topics, span, nil, s, fresh)
}

// pullPlanned is pullMissing that knows, as far as known says, what is missing.
func (c *Client) pullPlanned(ctx context.Context, topics []event.Topic, span window.Span, known *imports.Plan, s *Synced, fresh func([]event.Event) error) error {
	for {
		lease, busy, err := c.claim(ctx, topics, span)
		switch {
		case err != nil:
			return orCause(ctx, storeError(err))
		case busy:
			if err := wait(ctx, busyPause); err != nil {
				return err
			}
			if err := fresh(nil); err != nil {
				return err
			}
			continue
		case lease == nil:
			return nil
		}
		s.Windows++
		// A window that another process has taken over is asked for again: what
		// it has not fetched by then is ours once more.
		if err := c.pull(ctx, topics, lease, known, fresh); err != nil && !errors.Is(err, cache.ErrLost) {
			return err
		}
	}
}

// claim takes the next missing window. It is busy, too, while our own live cursor
// is about to bring what is missing.
func (c *Client) claim(ctx context.Context, topics []event.Topic, span window.Span) (l *cache.Lease, busy bool, err error) {
	coming, from := c.live.bringing(topics)
	if !coming.Empty() {
		held, err := c.store.Held(ctx, topics...)
		if err != nil {
			return nil, false, err
		}
		// What is missing from where the cursor was, before we looked, lies ahead of it.
		if gaps := held.Gaps(span); len(gaps) > 0 && gaps[0].From >= from && gaps[0].From < coming.To {
			return nil, true, nil
		}
	}
	return c.store.Claim(ctx, topics, span)
}

func wait(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// pull fills one window page by page. Whatever ends it, what was read stays held.
func (c *Client) pull(ctx context.Context, topics []event.Topic, lease *cache.Lease, known *imports.Plan, fresh func([]event.Event) error) error {
	b := c.newBackoff()
	for !lease.Span().Empty() {
		err := c.retryWith(ctx, b, func(ctx context.Context, base string) error {
			end, until := known.Knows(lease.Reached())
			if end > lease.Reached() {
				fetch := func(ctx context.Context, topic event.Topic, items []reconcile.Item) ([]event.Event, error) {
					return c.fetchItems(ctx, base, topic, items)
				}
				return c.importer().Assemble(ctx, known, lease, min(end, lease.Span().To), fetch, b.reset, fresh)
			}
			return c.pullPages(ctx, base, topics, lease, min(until, lease.Span().To), b, fresh)
		})
		if err != nil {
			return joinErrors(err, c.giveUp(ctx, lease, err))
		}
	}
	return c.commit(ctx, lease)
}

// commit ends a lease at what it has reached, even if the work was cancelled.
func (c *Client) commit(ctx context.Context, lease *cache.Lease) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), releaseTime)
	defer cancel()
	return storeError(lease.Commit(ctx))
}

// pullPages fetches and stores what comes next of a window, up to until. While a page is
// stored, the next ones are fetched; what has come by then is one transaction. Whatever
// ends it, all that came whole is stored.
func (c *Client) pullPages(ctx context.Context, base string, topics []event.Topic, lease *cache.Lease, until event.ID, b *backoff, fresh func([]event.Event) error) error {
	fetch, stop := context.WithCancel(ctx)
	in, from := newInbox(), lease.Reached()
	var fetching sync.WaitGroup
	fetching.Go(func() { in.end(c.fetchPages(fetch, base, topics, window.Span{From: from, To: until}, in)) })
	defer fetching.Wait()
	defer in.drop()
	defer stop()
	for lease.Reached() < until {
		evs, at, err := in.take()
		if at.ID > lease.Reached() {
			b.reset()
			lease.Marked(at)
			// Even if ctx has ended: what has come need not come again.
			added, failed := lease.Apply(context.WithoutCancel(ctx), evs, at.ID)
			if failed == nil && len(added) > 0 {
				failed = fresh(added)
			}
			if failed != nil {
				return &finalError{failed}
			}
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// fetchPages puts the events of span into in, page by page. What is held there of
// narrower topics is not asked for. Of an answer that is cut off, the events that
// came whole are taken: a connection that never lasts for a page gets on, too.
func (c *Client) fetchPages(ctx context.Context, base string, topics []event.Topic, span window.Span, in *inbox) error {
	for at := span.From; at < span.To; {
		parts, end, err := c.store.Narrower(ctx, topics, at, span.To)
		if err != nil {
			return storeError(err)
		}
		p, err := c.page(ctx, base, topics, parts, window.Span{From: at, To: end})
		if p.next.ID > at && !permanent(err) { // or from a server that cannot be trusted
			in.putPage(p)
		}
		if err != nil {
			return err
		}
		at = p.next.ID
	}
	return nil
}

// releaseTime is how long giving a window up may take after the work was
// cancelled.
const releaseTime = 5 * time.Second

// giveUp lets go of a window. A gap or a cancelled request leaves it to be gone on
// with; what a server will always answer so is noted in it.
func (c *Client) giveUp(ctx context.Context, lease *cache.Lease, cause error) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), releaseTime)
	defer cancel()
	var protocol *ProtocolError
	if errors.As(cause, &protocol) {
		return storeError(lease.Fail(ctx, cause))
	}
	return storeError(lease.Release(ctx))
}

// A page is what has come whole of one answer of GET /events: the events up to
// next.
type page struct {
	events []event.Event
	next   event.Point
	size   int // of their lines
}

// maxPageBytes bounds the events of a page. What a server sends beyond it is asked
// for again. It is a variable for the tests.
var maxPageBytes = 8 << 20

// page asks for the next events of span and checks every one of them. What it
// returns beside an error can be used. A server that does not count the lines of a page
// is asked for pages as JSON, which costs one more request, once.
func (c *Client) page(ctx context.Context, base string, topics []event.Topic, except []event.Topic, span window.Span) (page, error) {
	until := c.at(span.To)
	q := wire.Query{Topics: topics, Except: except, Since: c.at(span.From), Until: &until, Limit: &c.cfg.PageLimit}
	accept := wire.NDJSON
	if c.uncounted.Load() {
		accept = wire.JSON
	}
	p, err := c.pageAs(ctx, base, &q, span, accept)
	if errors.Is(err, errUncounted) {
		c.uncounted.Store(true)
		p, err = c.pageAs(ctx, base, &q, span, wire.JSON)
	}
	return p, err
}

// pageAs is page in one form.
func (c *Client) pageAs(ctx context.Context, base string, q *wire.Query, span window.Span, accept string) (page, error) {
	nothing := page{next: event.Point{ID: span.From}}
	resp, err := c.get(ctx, base, q, accept, nil)
	if err != nil {
		return nothing, err
	}
	defer resp.Body.Close()
	next, err := checkPage(base, span, resp)
	if err != nil {
		return nothing, err
	}
	lines, err := eventsOf(base, resp, accept)
	if err != nil {
		return nothing, err
	}
	p, err := c.readPage(base, q.Topics, lines, span.From, next)
	if errors.As(err, new(*ShortenedError)) {
		return nothing, err // nobody knows which events are missing
	}
	return p, err
}

// readPage reads a page of what follows from, up to next.
func (c *Client) readPage(base string, topics []event.Topic, lines lineSource, from event.ID, next event.Point) (page, error) {
	p := page{next: event.Point{ID: from}}
	for p.size < maxPageBytes {
		line, err := lines.Next()
		if errors.Is(err, io.EOF) {
			p.next = next
			return p, nil
		}
		if err != nil {
			return p, err
		}
		ev, err := c.accept(base, line, topics)
		if err != nil {
			return p, err
		}
		if ev.ID <= p.next.ID || ev.ID > next.ID {
			return p, &ProtocolError{base, fmt.Sprintf("sent event %s, which is not in %s-%s in its order", ev.ID, p.next.ID, next.ID)}
		}
		c.stats.events.Add(1)
		p.next, p.events, p.size = event.Point{ID: ev.ID}, append(p.events, ev), p.size+len(line)
	}
	return p, nil
}

// checkPage refuses a page of another stretch than was asked for.
func checkPage(base string, span window.Span, resp *http.Response) (next event.Point, err error) {
	cursor, ok := wire.CursorIn(resp.Header, wire.HeaderNext)
	next = cursor.Point()
	from, ok2 := wire.PositionIn(resp.Header, wire.HeaderFrom)
	to, ok3 := wire.PositionIn(resp.Header, wire.HeaderTo)
	if !ok || !ok2 || !ok3 || from != span.From || to != span.To || next.ID <= from || next.ID > to {
		return next, &ProtocolError{base, fmt.Sprintf("was asked for %s and answered %s-%s up to %s", span, from, to, next.ID)}
	}
	return next, nil
}

// badLine sorts the errors of reading a line: one that is too long will be so the
// next time.
func badLine(base string, err error) error {
	if errors.Is(err, wire.ErrLineTooLong) {
		return &ProtocolError{base, fmt.Sprintf("answered with a line too long: %v", err)}
	}
	return dropped(base, err)
}

// accept reads a received event: its form, its hash and that it was asked for.
func (c *Client) accept(base string, line []byte, topics []event.Topic) (event.Event, error) {
	ev, err := event.ParseLine(line)
	if err != nil {
		return ev, &ProtocolError{base, fmt.Sprintf("sent a bad event: %v", err)}
	}
	for _, t := range topics {
		if t.Matches(ev.User, ev.Path) {
			return ev, nil
		}
	}
	return ev, &ProtocolError{base, fmt.Sprintf("sent event %s of %s, which was not asked for", ev.ID, ev.Storage())}
}
