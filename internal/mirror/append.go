package mirror

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"time"

	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/internal/wire"
)

// unavailable returns the response to a request that the mirror cannot answer now.
func unavailable(format string, args ...any) *wire.Error {
	problem := wire.Errorf(http.StatusServiceUnavailable, format, args...)
	problem.RetryAfter = time.Second
	return problem
}

// Append passes drafts on to the upstream, with the credentials of a caller, and waits until their events are here. If that takes too long, it returns the receipts all the
// same: the log is then before them. An error is a *wire.Error.
func (m *Mirror) Append(ctx context.Context, from wire.Caller, drafts []event.Draft) ([]event.Receipt, error) {
	m.mu.Lock()
	refusal := m.refusal
	m.mu.Unlock()
	if refusal != nil {
		return nil, unavailable("%s: this server takes no appends now: %v", wire.NothingAppended, refusal)
	}
	if m.isIn(from.Via) {
		return nil, unavailable("%s: mirrors follow each other in a circle; it came back to the first", wire.NothingAppended)
	}
	from.Via = m.addTo(from.Via)
	receipts, err := m.cfg.Upstream.Append(ctx, m.held(), from, drafts)
	if err != nil {
		return nil, m.withTrouble(appendProblem(err))
	}
	m.mu.Lock()
	m.report.Appends++
	m.mu.Unlock()
	select {
	case m.woken <- struct{}{}:
	default:
	}
	last := event.Beginning
	for i := range receipts {
		if !receipts[i].Dropped && m.Follows(event.Exactly(drafts[i].Storage())) {
			last = max(last, receipts[i].ID)
		}
	}
	m.waitFor(ctx, last)
	return receipts, nil
}

// withTrouble adds to a 503 why there is no connection, unless it has that already: the cause may be
// the same.
func (m *Mirror) withTrouble(problem *wire.Error) *wire.Error {
	r := m.Report()
	if problem.Status != http.StatusServiceUnavailable || r.Connected || r.Trouble == "" || strings.Contains(problem.Detail, r.Trouble) {
		return problem
	}
	more := *problem
	more.Detail += "; this server does not follow the log now: " + r.Trouble
	return &more
}

// appendProblem returns the response to an append that has failed. A refusal of the log is
// passed on, except that the mirror's own position is no mistake of the caller.
func appendProblem(err error) *wire.Error {
	var problem *wire.Error
	var away *UnreachableError
	switch {
	case errors.As(err, &problem) && problem.Status == http.StatusConflict:
		return unavailable("%s: the upstream answers: %s", wire.NothingAppended, problem.Detail)
	case errors.As(err, &problem):
		return problem
	case errors.As(err, &away) && away.Unsent:
		return unavailable("%s: %v", wire.NothingAppended, err)
	}
	return unavailable("the append was passed on, and its outcome is unknown; send it again with the same key: %v", err)
}

// Await waits until the log here has reached the position of a reader that comes from another
// server of the log, if the upstream has it. It returns a *wire.Error if it did not.
func (m *Mirror) Await(ctx context.Context, at event.ID) error {
	if m.log.HeadPoint().ID >= at {
		return nil
	}
	known, err := m.hasReached(ctx, at)
	if err != nil {
		return unavailable("this server is at %s and has not reached %s: %v", m.log.HeadPoint().ID, at, err)
	}
	if known && m.isPart() {
		if err := m.catchUp(ctx, at); err != nil {
			return unavailable("this server is at %s and has not reached %s: %v", m.log.HeadPoint().ID, at, err)
		}
	}
	if !known || m.waitFor(ctx, at) {
		return nil
	}
	return unavailable("this server is at %s and has not reached %s yet", m.log.HeadPoint().ID, at)
}

// hasReached reports whether the log has reached a position, which the mirror has not. One
// caller at a time asks the upstream.
func (m *Mirror) hasReached(ctx context.Context, at event.ID) (bool, error) {
	if m.Report().Head >= at {
		return true, nil
	}
	ctx, cancel := context.WithTimeout(ctx, m.cfg.ApplyWait)
	defer cancel()
	leave, err := m.takeTurn(ctx)
	if err != nil {
		return false, err
	}
	defer leave()
	if m.Report().Head >= at {
		return true, nil
	}
	// The upstream may be a mirror, which is behind, too: it waits for a position that it is asked
	// about.
	d, err := m.cfg.Upstream.Describe(ctx, Position{m.log.Log(), event.Point{ID: at}})
	var conflict *ConflictError
	if errors.As(err, &conflict) && conflict.Reason == wire.ReasonAhead {
		err = m.ask(ctx) // an error if it was rolled back to before what is here
		return m.Report().Head >= at, err
	}
	if err != nil {
		return false, err
	}
	m.noteDescribed(&d)
	return d.Head.ID >= at, nil
}
