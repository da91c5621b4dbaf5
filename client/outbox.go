package client

import (
	"context"
	"errors"
	"fmt"
	"net/http"

	"github.com/rstream-dev/rstream/cache"
	"github.com/rstream-dev/rstream/event"
)

// Sent reports the result of Send.
type Sent struct {
	Sent    int // drafts that the log has now
	Known   int // those of Sent that it had before
	Refused int // drafts that it does not accept; they stay in the outbox, marked

	Forbidden int // those of Refused whose storages the token does not cover
}

// A HeldUpError reports that a proxy refuses a draft of the outbox, for its size or content. The draft
// keeps waiting, and so do those after it.
type HeldUpError struct {
	Number  int64 // of the draft
	Storage event.Storage
	Err     error // the answer
}

func (e *HeldUpError) Error() string {
	return fmt.Sprintf("append %d, to %s: %v", e.Number, e.Storage, e.Err)
}

// Unwrap returns the answer.
func (e *HeldUpError) Unwrap() error { return e.Err }

// sendLimit is how many drafts are sent at a time.
const sendLimit = 1000

// Send appends the waiting drafts of the copy's outbox, in order. A draft leaves the
// outbox when a server has acknowledged it. If the connection is cut or the program is
// killed before that, the draft is sent again and is still one event, by its hash; no
// later draft overtakes it. A draft that the server refuses for its content, or because
// the token does not cover its storage, stays in the outbox, marked as refused, and Send
// goes on with the next. A draft that only a proxy refuses keeps waiting, and Send returns
// a *HeldUpError.
//
// If shown is not nil it is called for each draft that the log has, with its receipt.
func (c *Client) Send(ctx context.Context, shown func(*cache.Queued, *event.Receipt)) (Sent, error) {
	if err := c.needCopy(); err != nil {
		return Sent{}, err
	}
	s := sending{c: c, box: c.store, shown: shown}
	for after := int64(0); ; {
		queued, err := s.box.List(ctx, after, sendLimit)
		if err != nil {
			return s.sum, storeError(err)
		}
		if len(queued) == 0 {
			return s.sum, nil
		}
		after = queued[len(queued)-1].Number
		if err := s.sendDrafts(ctx, notRefused(queued)); err != nil {
			return s.sum, fmt.Errorf("send the outbox: %w", err)
		}
	}
}

// notRefused returns the drafts that are not marked as refused.
func notRefused(queued []cache.Queued) (some []cache.Queued) {
	for i := range queued {
		if queued[i].Refused == "" {
			some = append(some, queued[i])
		}
	}
	return some
}

// A sending is one call of Send.
type sending struct {
	c     *Client
	box   outboxStore
	shown func(*cache.Queued, *event.Receipt)
	sum   Sent
}

// sendDrafts sends drafts as one batch. If the server refuses the batch, it sends parts of
// it, until it knows which drafts are refused.
func (s *sending) sendDrafts(ctx context.Context, queued []cache.Queued) error {
	if len(queued) == 0 {
		return nil
	}
	drafts := make([]event.Draft, len(queued))
	for i := range queued {
		drafts[i] = queued[i].Draft
	}
	receipts, err := s.c.Put(ctx, drafts)
	if err == nil {
		return s.acknowledgeBatch(ctx, queued, receipts)
	}
	answer := refusedDrafts(err)
	if errors.As(err, new(*UnknownOutcomeError)) && (answer == nil || answer.FromLog) {
		return err // the last answer says nothing about the attempts before it
	}
	if forbidden, others, answer := forbiddenDrafts(queued, err); len(forbidden) > 0 {
		s.sum.Forbidden += len(forbidden)
		if err := s.refuseDrafts(ctx, forbidden, answer); err != nil {
			return err
		}
		return s.sendDrafts(ctx, others)
	}
	switch {
	case answer == nil:
		return err
	case len(queued) == 1 && !answer.FromLog:
		return &HeldUpError{queued[0].Number, queued[0].Storage(), err}
	case len(queued) == 1:
		return s.refuseDrafts(ctx, queued, answer)
	}
	half := len(queued) / 2
	if err := s.sendDrafts(ctx, queued[:half]); err != nil {
		return err
	}
	return s.sendDrafts(ctx, queued[half:])
}

// refuseDrafts marks drafts as refused.
func (s *sending) refuseDrafts(ctx context.Context, queued []cache.Queued, answer *StatusError) error {
	s.sum.Refused += len(queued)
	return storeError(s.box.Refuse(context.WithoutCancel(ctx), numbersOf(queued), answer.Error()))
}

func numbersOf(queued []cache.Queued) []int64 {
	numbers := make([]int64, len(queued))
	for i := range queued {
		numbers[i] = queued[i].Number
	}
	return numbers
}

func (s *sending) acknowledgeBatch(ctx context.Context, queued []cache.Queued, receipts []event.Receipt) error {
	// Even if ctx has ended: acknowledged drafts need not be sent again.
	if err := s.box.Acknowledge(context.WithoutCancel(ctx), numbersOf(queued)); err != nil {
		return storeError(err)
	}
	for i := range receipts {
		s.sum.Sent++
		if receipts[i].Duplicate {
			s.sum.Known++
		}
		if s.shown != nil {
			s.shown(&queued[i], &receipts[i])
		}
	}
	return nil
}

// refusedDrafts returns err as the answer that refuses drafts for their content or size,
// nil if it is not one. Only an answer of a log is about the drafts themselves: a proxy's
// 413 is about the size of the request.
func refusedDrafts(err error) *StatusError {
	var answer *StatusError
	if errors.As(err, &answer) && (answer.Status == http.StatusBadRequest || answer.Status == http.StatusRequestEntityTooLarge) {
		return answer
	}
	return nil
}

// forbiddenDrafts returns the drafts of the topic that the token does not cover, if that is what
// err says, and the others. An answer names the first topic only.
func forbiddenDrafts(queued []cache.Queued, err error) (forbidden, others []cache.Queued, answer *StatusError) {
	if !errors.As(err, &answer) || answer.Status != http.StatusForbidden || !answer.FromLog || answer.Topic == nil {
		return nil, queued, nil
	}
	for i := range queued {
		if answer.Topic.Matches(queued[i].User, queued[i].Path) {
			forbidden = append(forbidden, queued[i])
		} else {
			others = append(others, queued[i])
		}
	}
	return forbidden, others, answer
}
