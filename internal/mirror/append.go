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
