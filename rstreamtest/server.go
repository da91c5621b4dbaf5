// Package rstreamtest runs rstream servers for tests, as net/http/httptest does for HTTP.
//
// A [Server] is a real one: on a port of the loopback interface, with a log in a
// file of its own, which is empty at first and goes away with the server. Programs
// under test reach it by its URL; tests append with its methods, or with a client.
//
// The package is for tests alone: it panics or ends the test where something fails
// that cannot be a fault of the program under test.
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

// A Server serves an empty log on the loopback interface. Its methods may be called from
// several goroutines.
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

// NewServer starts a server with an empty log, and closes it when the test ends. An
// Example has no test: then tb is nil, failures panic, and the caller closes the server.
func NewServer(tb testing.TB) *Server {
	s := &Server{tb: tb}
	var err error
	if s.dir, err = os.MkdirTemp("", "rstreamtest"); err != nil {
		s.fail(err)
	}
	s.db, err = cache.Open(context.Background(), filepath.Join(s.dir, "log.db"), cache.Config{Role: cache.Server})
	if err != nil {
		_ = os.RemoveAll(s.dir)
		s.fail(err)
	}
	// Readers need not wait: a stream tells its position often, and comes back at once.
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

// Put sets the value of a storage, user/path, to value, which must be something that
// package encoding/json can encode. It appends an event even if the value is the same as
// before.
func (s *Server) Put(storage string, value any) event.Event {
	s.helper()
	text, err := json.Marshal(value)
	if err != nil {
		s.fail(err)
	}
	return s.append(storage, event.Put, text)
}

// Delete deletes the value of a storage, user/path.
func (s *Server) Delete(storage string) event.Event {
	s.helper()
	return s.append(storage, event.Del, nil)
}

// PutDrafts appends drafts, all or none, and returns what the log made of them.
func (s *Server) PutDrafts(drafts ...event.Draft) []event.Receipt {
	s.helper()
	receipts, err := s.db.Append(context.Background(), drafts)
	if err != nil {
		s.fail(err)
	}
	return receipts
}

func (s *Server) append(storage string, kind event.Type, value []byte) event.Event {
	s.helper()
	at, err := event.ParseStorage(storage)
	if err != nil {
		s.fail(err)
	}
	// The key makes each event one of its own.
	key := strconv.FormatInt(s.keys.Add(1), 10)
	return s.PutDrafts(event.Draft{User: at.User, Path: at.Path, Type: kind, Key: key, Value: value})[0].Event
}

// CloseClientConnections cuts every connection, as a network does.
func (s *Server) CloseClientConnections() { s.web.CloseClientConnections() }

// Close ends all streams and the server, and removes its log. Closing twice is fine.
func (s *Server) Close() {
	s.closing.Do(func() {
		s.srv.Stop()
		s.web.Close()
		if err := errors.Join(s.db.Close(), os.RemoveAll(s.dir)); err != nil {
			s.fail(err)
		}
	})
}

func (s *Server) helper() {
	if s.tb != nil {
		s.tb.Helper()
	}
}

// fail ends the test.
func (s *Server) fail(err error) {
	s.helper()
	err = fmt.Errorf("rstreamtest: %w", err)
	if s.tb == nil {
		panic(err)
	}
	s.tb.Fatal(err)
}
