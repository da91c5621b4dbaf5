package client

import (
	"cmp"
	"context"
	"errors"
	"net/http"
	"time"

	"github.com/rstream-dev/rstream/client/internal/imports"
	"github.com/rstream-dev/rstream/internal/wire"
)

const (
	// hedgeTime is how long a server may take to begin a response before the next one is
	// asked, too.
	hedgeTime = time.Second
	// refusalTime is how long silent servers can delay the refusal of another one.
	refusalTime = 3 * time.Second
)

// A race asks several servers for the same answer. The first one that gives it wins. An
// error or a refusal of one server only counts if no other server answers.
type race[T any] struct {
	c       *Client
	ask     func(ctx context.Context, base string) (T, error)
	status  func(T) int   // the status of an answer that refuses, or 0
	drop    func(T)       // closes an answer that is not used
	subject func() string // what the request is about, see subjectOf

	hedge    time.Duration        // how long to wait before the next server is asked, too; if zero, hedgeTime
	patience func() time.Duration // how much longer to wait after that; if nil, no longer
	decides  func(error) bool     // whether an error of one server is that of all; if nil, none is

	left    []int // servers that have not been asked
	running map[int]*attempt[T]
	ended   chan *attempt[T]
	lost    []*attempt[T]
}

// An attempt is one server's part of a race.
type attempt[T any] struct {
	base    string
	server  int
	began   time.Time
	release context.CancelFunc // ends its context, if it has one of its own
	got     T
	status  int // of a refusal
	err     error
}

// run returns the attempt that wins or, if none does, the one that says why. The caller
// calls its release when it no longer needs the answer.
func (r *race[T]) run(ctx context.Context) *attempt[T] {
	r.left = r.c.putMisdirectedLast(r.c.serversToAsk(ctx), r.subject)
	if len(r.c.cfg.Servers) == 1 {
		a := &attempt[T]{base: r.c.cfg.Servers[0], release: func() {}}
		r.finish(ctx, a)
		r.isWon(ctx, a)
		return a
	}
	if r.hedge == 0 {
		r.hedge = hedgeTime
	}
	r.running, r.ended = map[int]*attempt[T]{}, make(chan *attempt[T], len(r.left))
	defer r.stopOthers()
	timer := time.NewTimer(r.hedge)
	defer timer.Stop()
	for r.startNext(ctx); len(r.running) > 0; {
		select {
		case a := <-r.ended:
			delete(r.running, a.server)
			if r.isWon(ctx, a) {
				r.recordSlower(a)
				return a
			}
			r.lost = append(r.lost, a)
			if r.startNext(ctx) {
				timer.Reset(r.hedge)
			} else if r.refusal() != nil {
				timer.Reset(refusalTime)
			}
		case <-timer.C:
			if more := r.morePatience(); more > 0 {
				timer.Reset(more)
			} else if r.startNext(ctx) {
				timer.Reset(r.hedge)
			} else if a := r.refusal(); a != nil && !(a.dependsOnServer() && r.mayReturn()) {
				return r.choose(r.reason())
			}
		}
	}
	return r.choose(r.reason())
}

// morePatience returns how much longer to wait before the next server is asked.
func (r *race[T]) morePatience() time.Duration {
	if r.patience == nil || len(r.left) == 0 {
		return 0
	}
	return r.patience()
}

// startNext asks the next server. It reports false if all have been asked.
func (r *race[T]) startNext(ctx context.Context) bool {
	if len(r.left) == 0 {
		return false
	}
	a := &attempt[T]{server: r.left[0], base: r.c.cfg.Servers[r.left[0]], began: time.Now()}
	r.left = r.left[1:]
	r.running[a.server] = a
	ctx, a.release = context.WithCancel(ctx)
	go func() {
		r.finish(ctx, a)
		r.ended <- a
	}()
	return true
}

func (r *race[T]) finish(ctx context.Context, a *attempt[T]) {
	if a.got, a.err = r.ask(ctx, a.base); a.err == nil {
		a.status = r.status(a.got)
	}
}

