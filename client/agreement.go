package client

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"
)

// A DifferentLogsError reports that the servers of a Client do not serve the same log.
// The Client's events would depend on which of them was down.
type DifferentLogsError struct{ URL, Log, OtherURL, OtherLog string }

func (e *DifferentLogsError) Error() string {
	return fmt.Sprintf("%s serves the log %s, and %s serves the log %s", publicURL(e.URL), e.Log, publicURL(e.OtherURL), e.OtherLog)
}

// agreeTime is how long servers may take to name their log, and agreeMore how long the others
// may take once one has. A server that is down is checked when it answers later.
const (
	agreeTime = 2 * time.Second
	agreeMore = time.Second
)

// An agreement is the result of the check, made once, that several servers serve one log.
type agreement struct {
	mu   sync.Mutex
	done bool  // guarded by mu
	err  error // guarded by mu
}

// CheckServers returns a *DifferentLogsError if several servers are configured and
// those that answer within two seconds, or one second after the first, do not serve the same
// log. A Client checks this before its first request. A caller that acts before its first request calls
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
	c.loadNotes(ctx)
	logs, errs := c.askLogs(ctx)
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	c.agreed.done = true
	var err error
	first := -1
	for i, log := range logs {
		switch {
		case isStranger(errs[i]):
			err = errors.Join(err, errs[i])
		case log == "":
		case first < 0:
			first = i
		case log != logs[first] && err == nil:
			err = &DifferentLogsError{c.cfg.Servers[first], logs[first], c.cfg.Servers[i], log}
		}
	}
	if c.agreed.err = err; err == nil && first >= 0 {
		c.startWith(logs[first], errs)
	}
	return err
}

// notRstream begins the reason of a ProtocolError if a server is not rstream's.
const notRstream = "is not an rstream server"

// isStranger reports whether err shows that a server is not rstream's. A server that names its
// log and sends a wrong answer is set aside later.
func isStranger(err error) bool {
	var protocol *ProtocolError
	return errors.As(err, &protocol) && strings.HasPrefix(protocol.Reason, notRstream)
}

// startWith records the log that the servers serve, and that those without an answer have
// failed.
func (c *Client) startWith(log string, errs []error) {
	c.mu.Lock()
	c.firstLog = log
	c.mu.Unlock()
	for i, err := range errs {
		if err != nil && !permanent(err) {
			c.recordFailure(c.cfg.Servers[i], err)
		}
	}
}

// errNoLog is why a server is asked after the others that did not name its log in time.
var errNoLog = errors.New("no answer at first")

// askLogs asks every server for its log. It returns the logs, "" of a server that does not
// answer, and why it did not.
func (c *Client) askLogs(ctx context.Context) (logs []string, errs []error) {
	ctx, cancel := context.WithTimeout(ctx, agreeTime)
	defer cancel()
	logs, errs = make([]string, len(c.cfg.Servers)), make([]error, len(c.cfg.Servers))
	var first sync.Once
	var asking sync.WaitGroup
	for i, base := range c.cfg.Servers {
		asking.Go(func() {
			if logs[i], errs[i] = c.askLog(ctx, base); logs[i] != "" {
				first.Do(func() { time.AfterFunc(agreeMore, cancel) })
			}
			if ctx.Err() != nil && logs[i] == "" {
				errs[i] = errNoLog
			}
		})
	}
	asking.Wait()
	return logs, errs
}

// askLog asks a server for its log.
func (c *Client) askLog(ctx context.Context, base string) (string, error) {
	info, err := c.askInfo(ctx, base)
	var other *OtherLogError
	var problem *StatusError
	switch {
	case err == nil:
		return info.Log, nil
	case errors.As(err, &other):
		return other.Got, nil
	case errors.As(err, &problem) && problem.log != "":
		return problem.log, nil // it refuses a request about another log, and names its own
	}
	return "", err
}
