//go:build unix

package main

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/rstream-dev/rstream/cache"
	"github.com/rstream-dev/rstream/client"
	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/internal/server"
)

// stopped returns a context that a signal has ended.
func stopped(t *testing.T) (context.Context, error) {
	ctx, cancel := context.WithCancelCause(t.Context())
	cause := &signalError{syscall.SIGTERM}
	cancel(cause)
	return ctx, cause
}

// Lines that were not read since the command was stopped are not the end of the input.
func TestSendLinesStopped(t *testing.T) {
	ctx, cause := stopped(t)
	closed := make(chan lineItem)
	close(closed)
	for range 20 { // the end of the lines, and the signal, are both there
		if _, _, err := nextBatch(ctx, closed); !errors.Is(err, cause) {
			t.Fatalf("nextBatch = %v, want %v", err, cause)
		}
	}
	var claim *claimError
	refuse := func([]event.Draft) (fate, showFunc, error) { return untaken, nil, context.Cause(ctx) }
	err := sendLines(ctx, strings.NewReader(numbered(10)), &lineClaim{name: "in"}, refuse, parseEvent)
	if !errors.As(err, &claim) || claim.claim != "nothing was appended" {
		t.Errorf("sendLines = %v", err)
	}
}

// What else has failed when a signal has ended a command is reported.
func TestReportStopped(t *testing.T) {
	ctx, cause := stopped(t)
	full := errors.New("disk full")
	for _, c := range []struct {
		err    error
		status int
		said   string
	}{
		{nil, exitTerminated, ""},
		{cause, exitTerminated, ""},
		{errors.Join(cause, &exitError{status: exitGap}), exitTerminated, ""},
		{errors.Join(context.Canceled, cause), exitTerminated, ""},
		{&claimError{err: cause, text: "terminated", claim: "nothing was appended"}, exitTerminated, "rstream: error: terminated; nothing was appended\n"},
		{errors.Join(cause, full), exitFailed, "rstream: error: terminated\nrstream: error: disk full\n"},
		{full, exitFailed, "rstream: error: disk full\n"},
	} {
		var said strings.Builder
		a := &app{err: &said}
		if status := a.reportError(ctx, &said, nil, c.err); status != c.status || said.String() != c.said {
			t.Errorf("%v: status %d, %q, want %d, %q", c.err, status, said.String(), c.status, c.said)
		}
	}
}

// A refusal that has ended a command is not one of the topics that it reads.
func TestRefusedElsewhere(t *testing.T) {
	db, err := cache.Open(t.Context(), filepath.Join(t.TempDir(), "copy.db"), cache.Config{Role: cache.Client, Log: event.NewLogID([10]byte{1})})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	c, err := client.New(db, client.Config{Servers: []string{"http://127.0.0.1:1"}})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	topics := []event.Topic{parseTopic(t, "alice"), parseTopic(t, "bob")}
	ctx, cancel := context.WithCancelCause(t.Context())
	refusal := &client.StatusError{Status: http.StatusUnauthorized, Topic: &topics[0]}
	cancel(refusal)
	var said strings.Builder
	allowed := allowedTopics{a: &app{err: &said}, verb: "sync", left: topics}
	for _, err := range allowed.batches(ctx, &session{Client: c, db: db}, client.TailOptions{}) {
		if !errors.Is(err, refusal) {
			t.Errorf("batches: %v, want %v", err, refusal)
		}
	}
	if said.Len() > 0 || len(allowed.left) != 2 {
		t.Errorf("%d topics are left: %s", len(allowed.left), &said)
	}
}

func parseTopic(t *testing.T, text string) event.Topic {
	topic, err := event.ParseTopic(text)
	if err != nil {
		t.Fatal(err)
	}
	return topic
}

// If a command is stopped while it carries over what a restored log shares with the copy, or the
// server refuses a request of it, the next one goes on: the copy's cursors would be lost.
func TestCarryOverGoesOn(t *testing.T) {
	for name, fail := range map[string]func(stop func(), w http.ResponseWriter, r *http.Request){
		"stopped": func(stop func(), _ http.ResponseWriter, r *http.Request) {
			stop()
			<-r.Context().Done()
		},
		"refused": func(_ func(), w http.ResponseWriter, _ *http.Request) { http.Error(w, "not now", http.StatusNotFound) },
	} {
		t.Run(name, func(t *testing.T) { checkCarryOver(t, fail) })
	}
}

