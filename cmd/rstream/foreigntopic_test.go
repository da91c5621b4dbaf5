package main

import (
	"testing"

	"github.com/rstream-dev/rstream/event"
)

func TestForeignTopics(t *testing.T) {
	for _, c := range []struct{ arg, wildcard, meant string }{
		{"alice.posts.>", ">", "alice/posts/"},
		{"alice.>", ">", "alice"},
		{">", ">", "*"},
		{"alice/>", ">", "alice"},
		{"alice/posts/>", ">", "alice/posts/"},
		{"#", "#", "*"},
		{"alice/#", "#", "alice"},
		{"alice/posts/#", "#", "alice/posts"},
		{"alice/+", "+", "alice"},
		{"alice/posts/+", "+", "alice/posts/"},
		{"alice/+/likes", "+", "alice"},
		{"+/posts", "+", "*/posts"},
		{"+/posts/#", "+", "*/posts"},
		{"+/+", "+", "*"},
		{"+", "+", "*"},
		{"$SYS/#", "#", "*"},
		{"//#", "#", "*"},
		// Names that only contain a wildcard character.
		{"alice", "", ""},
		{"alice/posts/", "", ""},
		{"c#/x", "", ""},
		{"alice/a>b", "", ""},
		{"alice/#1", "", ""},
		{"alice/#/x", "", ""},
		{"a+b/c+d", "", ""},
		{"alice.example.com", "", ""},
		{"*/posts", "", ""},
		{"*", "", ""},
		{"", "", ""},
	} {
		if wildcard, meant := foreignTopic(c.arg); wildcard != c.wildcard || meant != c.meant {
			t.Errorf("foreignTopic(%q) = %q, %q, want %q, %q", c.arg, wildcard, meant, c.wildcard, c.meant)
		}
	}
}

func TestDottedTopics(t *testing.T) {
	for text, want := range map[string]string{
		"alice.posts": "alice/posts", "alice.posts.1": "alice/posts/1", "alice": "", "alice/a.b": "", "a..b": "", ".a": "", "*": "",
	} {
		topic, err := event.ParseTopic(text)
		if err != nil {
			t.Fatal(err)
		}
		if got := dottedTopic(topic); got != want {
			t.Errorf("dottedTopic(%s) = %q, want %q", text, got, want)
		}
	}
}
