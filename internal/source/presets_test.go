package source

import (
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
)

// The servers of this file behave as those of the presets are known to, with their traps.
// Each ends a connection after a few events.

// follows follows the source at address as kind to the end that the kind marks, or to
// endBlock.
func follows(t *testing.T, kind, address string) (events, gaps []string) {
	t.Helper()
	db := newLog(t)
	cfg := followConfig(t, address, kind, db)
	if _, err := Follow(t.Context(), cfg); err != nil {
		t.Fatal(err)
	}
	return eventsOf(t, db)
}

// wikimedia sends events that are spread over two topics. Two have the same time each, and
// a connection begins with all events of the time that is asked for, plus a millisecond.
type wikimedia struct {
	n       int
	unknown bool // the second topic has no events yet, and so no place
}

func (s wikimedia) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	var from []struct {
		Topic     string
		Timestamp int64
	}
	if id := r.Header.Get("Last-Event-ID"); id != "" {
		if err := json.Unmarshal([]byte(id), &from); err != nil {
			w.WriteHeader(http.StatusBadRequest)
			return
		}
	}
	io.WriteString(w, ":ok\n\n")
	sent := 0
	for i := 1; i <= s.n; i++ {
		stamp := int64(1000 + i/3) // three events have the same
		if len(from) > 0 && stamp < from[0].Timestamp+1 {
			continue
		}
		domain := "en.wikipedia.org"
		if i%10 == 0 {
			domain = "canary"
		}
		second := fmt.Sprintf(`{"topic":"codfw.x","partition":0,"timestamp":%d}`, stamp)
		if s.unknown {
			second = `{"topic":"codfw.x","partition":0,"offset":-1}`
		}
		fmt.Fprintf(w, "event: message\nid: [{\"topic\":\"eqiad.x\",\"partition\":0,\"timestamp\":%d},%s]\n", stamp, second)
		fmt.Fprintf(w, "data: {\"meta\":{\"id\":\"u%d\",\"domain\":%q,\"stream\":\"x\"},\"n\":%d}\n\n", i, domain, i)
		if sent++; sent == 7 { // in the middle of a time
			io.WriteString(w, "event: error\ndata: {\"message\":\"x\"}\n\n")
			return
		}
	}
	io.WriteString(w, endBlock)
}

func TestWikimedia(t *testing.T) {
	for _, unknown := range []bool{false, true} {
		events, gaps := follows(t, "wikimedia", serveFunc(t, wikimedia{50, unknown}.ServeHTTP))
		var got []string
		for _, value := range events {
			got = append(got, jsonMember([]byte(value), "n"))
		}
		want := slices.DeleteFunc(numbers(50), func(n string) bool { return strings.HasSuffix(n, "0") })
		if !slices.Equal(got, want) {
			t.Errorf("%d events: %s", len(got), firstDifference(got, want))
		}
		if (len(gaps) > 0) != unknown || unknown && gaps[0] != "the cursor has no place in a topic without events" {
			t.Errorf("unknown place %v: gaps %q", unknown, gaps)
		}
	}
}

// A mercure hub keeps its last events, and says from which one it goes on.
type mercure struct {
	n, keeps int
	header   string // in which it says so, if not Mercure-Last-Event-ID
}

// noHeader is one that means nothing.
const noHeader = "X-Nothing"

func (s mercure) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	asked := r.Header.Get("Last-Event-ID")
	after, err := strconv.Atoi(strings.TrimPrefix(asked, "urn:"))
	confirmed := asked
	if asked == "earliest" {
		after, err = s.n-s.keeps, nil
	}
	if err != nil || after < s.n-s.keeps {
		after, confirmed = s.n, "earliest" // it does not send what it still has
	}
	w.Header().Set(cmp.Or(s.header, "Mercure-Last-Event-ID"), confirmed)
	io.WriteString(w, ":\n")
	for i := after + 1; i <= s.n; i++ {
		fmt.Fprintf(w, "id: urn:%d\ndata: %d\n\n", i, i)
		if i == after+25 {
			return
		}
	}
	io.WriteString(w, endBlock)
}

