package reconcile

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"

	"github.com/rstream-dev/rstream/window"
)

// A Peer sends a request, as encoded by Request.AppendTo, and returns the response, as
// encoded by Response.AppendTo. If the error wraps a FrameError with TooLarge, Negotiate
// tries a cheaper request; any other error ends the negotiation.
type Peer interface {
	Ask(ctx context.Context, request []byte) (response []byte, err error)
}

// A Config configures Negotiate. The zero Config works.
type Config struct {
	// Strategy is the strategy if the sums differ. If it is Auto, the plan picks one.
	// If it does not apply or does not find the whole difference, Exact follows.
	Strategy Strategy

	// MaxRounds is the maximum number of requests before Exact. If zero, 8.
	MaxRounds int

	// Salt returns an unpredictable salt. If nil, crypto/rand is used.
	Salt func() Salt

	// Limits bound the requests that are sent and the responses that are read. The
	// peer may refuse requests because its own limits are lower.
	Limits Limits
}

// maxCorrections is how many times a strategy may fail to find the whole difference before
// Exact follows.
const maxCorrections = 3

// maxExact is the maximum number of requests of Exact. Each brings at least one block.
const maxExact = 256

// A Result is the difference between two sides.
type Result struct {
	// Span is the range of the peer's log, with the end as of the first request.
	Span window.Span

	// Sum is the Sum of the peer's events in Span. A side that pulls Pull and fetches
	// Missing has it, not counting Extra.
	Sum Sum

	// Missing are the events that this side lacks, and Extra those that the peer
	// lacks, in order.
	Missing, Extra []Item

	// Pull are the ranges to pull as a whole. Missing and Extra do not cover them.
	Pull window.Spans

	// Proven reports that the digests agree outside of Pull; if Outcome is Prefix, the
	// peer says so. It is false if all of Span must be pulled.
	Proven bool

	// Outcome is the strategy that ended the negotiation, and Why explains it.
	Outcome Strategy
	Why     string

	// Rounds are the requests, in order.
	Rounds []Round
}

// A Round is one request and its response.
type Round struct {
	Strategy Strategy
	Why      string // why Strategy was picked
	Up, Down int    // bytes of the request and of the response
	Listed   int    // bytes of Down that list missing events
}

// Bytes returns the total bytes of all requests and of all responses, and how many of the
// latter list missing events.
func (r *Result) Bytes() (up, down, listed int) {
	for _, round := range r.Rounds {
		up, down, listed = up+round.Up, down+round.Down, listed+round.Listed
	}
	return up, down, listed
}

// Negotiate finds the events that local and peer lack of each other. Events that are
// appended to either log meanwhile are after Span and not compared.
//
// After an error, nothing is known: a request failed, a response was invalid, or local
// could not be read.
func Negotiate(ctx context.Context, local Set, peer Peer, cfg Config) (*Result, error) {
	if cfg.MaxRounds == 0 {
		cfg.MaxRounds = 8
	}
	if cfg.Salt == nil {
		cfg.Salt = randomSalt
	}
	cfg.Limits = cfg.Limits.orDefaults()
	v, err := newView(local)
	if err != nil {
		return nil, fmt.Errorf("read the local set: %w", err)
	}
	n := &negotiation{Config: cfg, ctx: ctx, peer: peer, view: v, gaps: -1}
	if err := n.runRounds(); err != nil {
		return nil, fmt.Errorf("negotiate %s: %w", local.Span(), err)
	}
	return n.result(), nil
}

func randomSalt() (s Salt) {
	rand.Read(s[:])
	return s
}

type negotiation struct {
	Config
	ctx  context.Context
	peer Peer
	view *view

	theirs      Sum // the peer's, of the range of view
	guess       guess
	held        window.Spans
	gaps        int // bytes of the list of gaps; -1 if there is none
	leastCells  int
	corrections int
	done        bool
	res         Result
}

func (n *negotiation) result() *Result {
	n.res.Missing, n.res.Extra = n.view.added, n.view.sortedExtra()
	return &n.res
}

