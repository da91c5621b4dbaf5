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

// Resolve asks the server which positions the moments of r are. It fetches nothing.
func (c *Client) Resolve(ctx context.Context, topic event.Topic, r Range) (window.Span, error) {
	span, err := c.resolveRange(ctx, []event.Topic{topic}, r)
	if err = causeIfEnded(ctx, err); err != nil {
		err = fmt.Errorf("find the range of %s: %w", topic, err)
	}
	return span, err
}

// resolveRange asks the server to resolve the moments of r to positions, once. All later
// requests use the positions.
func (c *Client) resolveRange(ctx context.Context, topics []event.Topic, r Range) (span window.Span, err error) {
	err = c.tryServers(ctx, func(ctx context.Context) (err error) {
		span, err = c.resolveOnce(ctx, topics, r)
		return err
	})
	return span, err
}

// resolveOnce is resolveRange without retries.
func (c *Client) resolveOnce(ctx context.Context, topics []event.Topic, r Range) (span window.Span, err error) {
	none := 0
	q := wire.Query{Topics: topics, Since: r.Since, Until: r.Until, Last: r.Last, Limit: &none}
	resp, err := c.requestEvents(ctx, &q, wire.NDJSON, nil)
	if err != nil {
		return span, err
	}
	defer resp.Body.Close()
	from, ok := wire.PositionIn(resp.Header, wire.HeaderFrom)
	to, ok2 := wire.PositionIn(resp.Header, wire.HeaderTo)
	if !ok || !ok2 || to < from {
		return span, &ProtocolError{resp.base, "did not say which range it means"}
	}
	span = window.Span{From: from, To: to}
	return span, c.checkResolved(resp.base, &q, span)
}

// checkResolved refuses a span that differs from the positions in the query.
func (c *Client) checkResolved(base string, q *wire.Query, span window.Span) error {
	since, given := q.Since.Cursor()
	wrong := given && q.Last == nil && since.ID != span.From
	if q.Until != nil {
		until, given := q.Until.Cursor()
		wrong = wrong || given && until.ID != span.To
	}
	if wrong {
		return &ProtocolError{base, fmt.Sprintf("answered about %s, which is not the range requested", span)}
	}
	return nil
}

// requestEvents requests events and checks that the response is a 200 from our log.
func (c *Client) requestEvents(ctx context.Context, q *wire.Query, accept string, header http.Header) (*serverAnswer, error) {
	if header == nil {
		header = http.Header{}
	}
	header.Set("Accept", accept)
	resp, err := c.askEvents(ctx, q.Values().Encode(), header)
	if err != nil {
		return nil, err
	}
	if err := c.checkEvents(resp.base, q, accept, resp.Response); err != nil {
		resp.Body.Close()
		return nil, err
	}
	return resp, nil
}

// checkEvents checks that a response has the events that q requests.
func (c *Client) checkEvents(base string, q *wire.Query, accept string, resp *http.Response) error {
	if resp.StatusCode == http.StatusOK {
		return c.checkIsRstream(base, resp.Header, accept)
	}
	if resp.StatusCode < 300 {
		return &ProtocolError{base, fmt.Sprintf("answered %d instead of 200", resp.StatusCode)}
	}
	after, _ := q.Since.Cursor()
	return refusalError(readStatus(resp), after.ID)
}

// busyPause is how long to wait before checking again whether another process has
// fetched the missing events.
const busyPause = 100 * time.Millisecond

// pullMissing pulls the missing events of span, window by window, and calls fresh with
// the events that it stores. While it waits for other processes it calls fresh without
// events from time to time, because they may have stored some.
func (c *Client) pullMissing(ctx context.Context, topics []event.Topic, span window.Span, s *Synced, fresh func([]event.Event) error) error {
	return c.pullPlanned(ctx, topics, span, nil, s, fresh)
}