// isWon reports whether an attempt ends the race, and records one that does not.
func (r *race[T]) isWon(ctx context.Context, a *attempt[T]) bool {
	switch {
	case a.err == nil && a.status == 0, ctx.Err() != nil, isOurs(a.err):
		return true
	case r.decides != nil && r.decides(a.err) && !(a.dependsOnServer() && len(r.running) > 0):
		return !errors.As(a.err, new(*ProtocolError)) || !r.c.setAside(a.base, a.err)
	case errors.As(a.err, new(*tokenError)):
		r.c.recordProblem(a.base, a.err, func(*serverState, time.Time) {})
		r.c.reportLeft(a.base, a.err)
	case errors.As(a.err, new(*ProtocolError)):
		r.c.setAside(a.base, a.err)
	case a.isMisdirected():
		r.c.recordMisdirected(a.base, r.subject())
	case a.isFinal() && !a.mayCatchUp():
		// It is about this request; the server is well.
	case a.err == nil:
		r.c.recordFailure(a.base, &StatusError{Status: a.status, Title: http.StatusText(a.status)})
	default:
		r.c.recordFailure(a.base, a.err)
	}
	return false
}

// isOurs reports whether err would be the same with every server: it is about the copy or
// about the configuration.
func isOurs(err error) bool {
	return errors.As(err, new(*imports.StoreError)) && !errors.As(err, new(*tokenError)) || errors.As(err, new(*OtherLogError))
}

// isFinal reports whether an attempt was refused for good.
func (a *attempt[T]) isFinal() bool {
	if a.err != nil {
		return permanent(a.err)
	}
	return (&wire.Error{Status: a.status}).Final()
}

// mayCatchUp reports whether an attempt was refused because the server's log does not
// contain what the copy or the request has, which is true of one that lags.
func (a *attempt[T]) mayCatchUp() bool { return a.status == http.StatusConflict || saysBehind(a.err) }

// saysBehind reports whether err is a refusal as in mayCatchUp.
func saysBehind(err error) bool {
	return statusOf(err) == http.StatusConflict || errors.As(err, new(*RolledBackError))
}

// statusOf returns the status of a StatusError, or 0.
func statusOf(err error) int {
	var status *StatusError
	if errors.As(err, &status) {
		return status.Status
	}
	return 0
}

func (a *attempt[T]) isMisdirected() bool {
	return a.status == http.StatusMisdirectedRequest || statusOf(a.err) == http.StatusMisdirectedRequest
}

// refusal returns the first attempt that was refused for good, preferring one that is not
// misdirected, or nil.
func (r *race[T]) refusal() (found *attempt[T]) {
	for _, a := range r.lost {
		if a.isFinal() && (found == nil || found.isMisdirected() && !a.isMisdirected()) {
			found = a
		}
	}
	return found
}

// reason returns the attempt that says why there is no answer: a refusal, unless it may be
// different with a server that has answered before and is away now.
func (r *race[T]) reason() *attempt[T] {
	refused := r.refusal()
	for _, a := range r.lost {
		if !a.isFinal() && (refused == nil || refused.dependsOnServer() && r.c.hasAnswered(a.server)) {
			return a
		}
	}
	return refused
}

// dependsOnServer reports whether another server may well answer what this one has refused.
func (a *attempt[T]) dependsOnServer() bool {
	switch cmp.Or(a.status, statusOf(a.err)) {
	case http.StatusUnauthorized, http.StatusForbidden, http.StatusConflict, http.StatusGone, http.StatusMisdirectedRequest:
		return true
	}
	return a.mayCatchUp() || errors.As(a.err, new(*ProtocolError))
}

// mayReturn reports whether a server that is silent now has answered before.
func (r *race[T]) mayReturn() bool {
	for i := range r.running {
		if r.c.hasAnswered(i) {
			return true
		}
	}
	return false
}

// hasAnswered reports whether a server has answered a request of this Client.
func (c *Client) hasAnswered(server int) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.servers[server].answered
}

// choose takes a out of the lost attempts, so that its answer is kept.
func (r *race[T]) choose(a *attempt[T]) *attempt[T] {
	for i := range r.lost {
		if r.lost[i] == a {
			r.lost[i] = nil
		}
	}
	return a
}

// recordSlower records the servers that had time to answer and did not.
func (r *race[T]) recordSlower(won *attempt[T]) {
	for _, a := range r.running {
		if time.Since(a.began) >= r.hedge && won.err == nil {
			r.c.recordFailure(a.base, errSilent)
		}
	}
}

// errSilent is why a server is left that has not begun to answer when another one has.
var errSilent = errors.New("no answer in time")

// stopOthers ends all attempts but the returned one, and waits for them.
func (r *race[T]) stopOthers() {
	for _, a := range r.running {
		a.release()
	}
	for range r.running {
		r.lost = append(r.lost, <-r.ended)
	}
	for _, a := range r.lost {
		if a == nil {
			continue
		}
		if a.err == nil {
			r.drop(a.got)
		}
		a.release()
	}
}
