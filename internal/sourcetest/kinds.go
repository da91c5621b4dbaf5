package sourcetest

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http"
	"strconv"
	"strings"
)

// A place is where a stream of Wikimedia is in one of its topics.
type place struct {
	Topic     string `json:"topic"`
	Partition int    `json:"partition"`
	Offset    *int   `json:"offset,omitempty"`    // -1 if no event of the topic was sent yet
	Timestamp int    `json:"timestamp,omitempty"` // of the last event
}

var wikimediaTopics = [2]string{"eqiad.x", "codfw.x"}

// WikimediaTopic returns which of its two topics an event of Wikimedia is in. The first two
// are in different ones.
func WikimediaTopic(n int) int {
	if n%3 == 2 {
		return 1
	}
	return 0
}

// wikimediaTime returns the time of an event: several have the same, and they are not in
// the order of the topic.
func wikimediaTime(n int) int { return 1000 + (n+n*7%5)/3 }

// IsCanary reports whether an event of Wikimedia only tests the pipeline.
func IsCanary(n int) bool { return n%10 == 0 }

// serveWikimedia begins in each topic with the first event that is at least a millisecond
// after the time asked for, and with what is new if no time is.
func (c *connection) serveWikimedia() {
	first := [2]int{1, 1}
	offset := -1
	places := []place{{Topic: wikimediaTopics[0], Offset: &offset}, {Topic: wikimediaTopics[1], Offset: &offset}}
	if id := c.r.Header.Get("Last-Event-ID"); id != "" {
		var asked []place
		if json.Unmarshal([]byte(id), &asked) != nil || len(asked) != 2 {
			c.w.WriteHeader(http.StatusBadRequest)
			return
		}
		for i, p := range asked {
			places[i] = p
			first[i] = c.opened + 1
			for n := 1; p.Offset == nil && n <= c.N; n++ {
				if WikimediaTopic(n) == i && wikimediaTime(n) >= p.Timestamp+1 {
					first[i] = n
					break
				}
			}
		}
	}
	c.write(":ok\n\n")
	c.sendAll(0, func(n int) bool { return n < first[WikimediaTopic(n)] }, func(n int) string {
		i := WikimediaTopic(n)
		places[i] = place{Topic: wikimediaTopics[i], Timestamp: wikimediaTime(n)}
		id, _ := json.Marshal(places)
		domain := "en.wikipedia.org"
		if IsCanary(n) {
			domain = "canary"
		}
		trouble := ""
		if n%17 == 0 {
			trouble = "event: error\ndata: {\"message\":\"x\"}\n\n"
		}
		return fmt.Sprintf("%sevent: message\nid: %s\ndata: {\"meta\":{\"id\":\"u%d\",\"domain\":%q,\"stream\":\"mediawiki.recentchange\"},\"title\":\"Page %d\",\"n\":%d}\n\n",
			trouble, id, n, domain, n%7, n)
	})
}

// serveMercure confirms the event from which it goes on. If it does not know the one that is
// asked for, it says "earliest", and sends only what is new.
func (c *connection) serveMercure() {
	asked := c.r.Header.Get("Last-Event-ID")
	if asked == "" {
		asked = c.r.URL.Query().Get("last_event_id")
	}
	after, confirmed := c.opened, ""
	switch n, err := strconv.Atoi(strings.TrimPrefix(asked, "urn:uuid:")); {
	case asked == "earliest":
		after, confirmed = 0, asked
	case err == nil && n <= c.N:
		after, confirmed = n, asked
	case asked != "":
		confirmed = "earliest"
	}
	c.w.Header().Set("Mercure-Last-Event-ID", confirmed)
	c.write(":\n")
	c.sendAll(after, nil, func(n int) string { return fmt.Sprintf("id: urn:uuid:%d\ndata: {\"n\":%d}\n\n", n, n) })
}

// serveNtfy sends what it has, and ends, with poll=1. Otherwise a message that is new
// overtakes those. Messages of a second come in any order. For an id that it does not know
// it sends all that it has.
func (c *connection) serveNtfy() {
	since := c.r.URL.Query().Get("since")
	after, err := strconv.Atoi(strings.TrimPrefix(since, "m"))
	if err != nil || after > c.N {
		after = 0
	}
	block := func(n int) string {
		return fmt.Sprintf("data: {\"id\":\"m%d\",\"time\":%d,\"event\":\"message\",\"topic\":%q,\"message\":\"x\",\"n\":%d}\n\n", n, n/4, []string{"a", "b"}[n%2], n)
	}
	const keepalive = "event: keepalive\ndata: {\"id\":\"k\",\"time\":0,\"event\":\"keepalive\",\"topic\":\"a\"}\n\n"
	var old []int
	for n := after + 1; n <= c.opened; n++ {
		old = append(old, n)
	}
	for i := 0; i < len(old); {
		j := i
		for j < len(old) && old[j]/4 == old[i]/4 {
			j++
		}
		second := old[i:j]
		rand.Shuffle(len(second), func(i, j int) { second[i], second[j] = second[j], second[i] })
		i = j
	}
	next := c.opened + 1
	poll := c.r.URL.Query().Get("poll") == "1"
	if poll {
		c.cut = c.cut && c.torn // its end says that it is complete
	} else {
		c.write("event: open\ndata: {\"id\":\"o\",\"time\":0,\"event\":\"open\",\"topic\":\"a,b\"}\n\n")
		if next <= c.N {
			old = append([]int{next}, old...)
			next++
		}
	}
	for _, n := range old {
		if !c.sendEvent(n, block(n)) {
			return
		}
	}
	if poll {
		return
	}
	for ; next <= c.N; next++ {
		if next%5 == 0 {
			c.write(keepalive)
		}
		if !c.sendEvent(next, block(next)) {
			return
		}
	}
	c.write(keepalive + EndBlock)
}

// servePubky sends the events of some users, each after the cursor of that user, and ends a
// connection without a sign.
func (c *connection) servePubky() {
	after := map[string]int{}
	for _, value := range c.r.URL.Query()["user"] {
		user, cursor, _ := strings.Cut(value, ":")
		after[user], _ = strconv.Atoi(cursor)
	}
	user := func(n int) string { return []string{"ann", "bob"}[n%2] }
	c.sendAll(0, func(n int) bool {
		from, followed := after[user(n)]
		return !followed || n <= from
	}, func(n int) string {
		return fmt.Sprintf("event: PUT\ndata: pubky://%s/pub/x/%d\ndata: cursor: %d\ndata: content_hash: aGFzaA\n\n", user(n), n, n)
	})
}

// serveDurable sends arrays over several lines of data, and then where the stream is.
func (c *connection) serveDurable() {
	after, _ := strconv.Atoi(c.r.URL.Query().Get("offset"))
	c.sendAll(max(after, 0), nil, func(n int) string {
		block := fmt.Sprintf("event: data\ndata:[\ndata:{\"n\":%d}\ndata:]\n\n", n)
		if n%3 == 0 || n == c.N {
			block += fmt.Sprintf("event: control\ndata:{\"streamNextOffset\":\"%016d\",\"streamCursor\":\"1\",\"upToDate\":%v}\n\n", n, n == c.N)
		}
		return block
	})
}
