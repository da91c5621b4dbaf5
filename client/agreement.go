package client

import (
	"context"
	"errors"
	"fmt"
	"slices"
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

	answers []ServerInfo // guarded by mu: of each server, once done
}

// A ServerInfo is the answer of one server about itself.
type ServerInfo struct {
	URL string // as in Config.Servers
	Info
	Err error // why there is no Info; context.DeadlineExceeded if the server did not answer in time
}

// Survey asks each server for its Info and returns the answers, in the order of Config.Servers. It
// waits two seconds. The Client keeps them for CheckServers, and Survey does not ask again after that.
func (c *Client) Survey(ctx context.Context) ([]ServerInfo, error) {
	c.agreed.mu.Lock()
	defer c.agreed.mu.Unlock()
	if err := c.settleLog(ctx, agreeTime); err != nil && !c.agreed.done {
		return nil, err
	}
	return slices.Clone(c.agreed.answers), nil
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
	return c.settleLog(ctx, agreeMore)
}

// settleLog is ensureOneLog with the time that the servers have after the first answer. The caller
// holds agreed.mu.
func (c *Client) settleLog(ctx context.Context, more time.Duration) error {
	if c.agreed.done {
		return c.agreed.err
	}
	c.loadNotes(ctx)
	answers, logs := c.askLogs(ctx, more)
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	c.agreed.done, c.agreed.answers = true, answers
	var err error
	first := slices.IndexFunc(logs, func(log string) bool { return log != "" })
	for i, log := range logs {
		switch {
		case isStranger(answers[i].Err):
			if first < 0 || !c.setAside(c.cfg.Servers[i], answers[i].Err) { // another one serves
				err = errors.Join(err, answers[i].Err)
			}
		case log == "":
		case log != logs[first] && err == nil:
			err = &DifferentLogsError{c.cfg.Servers[first], logs[first], c.cfg.Servers[i], log}
		}
	}
	if c.agreed.err = err; err == nil && first >= 0 {
		c.startWith(logs[first], answers)
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
func (c *Client) startWith(log string, answers []ServerInfo) {
	c.mu.Lock()
	c.firstLog = log
	c.mu.Unlock()
	for i := range answers {
		switch err := answers[i].Err; {
		case errors.Is(err, context.DeadlineExceeded):
			c.recordFailure(answers[i].URL, errSilent)
		case err != nil && !permanent(err):
			c.recordFailure(answers[i].URL, err)
		}
	}
}

// askLogs asks every server for its Info. It returns the answers and the log of each, "" of a
// server that does not answer. Once one has answered, the others have some more time.
func (c *Client) askLogs(ctx context.Context, more time.Duration) (answers []ServerInfo, logs []string) {
	ctx, cancel := context.WithTimeout(ctx, agreeTime)
	defer cancel()
	answers, logs = make([]ServerInfo, len(c.cfg.Servers)), make([]string, len(c.cfg.Servers))
	var first sync.Once
	var asking sync.WaitGroup
	for i, base := range c.cfg.Servers {
		asking.Go(func() {
			a := &answers[i]
			a.URL = base
			if a.Info, logs[i], a.Err = c.askLog(ctx, base); logs[i] != "" {
				first.Do(func() { time.AfterFunc(more, cancel) })
			}
			if ctx.Err() != nil && logs[i] == "" {
				a.Err = context.DeadlineExceeded
			}
		})
	}
	asking.Wait()
	return answers, logs
}

// askLog asks a server for its Info. It returns the log of some servers that do not give it, too.
func (c *Client) askLog(ctx context.Context, base string) (Info, string, error) {
	info, err := c.askInfo(ctx, base)
	var other *OtherLogError
	var problem *StatusError
	switch {
	case err == nil:
		return info, info.Log, nil
	case errors.As(err, &other):
		return info, other.Got, err
	case errors.As(err, &problem) && problem.log != "":
		return info, problem.log, err // it refuses a request about another log, and names its own
	}
	return info, "", err
}
