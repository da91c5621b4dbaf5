package client

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"slices"
	"testing"

	"github.com/rstream-dev/rstream/cache"
	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/internal/longtest"
)

// commits returns how many transactions are in the write-ahead log of a file.
func commits(t testing.TB, path string) (n int) {
	wal, err := os.ReadFile(path + "-wal")
	if err != nil {
		t.Fatal(err)
	}
	const header, frameHeader = 32, 24
	if len(wal) < header {
		return 0 // nothing was written yet
	}
	pageSize, salts := int(binary.BigEndian.Uint32(wal[8:])), wal[16:24]
	for frame := wal[header:]; len(frame) >= frameHeader+pageSize && string(frame[8:16]) == string(salts); frame = frame[frameHeader+pageSize:] {
		if binary.BigEndian.Uint32(frame[4:8]) != 0 { // the number of pages in the file, after a commit
			n++
		}
	}
	return n
}

// putInTurn appends n events of users, in turn, and returns the users' topics.
func (f *fixture) putInTurn(users, n int) (topics []event.Topic) {
	for i := range users {
		topics = append(topics, mustTopic(f.t, fmt.Sprintf("user%02d/", i)))
	}
	for at := 0; at < n; {
		var drafts []event.Draft
		for range min(1000, n-at) {
			drafts = append(drafts, event.Draft{User: fmt.Sprintf("user%02d", at%users), Path: "posts", Type: event.Put, Key: fmt.Sprint(at),
				Value: fmt.Appendf(nil, `{"n":%d,"pad":"%0*d"}`, at, 60+at%100, 0)})
			at++
		}
		if _, err := f.db.Append(f.t.Context(), drafts); err != nil {
			f.t.Fatal(err)
		}
	}
	return topics
}

// Fifty topics are fetched in one response, stored in a few transactions, and compared with
// one request each.
func TestTopicGroupCost(t *testing.T) {
	f := newFixture(t)
	topics := f.putInTurn(50, 500)
	db := f.newCache()
	c := newTestClient(t, db, Config{Servers: []string{f.http.URL}})
	before, group := commits(t, db.Path()), NewTopicGroup(topics)
	for _, topic := range topics {
		s, err := c.Sync(t.Context(), topic, SyncOptions{Group: group})
		if err != nil || s.Held != 10 {
			t.Fatalf("Sync %s: %d events held, %v, want 10", topic, s.Held, err)
		}
		sameEvents(t, topic.String(), held(t, db, topic, s), f.truth(topic.String(), "", ""))
	}
	if n := commits(t, db.Path()) - before; n < 2 || n > 8 {
		t.Errorf("fifty topics took %d transactions, want at most 8", n)
	}
	if n := c.Stats().Requests; n > 52 {
		t.Errorf("fifty topics took %d requests, want at most 52", n)
	}
}

// report is what a user sees of the sync of one topic.
type report struct {
	topic   event.Topic
	held    uint64
	windows int
	fetched int
	outcome string
}

// syncReports syncs topics one after the other, in a group or not.
func syncReports(t *testing.T, db *cache.DB, url string, topics []event.Topic, group *TopicGroup) (reports []report) {
	c := newTestClient(t, db, hasty(url))
	for _, topic := range topics {
		before := c.Stats()
		s, err := c.Sync(t.Context(), topic, SyncOptions{Group: group})
		if err != nil {
			t.Fatal(err)
		}
		shared := group.TakeShare(topic)
		reports = append(reports, report{topic, s.Held, s.Windows + shared.Windows,
			int(c.Stats().Events-before.Events) + shared.Events, s.Compared.Outcome})
	}
	return reports
}

// Topics that are synced as a group are reported as if each were synced alone, whichever
// they are and whatever the copy holds.
func TestTopicGroupReports(t *testing.T) {
	seed := rand.Uint64()
	random := rand.New(rand.NewPCG(seed, 0))
	f := newFixture(t)
	for range 40 {
		f.put([]string{"alice/posts", "alice/likes", "bob/posts", "carol/x"}[random.IntN(4)], 1+random.IntN(20))
	}
	all := []string{"alice", "alice/posts", "alice/likes", "bob", "bob/posts", "carol", "*/posts", "*"}
	for round := range longtest.Scale(4, 6, 40) {
		var topics []event.Topic
		for range 2 + random.IntN(5) {
			topics = append(topics, mustTopic(t, all[random.IntN(len(all)-round%2)]))
		}
		first, until := mustTopic(t, all[random.IntN(len(all))]), event.At(event.CursorOf(event.ID(random.IntN(60)), f.db.Log()))
		var want, got []report
		var wantWindows, gotWindows []string
		for _, group := range []*TopicGroup{nil, NewTopicGroup(topics)} {
			db := f.newCache()
			if _, err := newTestClient(t, db, hasty(f.http.URL)).Sync(t.Context(), first, SyncOptions{Range: Range{Until: &until}}); err != nil {
				t.Fatal(err)
			}
			got = syncReports(t, db, f.http.URL, topics, group)
			gotWindows = nil
			windows, err := db.Windows(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			for _, w := range windows {
				gotWindows = append(gotWindows, fmt.Sprint(w.Topic, w.Held(), w.State, w.Proven))
			}
			if group == nil {
				want, wantWindows = got, gotWindows
			}
		}
		if !slices.Equal(got, want) {
			t.Errorf("seed %d: after %s up to %s, %v\n got %v\nwant %v", seed, first, &until, topics, got, want)
		}
		if !slices.Equal(gotWindows, wantWindows) {
			t.Errorf("seed %d: after %s up to %s, %v\n got windows %q\nwant %q", seed, first, &until, topics, gotWindows, wantWindows)
		}
	}
}

// A server that refuses requests of several topics gets one for each.
func TestTopicGroupRefused(t *testing.T) {
	f := newFixture(t)
	topics := f.putInTurn(5, 50)
	refused := 0
	f.through(func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			several := len(r.URL.Query()["topic"]) > 1
			if r.URL.Path == "/events" && several {
				refused++
				r.URL.RawQuery = "topic=alice&topic=bob&nonsense" // which the server refuses
			}
			next.ServeHTTP(w, r)
		})
	})
	for _, r := range syncReports(t, f.newCache(), f.http.URL, topics, NewTopicGroup(topics)) {
		if want := (report{r.topic, 10, r.windows, 10, "pull"}); r != want || r.windows < 1 {
			t.Errorf("got %v, want %v", r, want)
		}
	}
	if refused == 0 {
		t.Error("no request had several topics")
	}
}
