package server

import (
	"context"
	"database/sql"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"

	"github.com/rstream-dev/rstream/cache"
	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/internal/pagetest"
)

// damagedLog serves a log of 300 events, of which event 150 has a flipped bit.
func damagedLog(t *testing.T) (db *cache.DB, request func(method, path, body string) (status int, text string)) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "log.db")
	db, err := cache.Open(t.Context(), path, cache.Config{Role: cache.Server, Log: logName})
	if err != nil {
		t.Fatal(err)
	}
	var ds []event.Draft
	for i := range 300 {
		ds = append(ds, event.Draft{User: "alice", Path: fmt.Sprint("p/", i%30), Type: event.Put, Key: fmt.Sprint(i), Value: []byte(`{"n":1}`)})
	}
	if _, err := db.Append(t.Context(), ds); err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	raw, err := sql.Open("sqlite", path)
	if err != nil {
		t.Fatal(err)
	}
	defer raw.Close()
	if err := pagetest.Flip(raw, 150, 777); err != nil {
		t.Fatal(err)
	}
	if db, err = cache.Open(t.Context(), path, cache.Config{Role: cache.Server}); err != nil {
		t.Fatal(err)
	}
	srv := New(db, Config{})
	server := httptest.NewServer(srv)
	t.Cleanup(func() {
		srv.Stop()
		server.Close()
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	})
	return db, func(method, path, body string) (int, string) {
		t.Helper()
		r, err := http.NewRequestWithContext(context.Background(), method, server.URL+path, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		res, err := server.Client().Do(r)
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		b, err := io.ReadAll(res.Body)
		if err != nil {
			t.Fatal(err)
		}
		return res.StatusCode, string(b)
	}
}

// A flipped bit is 500 for the range that needs its page, and for nothing else.
func TestDamagedPage(t *testing.T) {
	db, request := damagedLog(t)
	_, next, err := db.Read(t.Context(), []event.Topic{event.All}, 0, 300, 1000)
	if err != nil || next < 100 || next > 149 {
		t.Fatalf("the log can be read up to %d: %v", next, err)
	}
	sound := int(next) // events before the page of event 150
	for _, c := range []struct {
		path   string
		status int
		events int
	}{
		{"/events?topic=*&since=0&until=" + event.ID(100).String() + "&limit=1000", 200, 100},
		{"/events?topic=*&since=0&limit=1000", 200, sound},
		{"/events?topic=alice/p/20&since=0&limit=1000", 200, (sound + 9) / 30},
		{"/events?topic=*&since=" + next.String() + "&limit=1000", 500, 0},
		{"/events?topic=*&since=" + event.ID(149).String() + "&limit=10", 500, 0},
		{"/events?topic=*&since=" + event.ID(200).String() + "&limit=1000", 200, 100},
	} {
		status, body := request(http.MethodGet, c.path, "")
		if status != c.status || status == 200 && strings.Count(body, `"hash":`) != c.events {
			t.Errorf("%s is %d with %d events: %.200s", c.path, status, strings.Count(body, `"hash":`), body)
		}
	}
	if status, body := request(http.MethodPost, "/set/alice/p/1", `{"value":1}`); status != 201 || db.Head() != 301 {
		t.Errorf("an append is %d: %s", status, body)
	}
	if status, body := request(http.MethodGet, "/readyz", ""); status != 200 {
		t.Errorf("/readyz is %d: %s", status, body)
	}
}
