// Indexer keeps an index of a remote event stream: how many events each user has
// written. It shows where a durable cursor belongs: in the same file as the data derived
// from the events, written in the same step. Then each event counts once, even if the
// program is killed at any point.
//
//	indexer -server http://127.0.0.1:8420 -index index.json
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"os/signal"
	"path/filepath"

	"github.com/rstream-dev/rstream/cache"
	"github.com/rstream-dev/rstream/client"
	"github.com/rstream-dev/rstream/event"
)

func main() {
	server := flag.String("server", "http://127.0.0.1:8420", "base `URL` of the server")
	file := flag.String("index", "index.json", "`file` of the index")
	once := flag.Bool("once", false, "end at the head of the log")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, *server, *file, *once); err != nil && !errors.Is(err, context.Canceled) {
		fmt.Fprintln(os.Stderr, "indexer:", err)
		os.Exit(1)
	}
}

// run brings the index up to date. Unless once is set, it keeps it up to date until ctx
// ends.
func run(ctx context.Context, server, file string, once bool) error {
	cfg := client.Config{Servers: []string{server}}
	info, err := client.Probe(ctx, cfg)
	if err != nil {
		return err
	}
	db, err := cache.Open(ctx, file+".copy.db", cache.Config{Role: cache.Client, Log: info.Log})
	if err != nil {
		return err
	}
	defer db.Close()
	c, err := client.New(db, cfg)
	if err != nil {
		return err
	}
	defer c.Close()

	index, err := readIndex(file)
	if err != nil {
		return err
	}
	opts := client.TailOptions{Range: client.Range{Since: event.At(index.Cursor)}, UntilLive: once}
	for batch, err := range c.Batches(ctx, []event.Topic{event.All}, opts) {
		if err != nil {
			return err
		}
		for _, ev := range batch.Events {
			index.Events[ev.User]++
		}
		index.Cursor = event.CursorOf(batch.Position, info.Log)
		if err := index.write(file); err != nil {
			return err
		}
	}
	return nil
}

// An Index is the result of all events up to Cursor.
type Index struct {
	Cursor event.Cursor   `json:"cursor"`
	Events map[string]int `json:"events"` // of each user
}

func readIndex(file string) (*Index, error) {
	index := &Index{Events: map[string]int{}}
	text, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return index, nil
	}
	if err == nil {
		err = json.Unmarshal(text, index)
	}
	return index, err
}

// write replaces the file atomically, with the cursor and the counts.
func (index *Index) write(file string) error {
	text, err := json.Marshal(index)
	if err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(file), "index")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	_, err = f.Write(text)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	return os.Rename(f.Name(), file)
}
