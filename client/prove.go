package client

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"

	"github.com/rstream-dev/rstream/cache"
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
	return fmt.Sprintf("what is held of %s in %s is not what the server has: %d events here, %d there", e.Topic, e.Span, e.Held, e.Server)
}

// maxAnswer bounds the body of an answer that is read as a whole.
const maxAnswer = 8 << 20

// ask makes a GET request for a JSON object.
func (c *Client) ask(ctx context.Context, path string, q url.Values, answer any) error {
	return c.retry(ctx, func(ctx context.Context, base string) error {
		resp, err := c.do(ctx, http.MethodGet, base, path+"?"+q.Encode(), http.Header{"Accept": {wire.JSON}}, nil)
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		if resp.StatusCode != http.StatusOK {
			return refusal(wire.ReadError(resp), event.Beginning)
		}
		if err := c.ours(base, resp.Header, wire.JSON); err != nil {
			return err
		}
		body, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
		if err != nil {
			return err
		}
		if err := json.Unmarshal(body, answer); err != nil {
			return &ProtocolError{base, fmt.Sprintf("answered %s with what is not its form: %v", path, err)}
		}
		return nil
	})
}

// at is a position as a moment of this client's log.
func (c *Client) at(id event.ID) event.Moment { return event.At(event.CursorOf(id, c.store.Log())) }

// sum asks for a stretch as one: its bounds, how many events it has and their
// digest. It also turns the moments of r into positions, once.
func (c *Client) sum(ctx context.Context, topic event.Topic, r Range) (w wire.Window, err error) {
	q := wire.WindowQuery{Topic: topic, Since: r.Since, Until: r.Until, Sum: true}
	if err = c.ask(ctx, "/windows", q.Values(), &w); err != nil {
		return w, err
	}
	return w, c.checkBounds(r, w)
}

// checkBounds refuses an answer about another stretch than was asked.
func (c *Client) checkBounds(r Range, w wire.Window) error {
	wrong := w.To < w.From
	if since, ok := r.Since.Cursor(); ok {
		wrong = wrong || w.From != since.ID
	}
	if r.Until != nil {
		if until, ok := r.Until.Cursor(); ok {
			wrong = wrong || w.To != until.ID
		}
	}
	if wrong {
		return &ProtocolError{c.base(), fmt.Sprintf("was asked about another stretch than %s", w.Span())}
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
			return false, 0, inStore(err)
		}
		leaves, err := c.store.Leaves(ctx, topic, sum.Span())
		if err != nil {
			return false, 0, inStore(err)
		}
		digest, count := window.DigestOf(leaves)
		if digest != sum.Digest || count != sum.Count {
			return false, count, nil
		}
		err = c.store.Prove(ctx, topic, sum.Span(), removals)
		if !errors.Is(err, cache.ErrLost) {
			return err == nil, count, inStore(err)
		}
	}
}

// settle makes a stretch held and proven: by comparison alone if nothing is
// missing, or else by fetching what is. If there are candidates for what is missing, it
// is found out first which events these are.
func (c *Client) settle(ctx context.Context, topic event.Topic, sum wire.Window, s *Synced, fresh func([]event.Event) error) error {
	s.Held = sum.Count // or there is an error
	ok, held, err := c.prove(ctx, topic, sum)
	s.Compared = Comparison{Outcome: reconcile.Equal.String(), Why: fmt.Sprintf("both sides have the same %d", sum.Count)}
	if err == nil && !ok { // what came by file may be all that is missing
		ok, err = c.adoptImported(ctx, topic, sum, s, fresh)
	}
	if err == nil && !ok {
		known, failed := c.compare(ctx, topic, sum, held, s)
		if failed != nil {
			return failed
		}
		if ok, held, err = c.complete(ctx, topic, sum, known, s, fresh); err == nil && ok {
			err = c.dropRest(ctx, topic, sum.Span())
		}
	}
	switch {
	case err != nil:
		return err
	case !ok:
		return &MismatchError{topic, sum.Span(), held, sum.Count}
	}
	s.Imported += s.Compared.Saved
	if fetched := int64(s.Added) - int64(s.Imported); fetched < int64(sum.Count) {
		return inStore(c.store.CountSaved(ctx, int64(sum.Count)-fetched))
	}
	return nil
}

