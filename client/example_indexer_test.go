package client_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/rstream-dev/rstream/cache"
	"github.com/rstream-dev/rstream/client"
	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/rstreamtest"
)

// An index counts the events of each user up to a cursor. The two are stored in one
// step, so an event counts once, even if the program is killed at any point.
type index struct {
	Cursor event.Cursor   `json:"cursor"`
	Events map[string]int `json:"events"`
}

func readIndex(file string) (*index, error) {
	x := &index{Events: map[string]int{}}
	text, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return x, nil
	}
	if err == nil {
		err = json.Unmarshal(text, x)
	}
	return x, err
}

func (x *index) write(file string) error {
	text, err := json.Marshal(x)
	if err != nil {
		return err
	}
	if err := os.WriteFile(file+".new", text, 0o644); err != nil {
		return err
	}
	return os.Rename(file+".new", file)
}

// update brings the index in a file up to the head of the log. Without UntilLive it would
// then follow the log live.
func update(ctx context.Context, server, file string) (*index, error) {
	cfg := client.Config{Servers: []string{server}}
	info, err := client.Probe(ctx, cfg)
	if err != nil {
		return nil, err
	}
	db, err := cache.Open(ctx, file+".copy.db", cache.Config{Role: cache.Client, Log: info.Log})
	if err != nil {
		return nil, err
	}
	defer db.Close()
	c, err := client.New(db, cfg)
	if err != nil {
		return nil, err
	}
	defer c.Close()

	x, err := readIndex(file)
	if err != nil {
		return nil, err
	}
	opts := client.TailOptions{Range: client.Range{Since: event.At(x.Cursor)}, UntilLive: true}
	for batch, err := range c.Batches(ctx, []event.Topic{event.All}, opts) {
		if err != nil {
			return nil, err
		}
		for _, ev := range batch.Events {
			x.Events[ev.User]++
		}
		x.Cursor = event.CursorOf(batch.Position, info.Log)
		if err := x.write(file); err != nil {
			return nil, err
		}
	}
	return x, nil
}

// An indexer stores its cursor together with the data that it derives from the events. It
// resumes from there, even after a crash.
func Example_indexer() {
	dir, err := os.MkdirTemp("", "indexer")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer os.RemoveAll(dir)
	s := rstreamtest.NewServer(nil)
	defer s.Close()
	for i := range 3 {
		s.Put("alice/posts", i)
		s.Put("bob/posts", i)
		x, err := update(context.Background(), s.URL, filepath.Join(dir, "index.json"))
		if err != nil {
			fmt.Println(err)
			return
		}
		fmt.Println(x.Cursor.ID, x.Events)
	}
	// Output:
	// 0000000000002 map[alice:1 bob:1]
	// 0000000000004 map[alice:2 bob:2]
	// 0000000000006 map[alice:3 bob:3]
}
