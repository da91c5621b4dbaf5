package server

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/internal/wire"
	"pgregory.net/rapid"
)

// A tester is a *testing.T or a *rapid.T.
type tester interface {
	Fatal(...any)
	Fatalf(string, ...any)
	Helper()
}

// ask sends a request to a handler. The response ends, so no network is needed.
func ask(t tester, h http.Handler, target, accept string) (http.Header, string) {
	t.Helper()
	r := httptest.NewRequest(http.MethodGet, target, nil)
	r.Header.Set("Accept", accept)
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	if w.Code != http.StatusOK {
		t.Fatalf("GET %s as %s: %d %s", target, accept, w.Code, w.Body)
	}
	return w.Header(), w.Body.String()
}

// A way is one way to read the events of a query, as lines.
type way func(t tester, h http.Handler, q wire.Query, limit int) []string

var ways = map[string]way{
	"JSON pages":   jsonPages,
	"NDJSON pages": linePages,
	"NDJSON":       allLines,
	"SSE":          allFrames,
}

// pages requests page after page until one is live.
func pages(t tester, h http.Handler, q wire.Query, limit int, accept string, read func(string) []string) (lines []string) {
	t.Helper()
	q.Limit = &limit
	until := q.Until
	for {
		header, text := ask(t, h, "/events?"+q.Values().Encode(), accept)
		next, ok := wire.PositionIn(header, wire.HeaderNext)
		from, ok2 := wire.PositionIn(header, wire.HeaderFrom)
		to, ok3 := wire.PositionIn(header, wire.HeaderTo)
		live, err := strconv.ParseBool(header.Get(wire.HeaderLive))
		page := read(text)
		if !ok || !ok2 || !ok3 || err != nil || next > to || len(page) > limit || live != (next == to) {
			t.Fatalf("a page of %d from %s to %s: next %s, live %t", len(page), from, to, next, live)
		}
		if lines = append(lines, page...); live {
			return lines
		}
		if next <= from {
			t.Fatalf("a page goes from %s to %s", from, next)
		}
		end := event.At(event.CursorOf(to, logName))
		q.Since, q.Last, q.Until = event.At(event.CursorOf(next, "")), nil, &end
		if until != nil {
			q.Until = until
		}
	}
}

func jsonPages(t tester, h http.Handler, q wire.Query, limit int) []string {
	return pages(t, h, q, limit, wire.JSON, func(text string) (lines []string) {
		var page struct{ Events []json.RawMessage }
		if err := json.Unmarshal([]byte(text), &page); err != nil {
			t.Fatal(err)
		}
		for _, ev := range page.Events {
			lines = append(lines, string(ev))
		}
		return lines
	})
}

func linePages(t tester, h http.Handler, q wire.Query, limit int) []string {
	return pages(t, h, q, limit, wire.NDJSON, split)
}

func split(text string) []string {
	if text == "" {
		return nil
	}
	return strings.Split(strings.TrimSuffix(text, "\n"), "\n")
}

func allLines(t tester, h http.Handler, q wire.Query, _ int) []string {
	_, text := ask(t, h, "/events?"+q.Values().Encode(), wire.NDJSON)
	return split(text)
}

func allFrames(t tester, h http.Handler, q wire.Query, _ int) (lines []string) {
	if q.Until == nil {
		q.Until = &event.Now // a stream without an end does not end
	}
	header, text := ask(t, h, "/events?"+q.Values().Encode(), wire.SSE)
	fs := newFrames(strings.NewReader(text))
	last := frame{}
	for {
		f, err := fs.next()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if f.event == "PUT" || f.event == "DEL" {
			if !strings.HasPrefix(f.data, `{"id":"`+f.position(t).String()+`"`) {
				t.Fatalf("frame %q", f)
			}
			lines = append(lines, f.data)
		}
		last = f
	}
	if last.event != wire.LiveEvent || last.id != header.Get(wire.HeaderTo) {
		t.Fatalf("a stream to %s ends with %q", header.Get(wire.HeaderTo), last)
	}
	return lines
}

// checkWays checks that every way returns the same events as a search of the whole list.
func checkWays(t tester, h http.Handler, q wire.Query, limit int, want []event.Event) {
	t.Helper()
	var lines []string
	for i := range want {
		lines = append(lines, string(want[i].Line()))
	}
	for name, read := range ways {
		if got := read(t, h, q, limit); !slices.Equal(got, lines) {
			t.Fatalf("%s of %s: %d events %v, want %d %v", name, q.Values().Encode(), len(got), got, len(lines), lines)
		}
	}
}

