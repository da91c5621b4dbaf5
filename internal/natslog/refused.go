package natslog

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"strings"
	"sync"

	"github.com/nats-io/nats.go"
)

// A RefusedError means that a NATS server refuses the credentials of a node, or does not allow its
// user something that the node needs.
type RefusedError struct {
	URL     string // of the servers, without secrets
	Doing   string // "publish to" or "subscribe to", "" if the credentials were refused
	Subject string // of Doing
	System  bool   // the user is that of the system account
	Err     error
}

func (e *RefusedError) Error() string {
	if e.Doing == "" {
		return fmt.Sprintf("%s refuses the credentials: %v", e.URL, e.Err)
	}
	return fmt.Sprintf("%s does not allow this user to %s %q", e.URL, e.Doing, e.Subject)
}

// Unwrap returns the error of the connection.
func (e *RefusedError) Unwrap() error { return e.Err }

// isRefusal reports whether an error of a connection means that its credentials were refused.
func isRefusal(err error) bool {
	return errors.Is(err, nats.ErrAuthorization) || errors.Is(err, nats.ErrAuthExpired) || errors.Is(err, nats.ErrAuthRevoked) || errors.Is(err, nats.ErrAccountAuthExpired)
}

// refusals are what the servers have not allowed on this connection. They answer no request
// that is not allowed, and say so on the side: what waits for the answer is therefore ended here.
type refusals struct {
	mu      sync.Mutex
	said    map[string]bool     // errors that OnNews has got
	inbox   *RefusedError       // answers cannot arrive
	once    bool                // an append was forwarded, and answered: it was allowed before
	waiting map[*permitted]bool // requests
}

// A permitted is a request that ends when one of its subjects is not allowed.
type permitted struct {
	prefixes []string // of its subjects
	cancel   context.CancelCauseFunc
}

// whileAllowed returns a context that ends if a server does not allow a subject that begins like
// one of the prefixes. The cause is then a *RefusedError.
func (l *Log) whileAllowed(ctx context.Context, prefixes ...string) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancelCause(ctx)
	p := &permitted{prefixes, cancel}
	r := &l.refusals
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.inbox != nil {
		cancel(r.inbox)
	}
	if r.waiting == nil {
		r.waiting = map[*permitted]bool{}
	}
	r.waiting[p] = true
	return ctx, func() {
		r.mu.Lock()
		delete(r.waiting, p)
		r.mu.Unlock()
		cancel(nil)
	}
}

// refusalOr returns the error for which a context of whileAllowed has ended, or err if it has not.
func refusalOr(ctx context.Context, err error) error {
	var refused *RefusedError
	if err != nil && errors.As(context.Cause(ctx), &refused) {
		return refused
	}
	return err
}

// noteError notes an error that the connection reports on the side.
func (l *Log) noteError(_ *nats.Conn, _ *nats.Subscription, err error) {
	refused := l.refusalIn(err)
	switch {
	case refused != nil:
		err = refused
		l.endRefused(refused)
	case isRefusal(err):
		err = l.unreachable(err)
	}
	r := &l.refusals
	r.mu.Lock()
	text := err.Error()
	again := r.said[text]
	if r.said == nil {
		r.said = map[string]bool{}
	}
	r.said[text] = true
	r.mu.Unlock()
	if !again {
		l.news("%s", text)
	}
}

var refusedSubject = regexp.MustCompile(`(Publish|Subscription) to "([^"]+)"`)

// refusalIn returns the refusal that an error is, nil if it is none.
func (l *Log) refusalIn(err error) *RefusedError {
	return refusedBy(l.cfg.shown(), err)
}

// refusedBy is refusalIn for the servers at a URL.
func refusedBy(url string, err error) *RefusedError {
	if !errors.Is(err, nats.ErrPermissionViolation) {
		return nil
	}
	refused := &RefusedError{URL: url, Doing: "use", Subject: err.Error(), Err: err}
	if m := refusedSubject.FindStringSubmatch(err.Error()); m != nil {
		refused.Doing, refused.Subject = "publish to", m[2]
		if m[1] == "Subscription" {
			refused.Doing = "subscribe to"
		}
	}
	return refused
}

// endRefused ends what waits for an answer that cannot come. A node that may not do all that the
// committer does never becomes it.
func (l *Log) endRefused(refused *RefusedError) {
	r := &l.refusals
	isInbox := strings.HasPrefix(refused.Subject, nats.InboxPrefix)
	r.mu.Lock()
	if isInbox && refused.Doing == "subscribe to" {
		r.inbox = refused
	}
	for p := range r.waiting {
		for _, prefix := range p.prefixes {
			if r.inbox != nil || strings.HasPrefix(refused.Subject, prefix) {
				p.cancel(refused)
			}
		}
	}
	r.mu.Unlock()
	if isInbox || strings.HasPrefix(refused.Subject, l.subject("")) && refused.Subject != l.subject(partNodes) {
		l.lease.setBarred(true)
	}
}

// noteForwarded notes that an append was forwarded and answered.
func (r *refusals) noteForwarded() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.once = true
}

// forgetRefusals forgets what was refused on an earlier connection.
func (l *Log) forgetRefusals() {
	r := &l.refusals
	r.mu.Lock()
	r.said, r.inbox, r.once = nil, nil, false
	r.mu.Unlock()
	l.lease.setBarred(false)
}

// IsLasting reports whether an error means that the stream, or its servers, cannot be used until
// somebody changes their settings.
func IsLasting(err error) bool {
	return errors.Is(err, ErrNoStream) || errors.As(err, new(*SetupError))
}