// complete fetches what is missing of a stretch and proves it. If events were removed
// meanwhile they are missing once more, and nobody is to blame for what differs.
func (c *Client) complete(ctx context.Context, topic event.Topic, sum wire.Window, known *placing, s *Synced, fresh func([]event.Event) error) (ok bool, held uint64, err error) {
	for ; ; known = nil {
		before, err := c.store.Removals(ctx)
		if err != nil {
			return false, 0, inStore(err)
		}
		if err := c.fillKnown(ctx, []event.Topic{topic}, sum.Span(), known, s, fresh); err != nil {
			return false, 0, err
		}
		if ok, held, err = c.prove(ctx, topic, sum); err != nil || ok {
			return ok, held, err
		}
		if now, err := c.store.Removals(ctx); err != nil || now == before {
			return false, held, inStore(err)
		}
	}
}

// SyncAt makes the window around a moment held: the bounded stretch that the server
// offers for it. One window is pending at a time; a moment that falls into one that
// was answered before asks nothing.
func (c *Client) SyncAt(ctx context.Context, topic event.Topic, at event.Moment, fresh func([]event.Event) error) (Synced, error) {
	w, err := c.windowAt(ctx, topic, at)
	if err != nil {
		return Synced{}, fmt.Errorf("sync %s at %s: %w", topic, at, err)
	}
	s := Synced{Span: w.Span()}
	if err := c.settle(ctx, topic, w, &s, s.counting(fresh)); err != nil {
		return s, fmt.Errorf("sync %s at %s: %w", topic, at, err)
	}
	return s, nil
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

// windowAt returns the window around a moment. Those who ask at the same time wait
// for each other: the answer of one is often the answer of the next.
func (c *Client) windowAt(ctx context.Context, topic event.Topic, at event.Moment) (w wire.Window, err error) {
	if err := c.pending.lock(ctx); err != nil {
		return w, err
	}
	defer c.pending.unlock()
	if w, ok := c.pending.find(topic, at); ok {
		return w, nil
	}
	end, err := c.store.Pend(ctx, topic, at)
	if err != nil {
		return w, inStore(err)
	}
	q := wire.WindowQuery{Topic: topic, At: &at}
	err = c.ask(ctx, "/windows", q.Values(), &w)
	cleanup, cancel := context.WithTimeout(context.WithoutCancel(ctx), releaseTime)
	defer cancel()
	if err = errors.Join(err, inStore(end(cleanup))); err != nil {
		return w, err
	}
	if id, ok := at.Cursor(); w.To < w.From || ok && (id.ID < w.From || id.ID > w.To) {
		return w, &ProtocolError{c.base(), fmt.Sprintf("was asked for the window around %s and answered %s", at, w.Span())}
	}
	c.pending.keep(topic, w)
	return w, nil
}

// A pendingWindow is the one window whose bounds are being asked for, and those
// that were answered lately.
type pendingWindow struct {
	turn  chan struct{} // holds one token
	known []knownWindow // owned by the holder of the token
}

type knownWindow struct {
	topic event.Topic
	w     wire.Window
}

// maxKnown is how many answered windows are kept.
const maxKnown = 64

func newPending() pendingWindow {
	p := pendingWindow{turn: make(chan struct{}, 1)}
	p.turn <- struct{}{}
	return p
}

func (p *pendingWindow) lock(ctx context.Context) error {
	select {
	case <-p.turn:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (p *pendingWindow) unlock() { p.turn <- struct{}{} }

func (p *pendingWindow) keep(topic event.Topic, w wire.Window) {
	whole := window.BlockSpan(w.To.Block())
	if w.Span() != whole {
		return // the open block goes on growing
	}
	p.known = append(p.known, knownWindow{topic, w})
	p.known = p.known[max(0, len(p.known)-maxKnown):]
}

// find returns an answered window that the moment falls into.
func (p *pendingWindow) find(topic event.Topic, at event.Moment) (wire.Window, bool) {
	for _, k := range p.known {
		if k.topic != topic {
			continue
		}
		if c, ok := at.Cursor(); ok && k.w.From < c.ID && c.ID <= k.w.To {
			return k.w, true
		}
		// At its last time, or before its first event, the window beside it may
		// be the one.
		if t, ok := at.FixedTime(); ok && k.w.Start != nil && k.w.End != nil && *k.w.Start < t && t < *k.w.End {
			return k.w, true
		}
	}
	return wire.Window{}, false
}
