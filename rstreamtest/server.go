// Package rstreamtest runs rstream servers for tests, as net/http/httptest does for HTTP.
//
// A [Server] is a real server: it listens on a port of the loopback interface and keeps
// its log in a temporary file, which is empty at first and removed with the server.
// Programs under test reach it by its URL. Tests append events with its methods or with
// a client.
//
// The package is for tests only: if the server itself fails, it ends the test, or panics
// if there is none.
package rstreamtest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/rstream-dev/rstream/cache"
	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/internal/server"
)

// A Server serves a log, empty at first, on the loopback interface. Its methods may be
// called from several goroutines.
type Server struct {
	// URL is the base URL, of the form http://127.0.0.1:PORT. Set by NewServer.
	URL string

	tb   testing.TB // nil in an Example
	dir  string
	db   *cache.DB
	srv  *server.Server
	web  *httptest.Server
	keys atomic.Int64

	closing sync.Once
}

// NewServer starts a server with an empty log and closes it when the test ends. An
// Example has no testing.TB: it passes nil, failures panic, and it closes the server.
func NewServer(tb testing.TB) *Server {
	s := &Server{tb: tb}
	var err error
	if s.dir, err = os.MkdirTemp("", "rstreamtest"); err != nil {
		s.failTest(err)
	}
	s.db, err = cache.Open(context.Background(), filepath.Join(s.dir, "log.db"), cache.Config{Role: cache.Server})
	if err != nil {
		_ = os.RemoveAll(s.dir)
		s.failTest(err)
	}
	// Tests should not wait: streams report their position often, and clients reconnect at
	// once.
	s.srv = server.New(s.db, server.Config{Heartbeat: 100 * time.Millisecond, Retry: 10 * time.Millisecond})
	s.web = httptest.NewServer(s.srv)
	s.URL = s.web.URL
	if tb != nil {
		tb.Cleanup(s.Close)
	}
	return s
}

// Log returns the name of the log.
func (s *Server) Log() string { return s.db.Log() }

// Head returns the newest position of the log.
func (s *Server) Head() event.ID { return s.db.Head() }

// Put sets the value of a storage, written user/path, to the JSON encoding of value, and
// returns the event. It appends an event even if the value has not changed.
func (s *Server) Put(storage string, value any) event.Event {
	s.helper()()
	text, err := json.Marshal(value)
	if err != nil {
		s.failTest(err)
	}
	return s.appendDraft(storage, event.Put, text)
}

// Delete deletes the value of a storage, written user/path, and returns the event.
func (s *Server) Delete(storage string) event.Event {
	s.helper()()
	return s.appendDraft(storage, event.Del, nil)
}

// PutDrafts appends drafts, all or none, and returns their receipts.
func (s *Server) PutDrafts(drafts ...event.Draft) []event.Receipt {
	s.helper()()
	receipts, err := s.db.Append(context.Background(), drafts)
	if err != nil {
		s.failTest(err)
	}
	return receipts
}

func (s *Server) appendDraft(storage string, kind event.Type, value []byte) event.Event {
	s.helper()()
	at, err := event.ParseStorage(storage)
	if err != nil {
		s.failTest(err)
	}
	// Without a key of its own, an equal draft would be a duplicate.
	key := strconv.FormatInt(s.keys.Add(1), 10)
	return s.PutDrafts(event.Draft{User: at.User, Path: at.Path, Type: kind, Key: key, Value: value})[0].Event
}

// CloseClientConnections cuts every connection, as a network failure does.
func (s *Server) CloseClientConnections() { s.web.CloseClientConnections() }

// Close ends all streams, stops the server and removes its log. Closing twice is fine.
func (s *Server) Close() {
	s.closing.Do(func() {
		s.srv.Stop()
		s.web.Close()
		if err := errors.Join(s.db.Close(), os.RemoveAll(s.dir)); err != nil {
			s.failTest(err)
		}
	})
}

// helper returns tb.Helper. Called by a method, that marks the method: a failure is then
// reported at the line of the test.
func (s *Server) helper() func() {
	if s.tb == nil {
		return func() {}
	}
	return s.tb.Helper
}

// failTest ends the test, or panics if there is none.
func (s *Server) failTest(err error) {
	s.helper()()
	err = fmt.Errorf("rstreamtest: %w", err)
	if s.tb == nil {
		panic(err)
	}
	s.tb.Fatal(err)
}