func (n *negotiation) conclude(by Strategy, format string, args ...any) {
	n.done, n.res.Proven = true, true
	n.res.Outcome, n.res.Why = by, fmt.Sprintf(format, args...)
}

// pullAll ends the negotiation with everything to pull. It drops what was learned: if the
// peer contradicts itself, none of it can be trusted.
func (n *negotiation) pullAll(why string) {
	n.done, n.res.Proven = true, false
	n.res.Outcome, n.res.Why = Pull, why
	n.res.Pull = window.Union(n.res.Span)
	n.view.added, n.view.gone = nil, nil
}

func (n *negotiation) runRounds() error {
	if err := n.hello(); err != nil || n.done {
		return err
	}
	why := ""
	for !n.done && why == "" {
		switch p := n.nextPlan(); {
		case p.strategy == Exact:
			why = p.why
		case len(n.res.Rounds) >= n.MaxRounds:
			why = fmt.Sprintf("%d rounds were not enough", len(n.res.Rounds))
		case n.corrections > maxCorrections:
			why = fmt.Sprintf("%d corrections were not enough", maxCorrections)
		default:
			if err := n.tryPlan(p); refused(err) {
				why = err.Error()
			} else if err != nil {
				return err
			}
		}
	}
	if n.done {
		return nil
	}
	if err := n.exact(why); refused(err) {
		n.pullAll(err.Error())
	} else if err != nil {
		return err
	}
	return nil
}

// refused reports whether the peer or this side refused a frame as too large.
func refused(err error) bool {
	var f *FrameError
	return errors.As(err, &f) && f.TooLarge
}

func (n *negotiation) newRequest() *Request {
	return &Request{Shared: n.view.base.Shared(), Span: n.view.span, Sum: n.view.sum}
}

// askPeer sends one request, as a round of strategy.
func (n *negotiation) askPeer(req *Request, strategy Strategy, why string) (*Response, error) {
	if err := n.ctx.Err(); err != nil {
		return nil, err
	}
	up := req.AppendTo(nil)
	n.res.Rounds = append(n.res.Rounds, Round{Strategy: strategy, Why: why, Up: len(up)})
	down, err := n.peer.Ask(n.ctx, up)
	if err != nil {
		return nil, err
	}
	resp, err := ParseResponse(down, req, n.Limits)
	if err != nil {
		return nil, err
	}
	round := &n.res.Rounds[len(n.res.Rounds)-1]
	round.Down = len(down)
	if len(resp.Missing) > 0 {
		round.Listed = len(appendItems(nil, resp.Missing, req.Shared))
	}
	n.theirs = resp.Sum
	return resp, nil
}

// freeGaps is the most bytes of a list of gaps in the first request.
const freeGaps = 4096

// hello exchanges the sums, which ends most negotiations.
func (n *negotiation) hello() error {
	v := n.view
	req := n.newRequest()
	if err := n.offerGaps(req); err != nil {
		return err
	}
	resp, err := n.askPeer(req, req.Strategy(), "the sums come first")
	if refused(err) && req.body != nil {
		req.body = nil
		resp, err = n.askPeer(req, Summary, "the gaps were refused")
	}
	if err != nil {
		return err
	}
	n.res.Span, n.res.Sum = window.Span{From: v.span.From, To: resp.To}, resp.Sum
	v.span = n.res.Span
	switch {
	case v.sum.Equal(resp.Sum):
		n.conclude(Equal, "both sides have the same %d events", resp.Sum.Count)
		return nil
	case v.sum.Count == 0:
		n.res.Pull = window.Union(n.res.Span)
		n.conclude(Empty, "none of %d events are held", resp.Sum.Count)
		return nil
	case resp.Sum.Count == 0:
		return n.peerEmpty()
	}
	if req.Shared {
		n.narrow(resp)
	}
	if resp.Prefix {
		n.conclude(Prefix, "the first %d of %d events are held", v.sum.Count, resp.Sum.Count)
		return nil
	}
	if n.theirs.Count > n.Limits.Items {
		n.pullAll(fmt.Sprintf("%d events are too many to compare", n.theirs.Count))
		return nil
	}
	n.recount()
	if req.body == nil {
		return n.measureGaps()
	}
	return n.applyResponse(plan{strategy: Gaps, why: "the gaps were sent with the sums"}, req, resp)
}