var (
	someUsers  = rapid.SampledFrom([]string{"a", "a2", "b", "ü+ %&=#"})
	somePaths  = rapid.SampledFrom([]string{"p", "p/q", "p/q/r", "pq", "p-old", "x&y=z;%", "ü/ö"})
	someTopics = rapid.SampledFrom([]string{"*", "a", "a2", "b/p", "b/p/", "*/p", "a/p*", "a/p$", "*/p/q", "ü+ %&=#", "*/x&y=z;%$", "c"})
)

// drawLog makes a log with a clock that moves now and then.
func drawLog(t *rapid.T) *memLog {
	log := newLog()
	at := time.Date(2026, 11, 20, 10, 0, 0, 0, time.UTC)
	log.now = func() time.Time { return at }
	for i := range rapid.IntRange(0, 40).Draw(t, "events") {
		at = at.Add(time.Duration(rapid.IntRange(0, 2).Draw(t, "seconds")) * time.Second)
		d := event.Draft{User: someUsers.Draw(t, "user"), Path: somePaths.Draw(t, "path"), Type: event.Put, Key: fmt.Sprint(i), Value: []byte(`{"i":"<\u0000>"}`)}
		if rapid.Bool().Draw(t, "del") {
			d.Type, d.Value = event.Del, nil
		}
		if _, err := log.Append(t.Context(), []event.Draft{d}); err != nil {
			t.Fatal(err)
		}
	}
	log.look = rapid.IntRange(0, 7).Draw(t, "look")
	return log
}

// drawMoment returns a moment and its position.
func drawMoment(t *rapid.T, log *memLog, name string) (event.Moment, event.ID) {
	at := event.ID(rapid.Uint64Range(0, uint64(log.Head())).Draw(t, name))
	switch rapid.IntRange(0, 3).Draw(t, name+" is") {
	case 0:
		return event.At(event.CursorOf(at, "")), at
	case 1:
		return event.At(event.CursorOf(at, logName)), at
	case 2:
		return event.Now, log.Head()
	}
	if at == 0 {
		return event.FromBeginning, 0
	}
	moment := log.evs[at-1].Time
	for int(at) < len(log.evs) && log.evs[at].Time == moment {
		at++ // a time is after all that happened at it
	}
	return event.AtTime(moment), at
}

func TestWaysAgree(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		log := drawLog(t)
		h := New(log, Config{})
		q := wire.Query{Topics: topicsOf(t, rapid.SliceOfN(someTopics, 1, 3).Draw(t, "topics")...)}
		from, to := event.Beginning, log.Head()
		q.Since, from = drawMoment(t, log, "since")
		if rapid.Bool().Draw(t, "bounded") {
			until, at := drawMoment(t, log, "until")
			q.Until, to = &until, max(at, from)
			if at < from {
				q.Until = nil
				to = log.Head()
			}
		}
		if rapid.Bool().Draw(t, "last") {
			n := rapid.IntRange(0, 10).Draw(t, "n")
			all := log.filter(q.Topics, 0, to)
			q.Since, q.Last, from = event.FromBeginning, &n, to
			if n > 0 {
				from = 0
			}
			if n > 0 && len(all) > n {
				from = all[len(all)-n-1].ID
			}
		}
		q.Except = topicsOf(t, rapid.SliceOfN(someTopics, 0, 2).Draw(t, "except")...)
		want := slices.DeleteFunc(log.filter(q.Topics, from, to), func(ev event.Event) bool { return matches(q.Except, &ev) })
		checkWays(t, h, q, rapid.IntRange(1, 9).Draw(t, "limit"), want)
	})
}

// A log on disk gives the same results.
func TestWaysAgreeOnDisk(t *testing.T) {
	db := openFile(t, nil)
	mem := newLog()
	var drafts []event.Draft
	for i := range 3000 {
		drafts = append(drafts, event.Draft{
			User: []string{"a", "b", "a2"}[i%3], Path: fmt.Sprintf("p/%d", i%7), Type: event.Put, Key: fmt.Sprint(i), Value: []byte("1"),
		})
	}
	receipts, err := db.Append(t.Context(), drafts)
	if err != nil {
		t.Fatal(err)
	}
	for i := range receipts {
		mem.evs = append(mem.evs, receipts[i].Event)
	}
	h := New(db, Config{})
	for _, topic := range []string{"*", "a", "b/p/3", "a/p/3$", "nobody"} {
		q := wire.Query{Topics: topicsOf(t, topic)}
		checkWays(t, h, q, 700, mem.filter(q.Topics, 0, 3000))
		q.Since = event.At(event.CursorOf(1234, logName))
		until := event.At(event.CursorOf(2345, ""))
		q.Until = &until
		checkWays(t, h, q, 100, mem.filter(q.Topics, 1234, 2345))
	}
}
