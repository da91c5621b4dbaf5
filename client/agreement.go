package client

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"
)

// A DifferentLogsError reports that the servers of a Client do not serve the same log.
// The Client's events would depend on which of them was down.
type DifferentLogsError struct{ URL, Log, OtherURL, OtherLog string }

func (e *DifferentLogsError) Error() string {
	return fmt.Sprintf("%s serves the log %s, and %s serves the log %s", publicURL(e.URL), e.Log, publicURL(e.OtherURL), e.OtherLog)
}

// agreeTime is how long servers may take to name their log. A server that is down is
// checked when it answers later.
const agreeTime = 2 * time.Second

// An agreement is the result of the check, made once, that several servers serve one log.
type agreement struct {
	mu   sync.Mutex
	done bool  // guarded by mu
	err  error // guarded by mu
}

// CheckServers returns a *DifferentLogsError if several servers are configured and
// those that answer within two seconds do not serve the same log. A Client checks this
// before its first request. A caller that acts before its first request calls
// CheckServers first.
func (c *Client) CheckServers(ctx context.Context) error { return c.ensureOneLog(ctx) }

// ensureOneLog checks once that several servers serve one log, and selects one that answers.
func (c *Client) ensureOneLog(ctx context.Context) error {
	if len(c.cfg.Servers) < 2 {
		return nil
	}
	c.agreed.mu.Lock()
	defer c.agreed.mu.Unlock()
	if c.agreed.done {
		return c.agreed.err
	}
	logs, err := c.askLogs(ctx)
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	c.agreed.done = true
	first := -1
	for i, log := range logs {
		switch {
		case log == "":
		case first < 0:
			first = i
		case log != logs[first] && err == nil:
			err = &DifferentLogsError{c.cfg.Servers[first], logs[first], c.cfg.Servers[i], log}
		}
	}
	if c.agreed.err = err; err == nil && first >= 0 {
		c.startWith(first, logs)
	}
	return err
}

// startWith records the log that the servers serve, and begins with server if the
// current one did not answer.
func (c *Client) startWith(server int, logs []string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.firstLog = logs[server]
	if logs[c.current] == "" {
		c.current = server
	}
}

// askLogs asks every server for its log, "" if it does not answer. It returns an error if
// one of them is not an rstream server.
func (c *Client) askLogs(ctx context.Context) ([]string, error) {
	ctx, cancel := context.WithTimeout(ctx, agreeTime)
	defer cancel()
	logs, errs := make([]string, len(c.cfg.Servers)), make([]error, len(c.cfg.Servers))
	var asking sync.WaitGroup
	for i, base := range c.cfg.Servers {
		asking.Go(func() {
			info, err := c.askInfo(ctx, base)
			var other *OtherLogError
			var problem *StatusError
			switch {
			case err == nil:
				logs[i] = info.Log
			case errors.As(err, &other):
				logs[i] = other.Got
			case errors.As(err, &problem) && problem.log != "":
				logs[i] = problem.log // it refuses a request about another log, and names its own
			case errors.As(err, new(*ProtocolError)):
				errs[i] = err
			}
		})
	}
	asking.Wait()
	return logs, errors.Join(errs...)
}