func TestMercure(t *testing.T) {
	const lost = "the server no longer has the event after which it was asked"
	for _, header := range []string{"", "Last-Event-ID"} { // the latter before version 1
		events, gaps := follows(t, "mercure", serveFunc(t, mercure{n: 100, keeps: 100, header: header}.ServeHTTP))
		if !slices.Equal(events, numbers(100)) || len(gaps) > 0 {
			t.Errorf("header %q: %d events, gaps %q", header, len(events), gaps)
		}
	}
	_, gaps := follows(t, "mercure", serveFunc(t, mercure{n: 50, keeps: 50, header: noHeader}.ServeHTTP))
	if !slices.Equal(gaps, []string{lost, lost}) { // one for each cut
		t.Errorf("from a hub that confirms nothing: gaps %q", gaps)
	}
	// The hub drops what the follower has not read.
	for _, header := range []string{"", "Last-Event-ID"} {
		db := newLog(t)
		for _, s := range []mercure{{n: 20, keeps: 20, header: header}, {n: 60, keeps: 10, header: header}} {
			if _, err := Follow(t.Context(), followConfig(t, serveFunc(t, s.ServeHTTP), "mercure", db)); err != nil {
				t.Fatal(err)
			}
		}
		events, gaps := eventsOf(t, db)
		if want := append(numbers(20), numbers(60)[50:]...); !slices.Equal(events, want) || !slices.Equal(gaps, []string{lost}) {
			t.Errorf("header %q: events %q, gaps %q", header, events, gaps)
		}
	}
}

// ntfy has ids in the data. With poll=1 it sends its cache and ends; otherwise new messages
// overtake those of the cache. For an id that it does not know it sends all of the cache.
type ntfy struct {
	mu     sync.Mutex
	cache  []int
	asked  []string
	onLive func(s *ntfy, connection int) (frames []int, heartbeat bool) // called for each live connection, with mu held
	lives  int
}

func (s *ntfy) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	since, poll := r.URL.Query().Get("since"), r.URL.Query().Get("poll") == "1"
	s.asked = append(s.asked, r.URL.RawQuery)
	list := s.cache
	if i := slices.IndexFunc(list, func(n int) bool { return fmt.Sprintf("m%d", n) == since }); i >= 0 {
		list = list[i+1:]
	}
	heartbeat := false
	if !poll {
		io.WriteString(w, "event: open\ndata: {\"id\":\"o1\",\"event\":\"open\"}\n\n")
		s.lives++
		list, heartbeat = s.onLive(s, s.lives)
	}
	for _, n := range list {
		fmt.Fprintf(w, "data: {\"id\":\"m%d\",\"event\":\"message\",\"topic\":\"t\",\"message\":\"x\",\"n\":%d}\n\n", n, n)
	}
	if heartbeat {
		io.WriteString(w, "event: keepalive\ndata: {\"id\":\"k1\",\"event\":\"keepalive\"}\n\n")
	}
	if !poll && s.lives == 3 {
		io.WriteString(w, endBlock)
	}
}

func TestNtfy(t *testing.T) {
	// The second message of the first live connection overtakes one that the connection is
	// cut before: the next request must ask for it, and not go on after the one that came.
	s := &ntfy{cache: []int{1, 2, 3}, onLive: func(s *ntfy, connection int) ([]int, bool) {
		switch connection {
		case 1:
			s.cache = append(s.cache, 4, 5)
			return []int{5}, false
		case 2:
			s.cache = append(s.cache, 6)
			return []int{6}, true
		}
		return nil, true
	}}
	address := serveFunc(t, s.ServeHTTP)
	db := newLog(t)
	cfg := followConfig(t, address+"/t/sse", "ntfy", db)
	cfg.Knobs.EndClose = false // each poll would be the end
	if _, err := Follow(t.Context(), cfg); err != nil {
		t.Fatal(err)
	}
	events, gaps := eventsOf(t, db)
	var got []string
	for _, value := range events {
		got = append(got, jsonMember([]byte(value), "n"))
	}
	slices.Sort(got)
	if !slices.Equal(got, numbers(6)) || len(gaps) > 0 {
		t.Errorf("events %q, gaps %q, asked %q", got, gaps, s.asked)
	}
	want := []string{"poll=1&since=all", "since=m3", "poll=1&since=m3", "since=m5", "poll=1&since=m6", "since=m6"}
	if !slices.Equal(s.asked, want) {
		t.Errorf("asked %q, want %q", s.asked, want)
	}
	// A cache that has lost the cursor comes as a whole, and is not stored again.
	s.mu.Lock()
	s.cache = []int{5, 6, 7}
	s.mu.Unlock()
	if _, err := Follow(t.Context(), followConfig(t, address+"/t/sse", "ntfy", db)); err != nil {
		t.Fatal(err)
	}
	if events, _ := eventsOf(t, db); len(events) != 7 {
		t.Errorf("%d events after a cache that forgot, want 7", len(events))
	}
}

