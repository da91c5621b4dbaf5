package event

import (
	"strings"
	"testing"
)

func TestUsageFolder(t *testing.T) {
	for _, c := range []struct{ topic, storage, want string }{
		{"*", "alice/posts/1", "alice/"},
		{"*", "alice/x", "alice/"},
		{"alice", "alice/posts/1", "alice/posts/"},
		{"alice", "alice/x", "alice/x"},
		{"alice/posts", "alice/posts", "alice/posts"},
		{"alice/posts", "alice/posts/1", "alice/posts/1"},
		{"alice/posts", "alice/posts/1/a/b", "alice/posts/1/"},
		{"alice/posts/", "alice/posts/1", "alice/posts/1"},
		{"alice/posts/", "alice/posts/1/a", "alice/posts/1/"},
		{"alice/po*", "alice/posts/1/a", "alice/posts/"},
		{"alice/po*", "alice/pox", "alice/pox"},
		{"alice/posts/1$", "alice/posts/1", "alice/posts/1"},
		{"*/posts", "bob/posts/1/a", "bob/posts/1/"},
		{"*/posts", "bob/posts", "bob/posts"},
		{"alice/posts", "bob/x", "bob/x"},
	} {
		topic, err := ParseTopic(c.topic)
		if err != nil {
			t.Fatal(err)
		}
		s, err := ParseStorage(c.storage)
		if err != nil {
			t.Fatal(err)
		}
		u := Usage{User: s.User, Path: s.Path, Count: 2, Type: Put}.Folder(topic)
		isFolder := strings.HasSuffix(c.want, "/")
		if u.Name() != c.want || u.IsFolder() != isFolder || (u.Storages == 1) != isFolder || (u.Type == Put) == isFolder {
			t.Errorf("%s in %s is %+v, want %s", c.storage, c.topic, u, c.want)
		}
	}
}

func TestAppendUsage(t *testing.T) {
	var list []Usage
	for _, u := range []Usage{
		{User: "a", Path: "p/", Storages: 1, Count: 2, Bytes: 10, First: 5, Last: 9, Time: 90},
		{User: "a", Path: "p/", Storages: 1, Count: 1, Bytes: 5, First: 3, Last: 3, Time: 30},
		{User: "a", Path: "p/", Storages: 2, Count: 4, Bytes: 7, First: 6, Last: 12, Time: 120, Damaged: true},
		{User: "a", Path: "p/", Storages: 1, Damaged: true},
		{User: "a", Path: "q", Count: 1, First: 4, Last: 4},
		{User: "a", Path: "q", Count: 1, First: 4, Last: 4},
		{User: "a", Path: "", Storages: 1, Damaged: true},
		{User: "a", Path: "", Storages: 1, Count: 1, First: 7, Last: 7, Time: 70},
		{User: "b", Path: "", Storages: 1, Count: 1, First: 8, Last: 8, Time: 80},
	} {
		list = AppendUsage(list, u)
	}
	want := []Usage{
		{User: "a", Path: "p/", Storages: 5, Count: 7, Bytes: 22, First: 3, Last: 12, Time: 120, Damaged: true},
		{User: "a", Path: "q", Count: 1, First: 4, Last: 4},
		{User: "a", Path: "q", Count: 1, First: 4, Last: 4},
		{User: "a", Path: "", Storages: 2, Count: 1, First: 7, Last: 7, Time: 70, Damaged: true},
		{User: "b", Path: "", Storages: 1, Count: 1, First: 8, Last: 8, Time: 80},
	}
	if len(list) != len(want) {
		t.Fatalf("%+v", list)
	}
	for i := range want {
		if list[i] != want[i] {
			t.Errorf("%+v, want %+v", list[i], want[i])
		}
	}
}