func checkCarryOver(t *testing.T, fail func(stop func(), w http.ResponseWriter, r *http.Request)) {
	dir := t.TempDir()
	for _, name := range []string{"HOME", "XDG_DATA_HOME", "XDG_CONFIG_HOME"} {
		t.Setenv(name, dir)
	}
	old, log := openRestored(t, dir)
	srv := server.New(log, server.Config{})
	defer srv.Stop()
	ctx, cancel := context.WithCancelCause(t.Context())
	defer cancel(nil)
	asked, failing := 0, 2 // after the question what log it is
	web := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if asked++; asked >= failing && failing > 0 {
			fail(func() { cancel(&signalError{os.Interrupt}) }, w, r)
			return
		}
		srv.ServeHTTP(w, r)
	}))
	defer web.Close()
	_, err := newDataFile(old)
	if err := errors.Join(err, learnServers(old, web.URL)); err != nil {
		t.Fatal(err)
	}
	db, err := cache.Open(t.Context(), filepath.Join(dir, "copy.db"), cache.Config{Role: cache.Client, Log: old})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if _, err := db.SetCursor(t.Context(), "worker", []event.Topic{parseTopic(t, "alice")}, 1); err != nil {
		t.Fatal(err)
	}
	s := &session{db: db, app: &app{servers: []string{web.URL}, err: io.Discard}}
	other := &client.OtherLogError{URL: web.URL, Got: log.Log(), Want: old}
	newFile, err := s.newFile(log.Log())
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{old, log.Log()} {
		err = s.explainOtherLog(ctx, other)
		known, failed := loadServers()
		if !errors.Is(err, context.Cause(ctx)) && ctx.Err() != nil || failed != nil || known[web.URL] != want {
			t.Fatalf("explainOtherLog = %v; the servers are %v, %v, want %s", err, known, failed, want)
		}
		if hint := hintFor(nil, err); want == old && !strings.Contains(hint, "--cache "+shellWord(newFile)+" goes on without") {
			t.Errorf("the hint is %q", hint)
		}
		failing, ctx = 0, t.Context()
	}
	next, err := cache.Open(t.Context(), newFile, cache.Config{})
	if err != nil {
		t.Fatal(err)
	}
	defer next.Close()
	if cursors, err := next.Cursors(t.Context()); err != nil || len(cursors) != 1 || cursors[0].Name != "worker" || cursors[0].Position != 1 {
		t.Errorf("carried over are the cursors %+v, %v", cursors, err)
	}
}

// openRestored returns the id of a log of one event, and another log that was restored from it.
func openRestored(t *testing.T, dir string) (old string, log *cache.DB) {
	t.Helper()
	db := openNewLog(t, filepath.Join(dir, "log.db"))
	if _, err := db.Append(t.Context(), []event.Draft{{User: "alice", Path: "x", Type: event.Put, Key: "1", Value: []byte("1")}}); err != nil {
		t.Fatal(err)
	}
	backup := filepath.Join(dir, "backup.db")
	if err := errors.Join(db.BackupTo(t.Context(), backup), db.Close()); err != nil {
		t.Fatal(err)
	}
	log, err := cache.Open(t.Context(), backup, cache.Config{Role: cache.Server})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { log.Close() })
	return db.Log(), log
}

// A health check that ran out of time does not say that the copy is behind.
func TestStatusCheckLate(t *testing.T) {
	path := filepath.Join(t.TempDir(), "copy.db")
	db, err := cache.Open(t.Context(), path, cache.Config{Role: cache.Client, Log: event.NewLogID([10]byte{1})})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	ctx, cancel := context.WithDeadline(t.Context(), time.Unix(1, 0))
	defer cancel()
	r := statusReport{Reachable: true, Head: new(event.ID), File: path, Log: db.Log(), ServerLog: db.Log(), Role: cache.Client, Followed: []event.Topic{event.All}}
	if err := r.compareServer(ctx, &app{servers: []string{"http://127.0.0.1:1"}}, db, statusOptions{check: true}); statusOf(err) != exitUnreachable {
		t.Errorf("compareServer: %v", err)
	}
}

// To be stopped while a file is opened says nothing about the file.
func TestOutFileStopped(t *testing.T) {
	ctx, cause := stopped(t)
	path := filepath.Join(t.TempDir(), "no", "file")
	if err := writeSalvageTo(ctx, nil, path, nil); !errors.Is(err, cause) {
		t.Errorf("writeSalvageTo = %v, want %v", err, cause)
	}
}
