package main

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"net/http"
	"slices"
	"strings"

	"github.com/rstream-dev/rstream/client"
	"github.com/rstream-dev/rstream/event"
)

// allowedTopics are the topics of a command, less those that the server has refused.
type allowedTopics struct {
	a       *app
	verb    string // the command, for errors
	left    []event.Topic
	added   []event.Topic // that are followed only since this command
	refused bool          // one or more are gone
}

// refuse reports err and removes the topic that it refuses. It returns false if err is about
// something else, or no other topic is left.
func (t *allowedTopics) refuse(err error) bool {
	var status *client.StatusError
	if !errors.As(err, &status) || status.Topic == nil {
		return false
	}
	return t.refuseTopic(*status.Topic, status)
}

// refuseTopic is refuse for a request that was about one topic, which a proxy's refusal does
// not name.
func (t *allowedTopics) refuseTopic(topic event.Topic, err error) bool {
	var status *client.StatusError
	i := slices.Index(t.left, topic)
	if i < 0 || len(t.left) == 1 || !errors.As(err, &status) {
		return false
	}
	if status.Status != http.StatusForbidden && status.Topic == nil {
		return false // the token is not valid for any topic
	}
	t.left, t.refused = slices.Delete(slices.Clone(t.left), i, i+1), true
	t.a.reportAndContinue(fmt.Errorf("%s %s: %w; continuing with the other topics", t.verb, topic, status))
	return true
}

// isBarred reports whether a server, or a proxy in front of it, has answered with 401 or 403.
func isBarred(err error) bool {
	var status *client.StatusError
	return errors.As(err, &status) && (status.Status == http.StatusUnauthorized || status.Status == http.StatusForbidden)
}

// status returns an error with the exit status of a refusal if a topic was refused. The
// refusal itself has been reported.
func (t *allowedTopics) status() error {
	if t.refused {
		return &exitError{status: exitNotAllowed}
	}
	return nil
}

// batches returns what s.Batches does, and continues with the other topics if one is refused.
func (t *allowedTopics) batches(ctx context.Context, s *session, opts client.TailOptions) iter.Seq2[client.Batch, error] {
	return func(yield func(client.Batch, error) bool) {
		for again := true; again; {
			again = false
			for b, err := range s.Batches(ctx, t.left, opts) {
				// The cause for which ctx ended may be a refusal of something else.
				if again = err != nil && ctx.Err() == nil && t.refuse(err); again {
					break
				}
				if err == nil {
					opts.Since, opts.Last = event.At(event.CursorOf(b.Position, s.db.Log())), nil
				}
				if !yield(b, err) {
					return
				}
			}
		}
	}
}

// reportAndContinue prints an error and its hint at once, for a command that continues.
func (a *app) reportAndContinue(err error) {
	var text strings.Builder
	a.printError(&text, nil, err)
	_ = a.writeAside(text.String()) // there is nowhere else to report it
}