// pubky sends the events of several users, each after the cursor of that user, and closes a
// connection in silence whenever it likes.
type pubky struct{ n int }

func (s pubky) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	after, sent := map[string]int{}, 0
	for _, value := range r.URL.Query()["user"] {
		user, cursor, _ := strings.Cut(value, ":")
		after[user], _ = strconv.Atoi(cursor)
	}
	for i := 1; i <= s.n; i++ {
		user := []string{"ann", "bob"}[i%2]
		if from, followed := after[user]; !followed || i <= from {
			continue
		}
		fmt.Fprintf(w, "event: PUT\ndata: pubky://%s/pub/x/%d\ndata: cursor: %d\ndata: content_hash: aGFzaA\n\n", user, i, i)
		if sent++; sent == 9 {
			return
		}
	}
	io.WriteString(w, endBlock)
}

func TestPubky(t *testing.T) {
	db := newLog(t)
	cfg := followConfig(t, serveFunc(t, pubky{60}.ServeHTTP)+"/events-stream?user=ann&user=bob&live=true", "pubky", db)
	cfg.Knobs.EndClose = false
	if _, err := Follow(t.Context(), cfg); err != nil {
		t.Fatal(err)
	}
	events, gaps := eventsOf(t, db)
	if len(events) != 60 || len(gaps) > 0 {
		t.Errorf("%d events, gaps %q", len(events), gaps)
	}
	for i, value := range events {
		user := []string{"ann", "bob"}[(i+1)%2]
		if want := fmt.Sprintf("pubky://%s/pub/x/%d", user, i+1); !strings.Contains(value, want) {
			t.Errorf("event %d is %s, want %s", i+1, value, want)
		}
	}
}

// A server that invents users does not make the cursor longer.
func TestPubkyInventedUsers(t *testing.T) {
	address := serveFunc(t, func(w http.ResponseWriter, _ *http.Request) {
		for i := range 1000 {
			fmt.Fprintf(w, "event: PUT\ndata: pubky://user%d/pub/x\ndata: cursor: %d\n\n", i, i)
		}
		io.WriteString(w, "event: PUT\ndata: pubky://ann/pub/x\ndata: cursor: 7\n\n"+endBlock)
	})
	db := newLog(t)
	if _, err := Follow(t.Context(), followConfig(t, address+"/events-stream?user=ann:5&user=bob", "pubky", db)); err != nil {
		t.Fatal(err)
	}
	status, err := readStatusOf(t, db, "src")
	if err != nil || status.Events != 1001 || status.Cursor != "ann:7" {
		t.Errorf("%d events, cursor %.100q, %v", status.Events, status.Cursor, err)
	}
}

// Durable Streams by knobs alone: data and the control event after it are stored together.
func TestDurableStreams(t *testing.T) {
	address := serveFunc(t, func(w http.ResponseWriter, r *http.Request) {
		after, _ := strconv.Atoi(r.URL.Query().Get("offset"))
		for i := max(after, 0) + 1; i <= 40; i++ {
			fmt.Fprintf(w, "event: data\ndata: [%d,\ndata: 0]\n\n", i)
			if i == after+6 {
				return // data without its control event
			}
			fmt.Fprintf(w, "event: control\ndata: {\"streamNextOffset\":\"%d\",\"upToDate\":%v}\n\n", i, i == 40)
		}
	})
	db := newLog(t)
	cfg := followConfig(t, address+"/s?offset=-1&live=sse", "sse", db)
	var err error
	for to, text := range map[*Place]string{&cfg.Knobs.Cursor: "event:control:streamNextOffset", &cfg.Knobs.ID: "none"} {
		if *to, err = ParsePlace(text); err != nil {
			t.Fatal(err)
		}
	}
	cfg.Knobs.Resume = Resume{Query: "offset"}
	cfg.Knobs.End = Place{InEvent, "control", "upToDate"}
	if _, err := Follow(t.Context(), cfg); err != nil {
		t.Fatal(err)
	}
	events, gaps := eventsOf(t, db)
	want := numbers(40)
	for i, n := range want {
		want[i] = "[" + n + ",0]"
	}
	if !slices.Equal(events, want) || len(gaps) > 0 {
		t.Errorf("%d events, gaps %q: %s", len(events), gaps, firstDifference(events, want))
	}
}
