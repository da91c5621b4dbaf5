package event_test

import (
	"fmt"

	"github.com/rstream-dev/rstream/event"
)

// An author knows the hash of an append before any server has seen it:
//
//	printf 'rstream1\0%s\0%s\0%s\0%s\0%s' alice posts/1 PUT k1 '{"n":1}' | sha256sum
func ExampleDraft_Hash() {
	value, err := event.CompactValue([]byte(`{ "n": 1 }`))
	if err != nil {
		fmt.Println(err)
		return
	}
	d := event.Draft{User: "alice", Path: "posts/1", Type: event.Put, Key: "k1", Value: value}
	fmt.Println(d.Hash())
	// Output: 90657bc6092ddb0659c8fde359202b9a7415786fa82671d01cfa3fde0a589b4a
}

func ExampleTopic() {
	posts, err := event.ParseTopic("alice/posts")
	if err != nil {
		fmt.Println(err)
		return
	}
	for _, path := range []string{"posts", "posts/42", "posts-old"} {
		fmt.Println(path, posts.Matches("alice", path))
	}
	// Output:
	// posts true
	// posts/42 true
	// posts-old false
}

func ExampleTopic_Contains() {
	// The topic that was granted, compared with topics that are requested.
	granted, err := event.ParseTopic("alice/po*")
	if err != nil {
		fmt.Println(err)
		return
	}
	for _, s := range []string{"alice/posts", "alice/posts/1$", "alice", "*/posts"} {
		asked, err := event.ParseTopic(s)
		if err != nil {
			fmt.Println(err)
			return
		}
		fmt.Println(asked, granted.Contains(asked), granted.Overlaps(asked))
	}
	// Output:
	// alice/posts true true
	// alice/posts/1$ true true
	// alice false true
	// */posts false true
}

func ExampleParseTopic() {
	for _, s := range []string{"alice/", "alice/*", "alice/posts/*", "*/*", "alice//posts"} {
		fmt.Println(event.ParseTopic(s))
	}
	// Output:
	// alice <nil>
	// alice <nil>
	// alice/posts/ <nil>
	// * <nil>
	// * parse topic "alice//posts": path "/posts": must not have an empty segment
}
