package client

import (
	"context"
	"fmt"
	"net/http"

	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/internal/wire"
)

// A Board says who reads what at one moment: the open streams of a server, and of the servers that
// report to it.
type Board struct {
	Nodes       []BoardNode       `json:"nodes"`
	Topics      []BoardTopic      `json:"topics"`
	Connections []BoardConnection `json:"connections"`
}

// A BoardNode is a server of a board.
type BoardNode struct {
	Name    string       `json:"node"`
	Version string       `json:"version"`
	Since   event.Time   `json:"since"` // when it started
	Log     string       `json:"log"`
	Head    event.Cursor `json:"head"`
	URL     string       `json:"url,omitempty"` // where other servers of the board reach it
}

// A BoardTopic says how many connections concern a topic that one of them asks for.
type BoardTopic struct {
	Topic       event.Topic `json:"topic"`
	Connections int         `json:"connections"` // those that ask for this very topic
	Readers     int         `json:"readers"`     // those that get all events of it, also by a wider topic
}

// A BoardConnection is an open stream of a reader.
type BoardConnection struct {
	Node    string        `json:"node"`
	ID      uint64        `json:"id"` // never given twice by the node while it runs
	Topics  []event.Topic `json:"topics"`
	Since   event.Time    `json:"since"`
	Address string        `json:"address"`
	Subject string        `json:"subject,omitempty"` // of the reader's token
	Lag     uint64        `json:"lag"`               // ids that it is behind the head
	Behind  bool          `json:"behind"`            // it reads history
}

// Board asks the server who reads what, there and on the servers that report to it. It needs no copy,
// and if the server asks for tokens, the right to see the board.
func (c *Client) Board(ctx context.Context) (b Board, err error) {
	err = c.retryEach(ctx, c.newBackoff(), func(ctx context.Context) error {
		b = Board{}
		return c.askObject(ctx, wire.PathConnections, &b)
	})
	if err != nil {
		return Board{}, fmt.Errorf("read the board: %w", err)
	}
	return b, nil
}

// askObject asks for a JSON object, once, and reads it into a new value.
func (c *Client) askObject(ctx context.Context, path string, into any) error {
	resp, err := c.askServers(ctx, http.MethodGet, path, http.Header{"Accept": {wire.JSON}}, nil)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return readStatus(resp.Response)
	}
	if err := c.checkIsRstream(resp.base, resp.Header, wire.JSON); err != nil {
		return err
	}
	_, err = readObject(resp.base, path, resp.Body, into)
	return err
}
