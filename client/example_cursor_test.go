package client_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"github.com/rstream-dev/rstream/cache"
	"github.com/rstream-dev/rstream/client"
	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/rstreamtest"
)

// handleNew prints the events that no earlier call has handled. Without UntilLive it would
// then wait for more.
func handleNew(ctx context.Context, db *cache.DB, c *client.Client) error {
	topics := []event.Topic{event.All}
	cursor, err := db.HoldCursor(ctx, "printer", topics)
	if err != nil {
		return err
	}
	// A signal that ends ctx does not stop the cursor from being moved and released.
	moving := context.WithoutCancel(ctx)
	defer cursor.Release(moving)

	since := event.At(event.CursorOf(cursor.Position(), db.Log()))
	opts := client.TailOptions{Range: client.Range{Since: since}, UntilLive: true}
	for batch, err := range c.Batches(ctx, topics, opts) {
		if err != nil {
			return err
		}
		for _, ev := range batch.Events {
			fmt.Printf("%s %s\n", ev.ID, ev.Value)
		}
		if err := cursor.Move(moving, batch.Position, nil); err != nil {
			return err
		}
	}
	return nil
}

// A named cursor in the copy stores the position up to which a program has handled
// events. If the program is killed, the events handled since the last Move are repeated, so
// the handler should be idempotent.
func ExampleClient_Batches() {
	ctx := context.Background()
	dir, err := os.MkdirTemp("", "printer")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer os.RemoveAll(dir)
	s := rstreamtest.NewServer(nil)
	defer s.Close()
	db, err := cache.Open(ctx, filepath.Join(dir, "copy.db"), cache.Config{Role: cache.Client, Log: s.Log()})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer db.Close()
	c, err := client.New(db, client.Config{Servers: []string{s.URL}})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer c.Close()
	for i := range 2 {
		s.Put("alice/posts", i)
		if err := handleNew(ctx, db, c); err != nil {
			fmt.Println(err)
			return
		}
	}
	// Output:
	// 0000000000001 0
	// 0000000000002 1
}
