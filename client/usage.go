package client

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"net/http"
	"strings"

	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/internal/wire"
)

// ErrDamagedLog is the last error of a call of Usage if events of the server's log are
// damaged: numbers may be too low.
var ErrDamagedLog = errors.New("the server's log is damaged; some events are not counted")

// Usage returns how much the server's log holds of each storage of topic, in the order of
// users and paths. With folders, the storages below a folder come as one, as by
// [event.Usage.Folder]. Usage needs no copy. An error is the last value.
func (c *Client) Usage(ctx context.Context, topic event.Topic, folders bool) iter.Seq2[event.Usage, error] {
	return func(yield func(event.Usage, error) bool) {
		l := usageLister{c: c, topic: topic, folders: folders, yield: yield, b: c.newBackoff()}
		if err := l.list(ctx); err != nil && !l.stopped {
			yield(event.Usage{}, fmt.Errorf("list %s: %w", topic, err))
		}
	}
}

// A usageLister is one call of Usage.
type usageLister struct {
	c       *Client
	topic   event.Topic
	folders bool
	yield   func(event.Usage, error) bool
	b       *backoff
	after   event.Storage // the pages up to here were received
	last    []event.Usage // the last one received: a folder may continue on the next page
	damaged bool
	ended   bool
	stopped bool
}

func (l *usageLister) list(ctx context.Context) error {
	for !l.ended && !l.stopped {
		if err := l.c.retryWith(ctx, l.b, l.askPage); err != nil {
			return err
		}
		l.b.resetPauses()
	}
	for _, u := range l.last {
		l.yieldUsage(u)
	}
	if l.damaged && !l.stopped {
		return ErrDamagedLog
	}
	return nil
}

func (l *usageLister) askPage(ctx context.Context) error {
	q := wire.UsageQuery{Topic: l.topic, After: l.after, Limit: wire.MaxLimit, Folders: l.folders}
	resp, err := l.c.askServers(ctx, http.MethodGet, "/storages?"+q.Values().Encode(), http.Header{"Accept": {wire.JSON}}, nil)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return refusalError(readStatus(resp.Response), event.Beginning)
	}
	if err := l.c.checkIsRstream(resp.base, resp.Header, wire.JSON); err != nil {
		return err
	}
	var page wire.UsagePage
	if _, err := readObject(resp.base, "/storages", resp.Body, &page); err != nil {
		return err
	}
	if err := l.checkPage(resp.base, &page); err != nil {
		return err
	}
	l.takePage(&page)
	return nil
}

// checkPage refuses a page that cannot be what was asked for. Otherwise a server could keep
// a client asking forever.
func (l *usageLister) checkPage(base string, page *wire.UsagePage) error {
	last := event.Usage{User: l.after.User, Path: l.after.Path}
	for i := range page.Storages {
		u := &page.Storages[i]
		isNext := u.Compare(&last) > 0 || i == 0 && u.IsFolder() && u.User == last.User && strings.HasPrefix(last.Path, u.Path)
		if !isNext || !l.isAsked(u) {
			return &ProtocolError{base, fmt.Sprintf("listed %.80q, which was not requested or is out of order", u.Name())}
		}
		last = *u
	}
	if page.Next == "" {
		return nil
	}
	next, err := event.ParseStorage(page.Next)
	if err != nil || next.Compare(l.after) <= 0 || !l.topic.Matches(next.User, next.Path) {
		return &ProtocolError{base, fmt.Sprintf("sent %.80q as the last storage of a page, which is out of order", page.Next)}
	}
	return nil
}

// isAsked reports whether u can be in the response.
func (l *usageLister) isAsked(u *event.Usage) bool {
	name := event.Storage{User: u.User, Path: u.Path}
	isFolder := u.IsFolder()
	if isFolder {
		name.Path += "x" // some path in the folder
	}
	return isFolder == (u.Storages > 0) && (!isFolder || l.folders) && u.Count >= 0 && u.Bytes >= 0 &&
		name.Check() == nil && l.topic.Matches(name.User, name.Path)
}

// takePage yields the usages of a page, except the last one.
func (l *usageLister) takePage(page *wire.UsagePage) {
	for _, u := range page.Storages {
		l.damaged = l.damaged || u.Damaged
		if l.last = event.AppendUsage(l.last, u); len(l.last) == 2 {
			l.yieldUsage(l.last[0])
			l.last = l.last[1:]
		}
	}
	l.damaged = l.damaged || page.Damaged
	l.after, _ = event.ParseStorage(page.Next) // checkPage has parsed it
	l.ended = page.Next == ""
}

func (l *usageLister) yieldUsage(u event.Usage) {
	l.stopped = l.stopped || !l.yield(u, nil)
}
