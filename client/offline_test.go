package client_test

import (
	"errors"
	"path/filepath"
	"testing"

	"github.com/rstream-dev/rstream/cache"
	"github.com/rstream-dev/rstream/client"
	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/rstreamtest"
)

// A program that starts without a network reads its copy and appends to its outbox.
func TestStartOffline(t *testing.T) {
	server := rstreamtest.NewServer(t)
	server.Put("alice/x", 1)
	path := filepath.Join(t.TempDir(), "copy.db")
	topic, err := event.ParseTopic("alice")
	if err != nil {
		t.Fatal(err)
	}
	use := func(cfg cache.Config, fn func(*cache.DB, *client.Client)) {
		t.Helper()
		db, err := cache.Open(t.Context(), path, cfg)
		if err != nil {
			t.Fatal(err)
		}
		defer db.Close()
		c, err := client.New(db, client.Config{Servers: []string{server.URL}})
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		fn(db, c)
	}
	use(cache.Config{Role: cache.Client, Log: server.Log()}, func(_ *cache.DB, c *client.Client) {
		if _, err := c.Sync(t.Context(), topic, client.SyncOptions{}); err != nil {
			t.Fatal(err)
		}
	})
	server.Close()
	use(cache.Config{}, func(db *cache.DB, c *client.Client) {
		evs, _, err := db.Read(t.Context(), []event.Topic{topic}, event.Beginning, event.MaxID, 10)
		if err != nil || len(evs) != 1 || string(evs[0].Value) != "1" {
			t.Errorf("Read = %v, %v", evs, err)
		}
		draft := event.Draft{User: "alice", Path: "x", Type: event.Put, Key: "k", Value: []byte("2")}
		if _, err := db.Outbox().Queue(t.Context(), []event.Draft{draft}); err != nil {
			t.Errorf("Queue: %v", err)
		}
		var unreachable *client.UnreachableError
		if _, err := c.Send(t.Context(), nil); !errors.As(err, &unreachable) {
			t.Errorf("Send = %v", err)
		}
	})
}