// offerGaps adds a list of gaps to the first request if it is short and says more than the
// Sum.
func (n *negotiation) offerGaps(req *Request) error {
	if !req.Shared || req.Sum.Count == 0 || n.Strategy != Auto && n.Strategy != Gaps {
		return nil
	}
	held, more, err := n.view.held(freeGaps / 2)
	whole := len(held) == 1 && held[0].From == req.Span.From && held[0].To == req.Sum.Last
	if err != nil || more || whole || len(appendSpans(nil, held)) > freeGaps {
		return err
	}
	req.body = gaps{held}
	return nil
}

// measureGaps measures the size of a list of gaps. A Holder's ranges do not include what
// was learned since, so they are sent only once.
func (n *negotiation) measureGaps() error {
	_, isHolder := n.view.base.(Holder)
	if !n.view.base.Shared() || isHolder && len(n.view.added) > 0 {
		return nil
	}
	held, more, err := n.view.held(maxSpans)
	if err == nil && !more {
		n.held, n.gaps = held, len(appendSpans(nil, held))
	}
	return err
}

func (n *negotiation) peerEmpty() error {
	extra, err := n.view.findItems(func(Item) bool { return true })
	if err != nil {
		return err
	}
	if _, _, err := n.view.learn(nil, extra); err != nil {
		return err
	}
	if !n.view.sum.Equal(n.theirs) {
		n.pullAll("the peer has no events, but the digest of some")
		return nil
	}
	n.conclude(Empty, "the peer has no events")
	return nil
}

// narrow leaves the range after the last held event to be pulled: nothing of it is held.
func (n *negotiation) narrow(resp *Response) {
	last := n.view.sum.Last
	n.res.Pull = window.Union(window.Span{From: last, To: resp.To})
	n.view.span.To = last
	if resp.UpTo != nil {
		n.theirs = *resp.UpTo
	}
}

// recount sets the guess from the counts: the sets differ by at least the difference of
// the counts.
func (n *negotiation) recount() {
	diff := n.diff()
	n.guess = guess{max(0, diff), max(0, -diff)}
}

func (n *negotiation) diff() float64 { return float64(n.theirs.Count) - float64(n.view.sum.Count) }

// nextPlan returns the next plan.
func (n *negotiation) nextPlan() plan {
	count, peer := n.view.sum.Count, n.theirs.Count
	forced := plan{strategy: n.Strategy, why: "the strategy was requested"}
	cannot := func(why string) plan { return plan{strategy: Exact, why: why} }
	switch n.Strategy {
	case Auto:
		return pickPlan(count, peer, n.guess, n.gaps, n.leastCells, n.Limits)
	case Gaps:
		if n.gaps < 0 {
			return cannot("there is no list of gaps to send")
		}
	case List:
		if count > maxList {
			return cannot(fmt.Sprintf("%d hashes are too many for a list", count))
		}
	case Sketch:
		forced.cells = max(n.leastCells, cellsFor(n.guess.total()))
		if forced.cells > n.Limits.Cells {
			return cannot("the difference is too large for a sketch")
		}
	case Bloom:
		forced.up = aloneHashes
		if count >= peer || n.guess.extra >= 0.5 { // the sums differ: some are certainly extra, or may be
			forced.back = aloneHashes
		}
		if bloomBytes(max(count, peer), aloneHashes) > float64(n.Limits.Filter) {
			return cannot("the sets are too large for a filter")
		}
	case Inverse:
		if max(count, peer) > maxSlots {
			return cannot("the sets are too large for an inverse filter")
		}
	}
	return forced
}