// pullPlanned is pullMissing with a plan: as far as known covers the span, it determines
// which events are missing.
func (c *Client) pullPlanned(ctx context.Context, topics []event.Topic, span window.Span, known *imports.Plan, s *Synced, fresh func([]event.Event) error) error {
	for {
		lease, busy, err := c.claimMissing(ctx, topics, span)
		switch {
		case err != nil:
			return orCause(ctx, storeError(err))
		case busy:
			if err := waitFor(ctx, busyPause); err != nil {
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
		all := lease.Span() == span
		err = c.pullWindow(ctx, topics, lease, known, fresh)
		switch {
		case err == nil && all:
			return nil
		case err != nil && !errors.Is(err, cache.ErrLost):
			return err
		}
		// If another process has taken the window over, claim again: the part that it
		// has not fetched by then is ours again.
	}
}

// claimMissing claims the next missing window. It also reports busy while our own live
// cursor is about to bring the missing events.
func (c *Client) claimMissing(ctx context.Context, topics []event.Topic, span window.Span) (l *cache.Lease, busy bool, err error) {
	coming, from := c.live.comingRange(topics)
	if !coming.Empty() {
		held, err := c.store.Held(ctx, topics...)
		if err != nil {
			return nil, false, err
		}
		// A gap that begins at or after the earlier position of the cursor is ahead of it.
		if gaps := held.Gaps(span); len(gaps) > 0 && gaps[0].From >= from && gaps[0].From < coming.To {
			return nil, true, nil
		}
	}
	return c.store.Claim(ctx, topics, span)
}

// pullWindow fills one window page by page. However it ends, the events received stay held.
func (c *Client) pullWindow(ctx context.Context, topics []event.Topic, lease *cache.Lease, known *imports.Plan, fresh func([]event.Event) error) error {
	b := c.newBackoff()
	for !lease.Span().Empty() {
		err := c.retryWith(ctx, b, func(ctx context.Context) error {
			end, until := known.Knows(lease.Reached())
			if end > lease.Reached() {
				fetch := func(ctx context.Context, topic event.Topic, items []reconcile.Item) ([]event.Event, error) {
					return c.fetchItems(ctx, topic, items)
				}
				return c.importer().Assemble(ctx, known, lease, min(end, lease.Span().To), fetch, b.resetPauses, fresh)
			}
			return c.pullPages(ctx, topics, lease, min(until, lease.Span().To), b, fresh)
		})
		if err != nil {
			return joinErrors(err, c.giveUp(ctx, lease, err))
		}
	}
	return c.commitLease(ctx, lease)
}

// commitLease ends a lease at the position it has reached, even if the work was cancelled.
func (c *Client) commitLease(ctx context.Context, lease *cache.Lease) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), releaseTime)
	defer cancel()
	return storeError(lease.Commit(ctx))
}

