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

// A MismatchError says that what is stored of a stretch is not what the server
// says it has, although all of the stretch was received.
type MismatchError struct {
	Topic  event.Topic
	Span   window.Span
	Held   uint64 // events here
	Server uint64 // events there
}

func (e *MismatchError) Error() string {
	return fmt.Sprintf("the copy of %s in %s differs from the server: %d events here, %d there", e.Topic, e.Span, e.Held, e.Server)
}

// maxAnswer bounds the body of an answer that is read as a whole.
const maxAnswer = 8 << 20

// ask asks about windows.
func (c *Client) ask(ctx context.Context, q *wire.WindowQuery, answer any) error {
	return c.retry(ctx, func(ctx context.Context, base string) error {
		_, err := c.askOnce(ctx, base, q, answer)
		return err
	})
}

// askOnce is ask of one server. It also returns the answer as it came.
func (c *Client) askOnce(ctx context.Context, base string, q *wire.WindowQuery, answer any) (body []byte, err error) {
	resp, err := c.do(ctx, http.MethodGet, base, "/windows?"+q.Values().Encode(), http.Header{"Accept": {wire.JSON}}, nil)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		after, _ := q.Since.Cursor()
		if q.At != nil {
			after, _ = q.At.Cursor()
		}
		return nil, refusal(readStatus(resp), after.ID)
	}
	if err := c.checkIsRstream(base, resp.Header, wire.JSON); err != nil {
		return nil, err
	}
	return readObject(base, "/windows", resp.Body, answer)
}

// at is a position as a moment of this client's log.
func (c *Client) at(id event.ID) event.Moment { return event.At(event.CursorOf(id, c.store.Log())) }

// sum asks for a stretch as one: its bounds, how many events it has and their
// digest. It also turns the moments of r into positions, once.
func (c *Client) sum(ctx context.Context, topic event.Topic, r Range) (w wire.Window, err error) {
	q := wire.WindowQuery{Topic: topic, Since: r.Since, Until: r.Until, Sum: true}
	if err = c.ask(ctx, &q, &w); err != nil {
		return w, err
	}
	return w, c.checkBounds(r, w)
}

// checkBounds refuses an answer about another stretch than was asked.
func (c *Client) checkBounds(r Range, w wire.Window) error {
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
		return &ProtocolError{c.base(), fmt.Sprintf("answered about another range than %s", span)}
	}
	return nil
}

// prove compares what is stored of a stretch with what the server says of it. If
// they agree, all of the stretch is held from now on, however it came here, and
// proven.
func (c *Client) prove(ctx context.Context, topic event.Topic, sum wire.Window) (ok bool, held uint64, err error) {
	for {
		removals, err := c.store.Removals(ctx)
		if err != nil {
			return false, 0, storeError(err)
		}
		leaves, err := c.leaves(ctx, topic, sum.Span())
		if err != nil {
			return false, 0, storeError(err)
		}
		digest, count := window.DigestOf(leaves)
		if digest != sum.Digest || count != sum.Count {
			return false, count, nil
		}
		err = c.store.Prove(ctx, topic, sum.Span(), removals, sum.To.Mark)
		if !errors.Is(err, cache.ErrLost) {
			return err == nil, count, storeError(err)
		}
	}
}

// ensureProven makes a stretch held and proven: by comparison alone if nothing is
// missing, or else by fetching what is. If there are candidates for what is missing, it
// is found out first which events these are. Blocks that differ although all of the stretch
// is held are fetched once more.
func (c *Client) ensureProven(ctx context.Context, topic event.Topic, sum wire.Window, s *Synced, fresh func([]event.Event) error) error {
	s.Held = sum.Count // or there is an error
	ok, held, err := c.prove(ctx, topic, sum)
	found := imports.Comparison{Outcome: reconcile.Equal.String(), Why: fmt.Sprintf("both sides have the same %d events", sum.Count)}
	defer func() { s.Compared = Comparison(found) }()
	if err == nil && !ok { // what came by file may be all that is missing
		ok, err = c.adoptImported(ctx, topic, sum, s, fresh)
	}
	if err == nil && !ok {
		known, failed := c.importer().Compare(ctx, topic, sum, held, &found)
		if failed != nil {
			return failed
		}
		ok, held, err = c.pullAndProve(ctx, topic, sum, known, s, fresh)
		if err == nil && !ok {
			ok, held, err = c.fetchAgain(ctx, topic, sum, fresh)
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
	if err := c.noteTimes(ctx, sum); err != nil {
		return err
	}
	if fetched := int64(s.Added) - int64(s.Imported); fetched < int64(sum.Count) {
		return storeError(c.store.CountSaved(ctx, int64(sum.Count)-fetched))
	}
	return nil
}

// noteTimes keeps what the server said of the times at the bounds of a stretch.
func (c *Client) noteTimes(ctx context.Context, sum wire.Window) error {
	times := map[event.ID]event.Time{}
	if sum.Start != nil {
		times[sum.From.ID] = *sum.Start
	}
	if sum.End != nil {
		times[sum.To.ID] = *sum.End
	}
	return storeError(c.store.NoteTimes(ctx, times))
}

// pullAndProve fetches what is missing of a stretch and proves it. If events were removed
// meanwhile they are missing once more, and nobody is to blame for what differs.
func (c *Client) pullAndProve(ctx context.Context, topic event.Topic, sum wire.Window, known *imports.Plan, s *Synced, fresh func([]event.Event) error) (ok bool, held uint64, err error) {
	for ; ; known = nil {
		before, err := c.store.Removals(ctx)
		if err != nil {
			return false, 0, storeError(err)
		}
		if err := c.pullPlanned(ctx, []event.Topic{topic}, sum.Span(), known, s, fresh); err != nil {
			return false, 0, err
		}
		if ok, held, err = c.prove(ctx, topic, sum); err != nil || ok {
			return ok, held, err
		}
		if now, err := c.store.Removals(ctx); err != nil || now == before {
			return false, held, storeError(err)
		}
	}
}

// counting counts what is fresh and passes it on, if it is anything.
func (s *Synced) counting(fresh func([]event.Event) error) func([]event.Event) error {
	return func(evs []event.Event) error {
		s.Added += len(evs)
		if fresh == nil || len(evs) == 0 {
			return nil
		}
		return fresh(evs)
	}
}
