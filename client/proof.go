package client

import (
	"context"
	"errors"
	"fmt"
	"net/http"

	"github.com/rstream-dev/rstream/cache"
	"github.com/rstream-dev/rstream/client/internal/imports"
	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/internal/wire"
	"github.com/rstream-dev/rstream/reconcile"
	"github.com/rstream-dev/rstream/window"
)

// A MismatchError reports that the copy differs from the server in a range, although all
// of the range was received.
type MismatchError struct {
	Topic  event.Topic
	Span   window.Span
	Held   uint64 // events in the copy
	Server uint64 // events on the server
}

func (e *MismatchError) Error() string {
	return fmt.Sprintf("the copy of %s in %s differs from the server: %d events here, %d there", e.Topic, e.Span, e.Held, e.Server)
}

// maxAnswer bounds the body of a response that is read as a whole, in bytes.
const maxAnswer = 8 << 20

// requestWindows requests windows, and returns the server that answered. If check is not nil,
// it may refuse an answer that is otherwise valid. The answer, a wire.Window or a
// wire.WindowList, has nothing of a refused one.
func requestWindows[T any](ctx context.Context, c *Client, q *wire.WindowQuery, check func(base string, answer *T) error) (answer T, base string, err error) {
	err = c.tryServers(ctx, func(ctx context.Context) (err error) {
		if answer, base, _, err = askOnce[T](ctx, c, q); err == nil && check != nil {
			err = check(base, &answer)
		}
		return err
	})
	return answer, base, err
}

// askOnce is requestWindows without retries. It also returns the response body.
func askOnce[T any](ctx context.Context, c *Client, q *wire.WindowQuery) (answer T, base string, body []byte, err error) {
	resp, err := c.askServers(ctx, http.MethodGet, "/windows?"+q.Values().Encode(), http.Header{"Accept": {wire.JSON}}, nil)
	if err != nil {
		return answer, "", nil, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		after, _ := q.Since.Cursor()
		if q.At != nil {
			after, _ = q.At.Cursor()
		}
		return answer, "", nil, refusalError(readStatus(resp.Response), after.ID)
	}
	if err := c.checkIsRstream(resp.base, resp.Header, wire.JSON); err != nil {
		return answer, "", nil, err
	}
	body, err = readObject(resp.base, "/windows", resp.Body, &answer)
	if w, ok := any(&answer).(*wire.Window); ok && err == nil {
		err = checkEnd(resp.base, resp.Header, w)
	}
	return answer, resp.base, body, err
}

// checkEnd refuses a window that ends after the head of its log: its digest may equal that
// of the held events, but nobody knows what will come before its end.
func checkEnd(base string, header http.Header, w *wire.Window) error {
	if head, ok := wire.PositionIn(header, wire.HeaderHead); ok && w.To.ID > head {
		return &ProtocolError{base, fmt.Sprintf("answered about %s, although its log ends at %s", w.Span(), head)}
	}
	return nil
}

// momentAt returns a position as a moment of this client's log.
func (c *Client) momentAt(id event.ID) event.Moment {
	return event.At(event.CursorOf(id, c.store.Log()))
}

// requestSum requests the sum of a range: its bounds, the number of its events and their
// digest. The server also resolves the moments of r to positions, once.
func (c *Client) requestSum(ctx context.Context, topic event.Topic, r Range) (w wire.Window, err error) {
	w, _, err = c.requestSumBy(ctx, topic, r)
	return w, err
}

// requestSumBy is requestSum that also returns the server that answered.
func (c *Client) requestSumBy(ctx context.Context, topic event.Topic, r Range) (w wire.Window, base string, err error) {
	q := wire.WindowQuery{Topic: topic, Since: r.Since, Until: r.Until, Sum: true}
	return requestWindows(c.preferFirst(ctx), c, &q, func(base string, w *wire.Window) error { return checkBounds(base, r, w) })
}

// checkBounds refuses an answer about a range other than the one requested.
func checkBounds(base string, r Range, w *wire.Window) error {
	span := w.Span()
	wrong := span.To < span.From
	if since, ok := r.Since.Cursor(); ok {
		wrong = wrong || span.From != since.ID
	}
	if r.Until != nil {
		if until, ok := r.Until.Cursor(); ok {
			wrong = wrong || span.To != until.ID
		}
	}
	if wrong {
		return &ProtocolError{base, fmt.Sprintf("answered about %s, which is not the range requested", span)}
	}
	return nil
}

// proveRange compares the stored events of a range with the server's digest. If they agree,
// all of the range is held and proven from now on, however its events came here.
func (c *Client) proveRange(ctx context.Context, topic event.Topic, sum wire.Window) (ok bool, held uint64, err error) {
	for {
		removals, err := c.store.Removals(ctx)
		if err != nil {
			return false, 0, storeError(err)
		}
		leaves, err := c.storedLeaves(ctx, topic, sum.Span())
		if err != nil {
			return false, 0, storeError(err)
		}
		digest, count := window.DigestOf(leaves)
		if digest != sum.Digest || count != sum.Count {
			return false, count, nil
		}
		err = c.store.ProveAll(ctx, []cache.Proof{c.proofOf(topic, sum)}, removals)
		if !errors.Is(err, cache.ErrLost) {
			return err == nil, count, storeError(err)
		}
	}
}