// pullPages fetches and stores the next part of a window, up to until. While it stores a
// page it fetches the next ones; all that have arrived by then are one transaction.
// However it ends, all events that came whole are stored.
func (c *Client) pullPages(ctx context.Context, topics []event.Topic, lease *cache.Lease, until event.ID, b *backoff, fresh func([]event.Event) error) error {
	fetch, stop := context.WithCancel(ctx)
	in, from := newInbox(), lease.Reached()
	var fetching sync.WaitGroup
	fetching.Go(func() { in.endSteps(c.fetchPages(fetch, topics, window.Span{From: from, To: until}, in)) })
	defer fetching.Wait()
	defer in.dropSteps()
	defer stop()
	for lease.Reached() < until {
		evs, at, err := in.takeSteps()
		if at.ID > lease.Reached() {
			b.resetPauses()
			lease.Marked(at)
			lease.Distrust(!in.isVouched())
			// Even if ctx has ended: received events need not be fetched again.
			added, failed := lease.Apply(context.WithoutCancel(ctx), evs, at.ID)
			if failed == nil && len(added) > 0 {
				failed = fresh(added)
			}
			if failed != nil {
				return c.conflictError(failed, in.senderOf)
			}
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// conflictError returns an error of the store or, if it is about a proven event of which a server
// has sent another one, and there are other servers, the error of that server.
func (c *Client) conflictError(err error, senderOf func(event.ID) string) error {
	var conflict *cache.ConflictError
	if !errors.As(err, &conflict) {
		return storeError(err)
	}
	base := senderOf(conflict.ID)
	wrong := &ProtocolError{base, fmt.Sprintf("sent event %s, which differs from the proven one", conflict.ID)}
	if base == "" || !c.setAside(base, wrong) {
		return storeError(err)
	}
	return wrong
}

// fetchPages puts the events of span into in, page by page. While it parses a page, the server
// prepares the next one. If a response is cut off, the events that came whole are used, so that
// there is progress even if no connection lasts for a page.
func (c *Client) fetchPages(ctx context.Context, topics []event.Topic, span window.Span, in *inbox) error {
	ctx, cancel := context.WithCancel(ctx)
	var coming chan *openPage // the next page, or nil
	defer func() {
		cancel()
		if coming != nil {
			(<-coming).drop()
		}
	}()
	open := func(ctx context.Context, from event.ID) *openPage {
		return c.openNext(ctx, topics, window.Span{From: from, To: span.To})
	}
	for at := span.From; at < span.To; {
		var o *openPage
		if coming != nil {
			o, coming = <-coming, nil
		}
		if o == nil || o.span.From != at || c.isOfLiar(o) { // the page before has ended early, or was wrong
			o.drop()
			o = open(ctx, at)
		}
		// If there is no room for this page, nobody knows when the next one would be read.
		if o.err == nil && o.next.ID < span.To && in.hasRoom() {
			ahead := make(chan *openPage, 1)
			go func() { ahead <- open(ctx, o.next.ID) }()
			coming = ahead
		}
		p, err := c.readPage(o)
		if p.next.ID > at && !permanent(err) { // after a permanent error the server cannot be trusted
			var wrong error
			if at, wrong = c.putChecked(ctx, o, p, in); wrong != nil {
				err = wrong
			}
		}
		o.check.end()
		if err != nil {
			return err
		}
	}
	return nil
}

// putChecked puts what has come of a page into in, once it was compared with the digest of another
// server, and returns how far that goes.
func (c *Client) putChecked(ctx context.Context, o *openPage, p page, in *inbox) (at event.ID, err error) {
	parts, err := c.checkPage(ctx, o, p)
	at = o.span.From
	for _, part := range parts {
		if part.next.ID > at {
			in.putPage(part)
			if len(o.except) == 0 { // or it would answer for events that others have sent
				c.recordSupply(part.base, o.topics, window.Span{From: at, To: part.next.ID})
			}
			at = part.next.ID
		}
	}
	return at, err
}

// isOfLiar reports whether a page comes from a server that was set aside.
func (c *Client) isOfLiar(o *openPage) bool {
	return o.err == nil && len(c.cfg.Servers) > 1 && c.isAside(o.base)
}

// releaseTime is how long releasing a window may take after the work was cancelled. It is a
// variable for the tests.
var releaseTime = 5 * time.Second

// giveUp releases a window. After a gap or a cancelled request another call can continue
// it. An error that the server would repeat is stored in it; the cause for which ctx ended is
// not, since it may be the error of another stream.
func (c *Client) giveUp(ctx context.Context, lease *cache.Lease, cause error) error {
	cleanup, cancel := context.WithTimeout(context.WithoutCancel(ctx), releaseTime)
	defer cancel()
	if ctx.Err() == nil && errors.As(cause, new(*ProtocolError)) {
		return storeError(lease.Fail(cleanup, cause))
	}
	return storeError(lease.Release(cleanup))
}

// A page is the whole events of one response of GET /events. They are complete up to
// next.
type page struct {
	base   string // the server that has sent them, if it matters
	events []event.Event
	next   event.Point
	size   int // of their lines

	unvouched bool // another server was to vouch for them, and did not
}

// maxPageBytes bounds the events of a page. Events that a server sends beyond it are
// requested again. It is a variable for the tests.
var maxPageBytes = 8 << 20

// An openPage is a response whose events are still to be read.
type openPage struct {
	base   string
	topics []event.Topic
	except []event.Topic // held, and left out
	span   window.Span   // that was requested
	next   event.Point   // where the events end
	check  *pageCheck    // nil if there is none
	lines  lineSource
	body   io.Closer
	err    error // if not nil, there are no events, and there is nothing to close
}

func (o *openPage) close() {
	if o != nil && o.err == nil {
		o.body.Close()
	}
}

// drop closes a page that is not used.
func (o *openPage) drop() {
	if o != nil {
		o.close()
		o.check.end()
	}
}

// openNext requests the next events of span, except those that are held for narrower topics. If
// there are several servers, it also requests their digest from another one.
func (c *Client) openNext(ctx context.Context, topics []event.Topic, span window.Span) *openPage {
	parts, end, err := c.store.Narrower(ctx, topics, span.From, span.To)
	if err != nil {
		return &openPage{span: span, err: storeError(err)}
	}
	o := c.requestPage(ctx, topics, parts, window.Span{From: span.From, To: end})
	o.check = c.startCheck(ctx, o)
	return o
}

// requestPage requests the next events of span. If the server does not count the lines of a
// page, requestPage requests JSON instead, which costs one additional request, once.
func (c *Client) requestPage(ctx context.Context, topics []event.Topic, except []event.Topic, span window.Span) *openPage {
	until := c.momentAt(span.To)
	q := wire.Query{Topics: topics, Except: except, Since: c.momentAt(span.From), Until: &until, Limit: &c.cfg.PageLimit}
	accept := wire.NDJSON
	if c.uncounted.Load() {
		accept = wire.JSON
	}
	o := c.requestPageAs(ctx, &q, span, accept)
	if errors.Is(o.err, errUncounted) {
		c.uncounted.Store(true)
		o = c.requestPageAs(ctx, &q, span, wire.JSON)
	}
	return o
}

// requestPageAs is requestPage in one format.
func (c *Client) requestPageAs(ctx context.Context, q *wire.Query, span window.Span, accept string) *openPage {
	o := &openPage{topics: q.Topics, except: q.Except, span: span}
	resp, err := c.requestEvents(ctx, q, accept, nil)
	if err != nil {
		o.err = err
		return o
	}
	o.base = resp.base
	if o.next, o.err = checkPageHeader(o.base, span, resp.Response); o.err == nil {
		o.lines, o.err = eventsOf(o.base, resp.Response, accept)
	}
	o.body = resp.Body
	if o.err != nil {
		resp.Body.Close()
	}
	return o
}

// readPage reads the events of a response and checks each of them. The page that it returns with
// an error can be used.
func (c *Client) readPage(o *openPage) (page, error) {
	nothing := page{next: event.Point{ID: o.span.From}}
	if o.err != nil {
		return nothing, o.err
	}
	defer o.close()
	p, err := c.parsePage(o.base, o.topics, o.lines, o.span.From, o.next)
	if errors.As(err, new(*ShortenedError)) {
		return nothing, err // it is not known which events are missing
	}
	return p, err
}

// parsePage reads a page of the events after from, up to next.
func (c *Client) parsePage(base string, topics []event.Topic, lines lineSource, from event.ID, next event.Point) (page, error) {
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
		ev, err := c.parseReceived(base, line, topics)
		if err != nil {
			return p, err
		}
		if ev.ID <= p.next.ID || ev.ID > next.ID {
			return p, &ProtocolError{base, fmt.Sprintf("sent event %s out of order or outside %s-%s", ev.ID, p.next.ID, next.ID)}
		}
		c.stats.events.Add(1)
		p.next, p.events, p.size = event.Point{ID: ev.ID}, append(p.events, ev), p.size+len(line)
	}
	return p, nil
}

// checkPageHeader refuses a page of a range other than the one requested.
func checkPageHeader(base string, span window.Span, resp *http.Response) (next event.Point, err error) {
	cursor, ok := wire.CursorIn(resp.Header, wire.HeaderNext)
	next = cursor.Point()
	from, ok2 := wire.PositionIn(resp.Header, wire.HeaderFrom)
	to, ok3 := wire.PositionIn(resp.Header, wire.HeaderTo)
	if !ok || !ok2 || !ok3 || from != span.From || to != span.To || next.ID <= from || next.ID > to {
		return next, &ProtocolError{base, fmt.Sprintf("was asked for %s and answered %s-%s up to %s", span, from, to, next.ID)}
	}
	return next, nil
}

// badLine returns the error for a line that could not be read. If the line is too long the
// error is permanent: it would be too long again.
func badLine(base string, err error) error {
	if errors.Is(err, wire.ErrLineTooLong) {
		return &ProtocolError{base, fmt.Sprintf("sent a line that is too long: %v", err)}
	}
	return droppedError(base, err)
}

// parseReceived parses a received event and checks its form, its hash and that it was
// requested.
func (c *Client) parseReceived(base string, line []byte, topics []event.Topic) (event.Event, error) {
	ev, err := event.ParseLine(line)
	if err != nil {
		return ev, &ProtocolError{base, fmt.Sprintf("sent a bad event: %v", err)}
	}
	for _, t := range topics {
		if t.Matches(ev.User, ev.Path) {
			return ev, nil
		}
	}
	return ev, &ProtocolError{base, fmt.Sprintf("sent event %s of %s, which was not requested", ev.ID, ev.Storage())}
}
