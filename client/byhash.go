package client

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync/atomic"

	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/internal/wire"
	"github.com/rstream-dev/rstream/reconcile"
)

// A framePeer is the servers of a log as the other side of a reconciliation.
type framePeer struct {
	c     *Client
	topic event.Topic
	asked *atomic.Value // gets the URL of the server that has answered
}

// Ask implements reconcile.Peer.
func (p framePeer) Ask(ctx context.Context, request []byte) (response []byte, err error) {
	path := "/bloom?" + (&wire.Query{Topics: []event.Topic{p.topic}}).Values().Encode()
	err = p.c.tryServers(ctx, func(ctx context.Context) error {
		header := http.Header{"Content-Type": {wire.Frames}, "Accept": {wire.Frames}}
		resp, err := p.c.postBody(ctx, path, header, request, wire.Frames)
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		p.asked.Store(resp.base)
		response, err = io.ReadAll(io.LimitReader(resp.Body, maxAnswer+1))
		if err != nil {
			return droppedError(resp.base, err)
		}
		return nil
	})
	var status *StatusError
	if errors.As(err, &status) && status.Status == http.StatusRequestEntityTooLarge {
		return nil, &reconcile.FrameError{TooLarge: true, Detail: status.Detail}
	}
	return response, err
}

// postBody makes a POST request and checks the media type of the response.
func (c *Client) postBody(ctx context.Context, path string, header http.Header, body []byte, mediaType string) (*serverAnswer, error) {
	resp, err := c.askServers(ctx, http.MethodPost, path, header, body)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode == http.StatusOK {
		err = c.checkIsRstream(resp.base, resp.Header, mediaType)
	} else {
		err = refusalError(readStatus(resp.Response), event.Beginning)
	}
	if err != nil {
		resp.Body.Close()
		return nil, err
	}
	return resp, nil
}

// requestByHash requests events by their hashes and calls fn with the lines of the
// response, up to maxPageBytes. whole reports whether these are all. A response that is
// cut off after its first line is not an error.
func (c *Client) requestByHash(ctx context.Context, path string, hashes []event.Hash, fn func(base string, line []byte) error) (whole bool, err error) {
	header := http.Header{"Content-Type": {wire.JSON}, "Accept": {wire.JSON}}
	resp, err := c.postBody(ctx, path, header, wire.AppendHashes(nil, hashes), wire.JSON)
	if err != nil {
		return false, err
	}
	defer resp.Body.Close()
	lines := newObjectLines(resp.base, resp.Body)
	n := 0
	for size := 0; size < maxPageBytes; n++ {
		line, err := lines.Next()
		if errors.Is(err, io.EOF) {
			return true, nil
		}
		if err != nil {
			if permanent(err) || n == 0 {
				return false, err
			}
			return false, nil
		}
		if err := fn(resp.base, line); err != nil {
			return false, err
		}
		size += len(line)
	}
	return false, nil
}

// requestStubs returns the ids in the log of the events with the given hashes. Stubs with
// members unknown to this version are left out: the hash does not cover these members,
// so the events must be fetched.
func (c *Client) requestStubs(ctx context.Context, hashes []event.Hash, round *reconcile.Round) (stubs []wire.Stub, err error) {
	asked := make(map[event.Hash]struct{}, len(hashes))
	for _, h := range hashes {
		asked[h] = struct{}{}
	}
	var buf []byte
	var from string
	err = c.tryServers(ctx, func(ctx context.Context) error {
		stubs = nil
		round.Up += len(wire.AppendHashes(nil, hashes))
		whole, err := c.requestByHash(ctx, "/get?stubs=1", hashes, func(base string, line []byte) error {
			round.Down, from = round.Down+len(line)+1, base
			var s wire.Stub
			if err := json.Unmarshal(line, &s); err != nil {
				return &ProtocolError{base, fmt.Sprintf("sent a bad stub: %.80q", line)}
			}
			if _, ok := asked[s.Hash]; !ok || s.ID == event.Beginning || !s.Time.Valid() {
				return &ProtocolError{base, fmt.Sprintf("sent the stub of event %s, which was not requested", s.ID)}
			}
			if buf = wire.AppendStub(&event.Event{ID: s.ID, Time: s.Time, Hash: s.Hash}, buf[:0]); bytes.Equal(buf, line) {
				stubs = append(stubs, s)
			}
			return nil
		})
		if err == nil && !whole {
			err = droppedError(from, io.ErrUnexpectedEOF)
		}
		return err
	})
	return stubs, err
}

// Known returns how many of the events with these hashes, at most 10,000 of them, the
// log has.
func (c *Client) Known(ctx context.Context, hashes []event.Hash) (int, error) {
	stubs, err := c.requestStubs(ctx, hashes, &reconcile.Round{})
	return len(stubs), err
}

// fetchItems fetches the events named by items, which are in order. It returns a prefix
// of those that the log has: the response may have been cut off.
func (c *Client) fetchItems(ctx context.Context, topic event.Topic, items []reconcile.Item) (evs []event.Event, err error) {
	hashes := make([]event.Hash, len(items))
	for i, it := range items {
		hashes[i] = it.Hash
	}
	_, err = c.requestByHash(ctx, "/get", hashes, func(base string, line []byte) error {
		ev, err := c.parseReceived(base, line, []event.Topic{topic})
		if err != nil {
			return err
		}
		for len(items) > 0 && items[0].ID < ev.ID {
			items = items[1:]
		}
		if len(items) == 0 || items[0] != (reconcile.Item{ID: ev.ID, Time: ev.Time, Hash: ev.Hash}) {
			return &ProtocolError{base, fmt.Sprintf("sent event %s, which was not requested", ev.ID)}
		}
		items = items[1:]
		c.stats.events.Add(1)
		evs = append(evs, ev)
		return nil
	})
	return evs, err
}