// proofOf returns the proof of a range whose digest has agreed with sum.
func (c *Client) proofOf(topic event.Topic, sum wire.Window) cache.Proof {
	return cache.Proof{Topic: topic, Span: sum.Span(), Mark: c.markOf(sum), Times: timesOf(sum)}
}

// markOf returns the mark of the end of a proven range. The word of one of several servers is not
// enough: with a wrong mark the others would refuse the copy.
func (c *Client) markOf(sum wire.Window) event.Mark {
	if len(c.cfg.Servers) > 1 {
		return 0
	}
	return sum.To.Mark
}

// ensureProven makes a range held and proven: by comparison alone if nothing is missing,
// otherwise by fetching the missing events. If there are candidates, it determines first
// which events are missing. Blocks that differ although all of the range is held are
// fetched once more, of the server that has sent sum.
func (c *Client) ensureProven(ctx context.Context, topic event.Topic, sum wire.Window, from string, group *TopicGroup, s *Synced, fresh func([]event.Event) error) error {
	s.Held = sum.Count // or there is an error
	ok, held, err := c.proveRange(ctx, topic, sum)
	found := imports.Comparison{Outcome: reconcile.Equal.String(), Why: fmt.Sprintf("both sides have the same %d events", sum.Count)}
	defer func() { s.Compared = Comparison(found) }()
	if pulled, before := group.pulled(topic); before || s.Windows > 0 && sum.Count > 0 {
		found = pulled
	}
	if err == nil && !ok {
		fresh = c.reporting(SyncProgress{Topic: topic, Span: sum.Span(), Done: held, Total: sum.Count}, fresh)
	}
	if err == nil && !ok { // the imported events may be all that is missing
		ok, err = c.adoptImported(ctx, topic, sum, s, fresh)
	}
	if err == nil && !ok {
		known, failed := c.importer().Compare(ctx, topic, sum, held, &found)
		if failed != nil {
			return failed
		}
		if err = c.pullGroup(ctx, group, topic, sum.Span(), s, fresh); err != nil {
			return err
		}
		ok, held, err = c.pullAndProve(ctx, topic, sum, known, s, fresh)
		if err == nil && !ok {
			ok, held, err = c.fetchAgain(ctx, topic, sum, from, fresh)
		}
		if err == nil && ok {
			err = c.importer().DropRest(ctx, topic, sum.Span())
		}
	}
	switch {
	case err != nil:
		return err
	case !ok:
		return &MismatchError{topic, sum.Span(), held, sum.Count}
	}
	s.Imported += found.Saved
	if err := c.store.NoteTimes(ctx, timesOf(sum)); err != nil {
		return storeError(err)
	}
	return c.countSaved(ctx, topic, sum, group, s)
}

// reporting returns fresh, followed by a report of how many events are held.
func (c *Client) reporting(p SyncProgress, fresh func([]event.Event) error) func([]event.Event) error {
	p.Reached = p.Span.From
	c.cfg.OnProgress(p)
	return func(evs []event.Event) error {
		err := fresh(evs)
		p.Done += uint64(len(evs))
		if p.Total > 0 {
			p.Done = min(p.Done, p.Total)
		}
		if len(evs) > 0 {
			p.Reached = evs[len(evs)-1].ID
		}
		c.cfg.OnProgress(p)
		return err
	}
}

// countSaved counts the events of a proven range that did not have to be fetched.
func (c *Client) countSaved(ctx context.Context, topic event.Topic, sum wire.Window, group *TopicGroup, s *Synced) error {
	if fetched := int64(s.Added+group.fetched(topic)) - int64(s.Imported); fetched < int64(sum.Count) {
		return storeError(c.store.CountSaved(ctx, int64(sum.Count)-fetched))
	}
	return nil
}

// timesOf returns the times that the server reported for the bounds of ranges.
func timesOf(sums ...wire.Window) map[event.ID]event.Time {
	times := map[event.ID]event.Time{}
	for i := range sums {
		sum := &sums[i]
		if sum.Start != nil {
			times[sum.From.ID] = *sum.Start
		}
		if sum.End != nil {
			times[sum.To.ID] = *sum.End
		}
	}
	return times
}

// pullAndProve fetches the missing events of a range and proves it. If events were
// removed meanwhile, it tries again: they are missing again, so a difference is not an
// error.
func (c *Client) pullAndProve(ctx context.Context, topic event.Topic, sum wire.Window, known *imports.Plan, s *Synced, fresh func([]event.Event) error) (ok bool, held uint64, err error) {
	for ; ; known = nil {
		before, err := c.store.Removals(ctx)
		if err != nil {
			return false, 0, storeError(err)
		}
		if err := c.pullPlanned(ctx, []event.Topic{topic}, sum.Span(), known, s, fresh); err != nil {
			return false, 0, err
		}
		if ok, held, err = c.proveRange(ctx, topic, sum); err != nil || ok {
			return ok, held, err
		}
		if now, err := c.store.Removals(ctx); err != nil || now == before {
			return false, held, storeError(err)
		}
	}
}

// counting returns fresh, which may be nil, preceded by counting the events. It does not
// call fresh without events.
func (s *Synced) counting(fresh func([]event.Event) error) func([]event.Event) error {
	return func(evs []event.Event) error {
		s.Added += len(evs)
		if fresh == nil || len(evs) == 0 {
			return nil
		}
		return fresh(evs)
	}
}
