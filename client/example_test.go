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

// example starts a server with three events and opens a copy of its log.
func example(ctx context.Context) (c *client.Client, end func(), err error) {
	dir, err := os.MkdirTemp("", "rstream")
	if err != nil {
		return nil, nil, err
	}
	s := rstreamtest.NewServer(nil)
	s.Put("alice/posts/1", map[string]int{"n": 1})
	s.Put("bob/posts/1", map[string]int{"n": 2})
	s.Put("alice/posts/2", map[string]int{"n": 3})
	copied, err := cache.Open(ctx, filepath.Join(dir, "copy.db"), cache.Config{Role: cache.Client, Log: s.Log()})
	if err != nil {
		return nil, nil, err
	}
	c, err = client.New(copied, client.Config{Servers: []string{s.URL}})
	return c, func() {
		c.Close()
		copied.Close()
		s.Close()
		os.RemoveAll(dir)
	}, err
}

// A tail returns history and then follows live.
func ExampleClient_Tail() {
	ctx := context.Background()
	c, end, err := example(ctx)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer end()
	alice, err := event.ParseTopic("alice")
	if err != nil {
		fmt.Println(err)
		return
	}
	n := 0
	for ev, err := range c.Tail(ctx, alice, client.TailOptions{}) {
		if err != nil {
			fmt.Println(err)
			return
		}
		fmt.Printf("%s %s %s\n", ev.ID, ev.Storage(), ev.Value)
		if n++; n == 2 {
			break
		}
	}
	// Output:
	// 0000000000001 alice/posts/1 {"n":1}
	// 0000000000003 alice/posts/2 {"n":3}
}

// A second sync of the same range fetches nothing.
func ExampleClient_Sync() {
	ctx := context.Background()
	c, end, err := example(ctx)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer end()
	alice, err := event.ParseTopic("alice/posts")
	if err != nil {
		fmt.Println(err)
		return
	}
	for range 2 {
		s, err := c.Sync(ctx, alice, client.SyncOptions{})
		if err != nil {
			fmt.Println(err)
			return
		}
		fmt.Printf("%d new, held up to %s\n", s.Added, s.Span.To)
	}
	// Output:
	// 2 new, held up to 0000000000003
	// 0 new, held up to 0000000000003
}

// The state of a topic at a moment is the last value of each storage: here after two of
// the three events, and now. The events fetched for it are kept, so asking again needs no
// server.
func ExampleClient_State() {
	ctx := context.Background()
	c, end, err := example(ctx)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer end()
	after2, err := event.ParseMoment("0000000000002")
	if err != nil {
		fmt.Println(err)
		return
	}
	for _, at := range []event.Moment{after2, event.Now} {
		for ev, err := range c.State(ctx, event.All, at) {
			if err != nil {
				fmt.Println(err)
				return
			}
			fmt.Println(at, ev.Storage(), string(ev.Value))
		}
	}
	// Output:
	// 0000000000002 alice/posts/1 {"n":1}
	// 0000000000002 bob/posts/1 {"n":2}
	// now alice/posts/1 {"n":1}
	// now alice/posts/2 {"n":3}
	// now bob/posts/1 {"n":2}
}

// Following a topic gives its state and then each change.
func ExampleClient_Follow() {
	ctx := context.Background()
	c, end, err := example(ctx)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer end()
	for b, err := range c.Follow(ctx, event.Exactly(event.Storage{User: "alice", Path: "posts/1"})) {
		if err != nil {
			fmt.Println(err)
			return
		}
		for _, ev := range b.Events {
			fmt.Println(ev.Type, string(ev.Value))
			if !b.State {
				return
			}
		}
		if b.State && b.Events == nil {
			fmt.Println("that was the state")
			_, err := c.Put(ctx, []event.Draft{{User: "alice", Path: "posts/1", Type: event.Del, Key: "d"}})
			if err != nil {
				fmt.Println(err)
				return
			}
		}
	}
	// Output:
	// PUT {"n":1}
	// that was the state
	// DEL
}
