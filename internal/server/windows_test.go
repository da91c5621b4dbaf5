package server

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/rstream-dev/rstream/cache"
	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/internal/wire"
	"github.com/rstream-dev/rstream/window"
	"pgregory.net/rapid"
)

// call sends a request to a handler and returns its response.
func call(h http.Handler, method, target string, header ...string) *httptest.ResponseRecorder {
	r := httptest.NewRequest(method, target, nil)
	for i := 0; i+1 < len(header); i += 2 {
		r.Header.Add(header[i], header[i+1])
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w
}

// windowsOf asks GET /windows.
func windowsOf[T any](t tester, h http.Handler, query string) (answer T) {
	t.Helper()
	header, text := ask(t, h, "/windows?"+query, wire.JSON)
	d := json.NewDecoder(strings.NewReader(text))
	d.DisallowUnknownFields()
	if err := d.Decode(&answer); err != nil {
		t.Fatalf("GET /windows?%s: %s: %v", query, text, err)
	}
	if header.Get("ETag") == "" || header.Get("Cache-Control") != "no-cache" || header.Get("Content-Type") != wire.JSON {
		t.Fatalf("GET /windows?%s: %v", query, header)
	}
	return answer
}

// longLog returns a log of a little more than three blocks, whose topics differ, with one event a
// second.
func longLog(events int) *memLog {
	log := newLog()
	begin := time.Date(2026, 11, 20, 10, 0, 0, 0, time.UTC)
	for i := range events {
		d := event.Draft{User: []string{"a", "b", "a2"}[i%3], Path: fmt.Sprintf("p/%d", i%7), Type: event.Put, Key: fmt.Sprint(i), Value: []byte("1")}
		if i == 5000 {
			d.User, d.Path = "rare", "x"
		}
		log.evs = append(log.evs, event.New(event.ID(i+1), event.TimeOf(begin.Add(time.Duration(i)*time.Second)), d, d.Hash()))
	}
	return log
}

// slowWindow computes a window by its definition.
func slowWindow(log *memLog, topic event.Topic, span window.Span, start bool) wire.Window {
	var leaves window.Leafer
	for _, ev := range log.filter([]event.Topic{topic}, span.From, span.To) {
		leaves.Add(ev.ID, ev.Time, ev.Hash)
	}
	w := wire.Window{From: log.cursor(span.From), To: log.cursor(span.To)}
	w.Digest, w.Count = window.DigestOf(leaves.Leaves())
	if span.To > 0 {
		w.End = &log.evs[span.To-1].Time
	}
	if span.From > 0 && start {
		w.Start = &log.evs[span.From-1].Time
	}
	return w
}

func sameWindow(a, b wire.Window) bool {
	x, _ := json.Marshal(a)
	y, _ := json.Marshal(b)
	return bytes.Equal(x, y)
}

func TestWindowsAt(t *testing.T) {
	log := longLog(2*event.BlockSize + 10)
	h := New(log, Config{})
	a, head := topicsOf(t, "a")[0], log.Head()
	text := func(at event.ID, off time.Duration) string {
		return event.TimeOf(log.evs[at-1].Time.Time().Add(off)).String()
	}
	for at, want := range map[string]window.Span{
		"beginning":                        {From: 0, To: 4096},
		"0000000000000":                    {From: 0, To: 4096},
		"0000000000001":                    {From: 0, To: 4096},
		event.ID(4096).String():            {From: 0, To: 4096},
		event.ID(4097).String():            {From: 4096, To: 8192},
		event.ID(4097).String() + ".K7Q2M": {From: 4096, To: 8192},
		event.ID(8192).String():            {From: 4096, To: 8192},
		event.ID(8193).String():            {From: 8192, To: head},
		"now":                              {From: 8192, To: head},
		"0s":                               {From: 8192, To: head},
		"1900-01-01T00:00:00Z":             {From: 0, To: 4096}, // before the first event
		"2999-01-01T00:00:00Z":             {From: 8192, To: head},
		text(4096, 999*time.Millisecond):   {From: 0, To: 4096},
		text(4096, time.Second):            {From: 4096, To: 8192},
	} {
		got := windowsOf[wire.Window](t, h, "topic=a&at="+url.QueryEscape(at))
		if !sameWindow(got, slowWindow(log, a, want, true)) {
			t.Errorf("at %s is %+v, want %s", at, got, want)
		}
	}
	// Who asks for any moment of a block is told the same.
	first := call(h, http.MethodGet, "/windows?topic=a&at=0000000000005").Body.String()
	if again := call(h, http.MethodGet, "/windows?topic=a&at="+text(4000, 0)).Body.String(); again != first {
		t.Errorf("the window is %s, then %s", first, again)
	}
	empty := windowsOf[wire.Window](t, New(newLog(), Config{}), "topic=a&at=now")
	if want := (wire.Window{From: newLog().cursor(0), To: newLog().cursor(0), Digest: empty.Digest}); !sameWindow(empty, want) || !strings.HasPrefix(empty.Digest.String(), "e3b0c442") {
		t.Errorf("the window of an empty log is %+v", empty)
	}
}

func TestWindowList(t *testing.T) {
	log := longLog(3*event.BlockSize + 10)
	h := New(log, Config{})
	b := event.ID(event.BlockSize)
	for _, c := range []struct {
		query string
		topic string
		list  wire.WindowList
		spans []window.Span
	}{
		{"since=beginning", "a", wire.WindowList{From: log.cursor(0), To: log.cursor(log.Head()), Next: log.cursor(log.Head())},
			[]window.Span{{From: 0, To: b}, {From: b, To: 2 * b}, {From: 2 * b, To: 3 * b}, {From: 3 * b, To: log.Head()}}},
		{"since=" + (b - 1).String() + "&until=" + (b + 1).String(), "*", wire.WindowList{From: log.cursor(b - 1), To: log.cursor(b + 1), Next: log.cursor(b + 1)},
			[]window.Span{{From: b - 1, To: b}, {From: b, To: b + 1}}},
		{"since=beginning", "rare", wire.WindowList{From: log.cursor(0), To: log.cursor(log.Head()), Next: log.cursor(log.Head())}, []window.Span{{From: b, To: 2 * b}}},
		{"since=beginning&until=now&sum=0", "nobody", wire.WindowList{From: log.cursor(0), To: log.cursor(log.Head()), Next: log.cursor(log.Head())}, nil},
		{"since=now", "a", wire.WindowList{From: log.cursor(log.Head()), To: log.cursor(log.Head()), Next: log.cursor(log.Head())}, nil},
	} {
		got := windowsOf[wire.WindowList](t, h, "topic="+c.topic+"&"+c.query)
		c.list.Windows = []wire.Window{}
		for _, span := range c.spans {
			c.list.Windows = append(c.list.Windows, slowWindow(log, topicsOf(t, c.topic)[0], span, true))
		}
		x, _ := json.Marshal(got)
		if y, _ := json.Marshal(c.list); !bytes.Equal(x, y) {
			t.Errorf("%s of %s is\n%s\nwant\n%s", c.query, c.topic, x, y)
		}
	}
}

// A list that is too long continues at its next position.
func TestWindowListGoesOn(t *testing.T) {
	defer func(n int) { maxWindows = n }(maxWindows)
	maxWindows = 2
	log := longLog(3*event.BlockSize + 10)
	h := New(log, Config{})
	var got []wire.Window
	for at, n := event.ID(100), 0; at < log.Head(); n++ {
		list := windowsOf[wire.WindowList](t, h, fmt.Sprintf("topic=a&since=%s&until=%s", at, log.Head()))
		if list.From.ID != at || list.Next.ID <= at || len(list.Windows) > 2 || n > 1 {
			t.Fatalf("from %s the list is %+v", at, list)
		}
		got, at = append(got, list.Windows...), list.Next.ID
	}
	maxWindows = 10
	want := windowsOf[wire.WindowList](t, h, "topic=a&since="+event.ID(100).String()).Windows
	if !slices.EqualFunc(got, want, sameWindow) {
		t.Errorf("in parts the list is\n%+v, whole\n%+v", got, want)
	}
}

// A sum of several topics has the events of all of them, each once.
func TestWindowSumOfTopics(t *testing.T) {
	log := longLog(event.BlockSize + 10)
	h := New(log, Config{})
	for _, names := range [][]string{{"a", "b"}, {"a", "a2", "rare"}, {"a", "a/p"}, {"b", "b"}} {
		q := wire.WindowQuery{Topic: topicsOf(t, names[0])[0], More: topicsOf(t, names[1:]...), Since: event.FromBeginning, Sum: true}
		got := windowsOf[wire.Window](t, h, q.Values().Encode())
		var leaves window.Leafer
		n := uint64(0)
		for _, ev := range log.evs {
			if slices.ContainsFunc(q.Topics(), func(topic event.Topic) bool { return topic.Matches(ev.User, ev.Path) }) {
				leaves.Add(ev.ID, ev.Time, ev.Hash)
				n++
			}
		}
		if want, _ := window.DigestOf(leaves.Leaves()); got.Digest != want || got.Count != n {
			t.Errorf("the sum of %q is %+v, want %d events, %s", names, got, n, want)
		}
	}
}

// The proof of a range is small, no matter how long the range is.
func TestWindowSumIsSmall(t *testing.T) {
	log := longLog(event.BlockSize + 10)
	far := event.ID(1_234_567)
	for i := range log.evs {
		ev := &log.evs[i]
		log.evs[i] = event.New(ev.ID+far, ev.Time, ev.Draft, ev.Hash)
	}
	h := New(many{log}, Config{})
	since, until := event.At(event.CursorOf(1, logName)), event.At(event.CursorOf(log.Head(), logName))
	q := wire.WindowQuery{Topic: topicsOf(t, "alice/posts")[0], Since: since, Until: &until, Sum: true}
	query := q.Values().Encode()
	got := windowsOf[wire.Window](t, h, query)
	_, text := ask(t, h, "/windows?"+query, wire.JSON)
	if len(text) > 200 || len(query) > 200 || got.Count < 1_000_000 || got.Start != nil || got.End == nil {
		t.Errorf("%d bytes ask %q, %d answer %s", len(query), query, len(text), text)
	}
}

// many is a log that claims to have a million events.
type many struct{ *memLog }

func (many) Leaves(_ ctx, _ event.Topic, span window.Span) (leaves []window.Leaf, err error) {
	for b := span.From.Block(); b <= span.To.Block(); b++ {
		leaves = append(leaves, window.Leaf{Block: b, Count: event.BlockSize, Sum: [32]byte{byte(b)}})
	}
	return leaves, nil
}

func TestWindowsNotModified(t *testing.T) {
	log := longLog(100)
	h := New(log, Config{})
	for _, query := range []string{"topic=a&at=now", "topic=a&since=beginning", "topic=a&since=beginning&sum=1"} {
		target := "/windows?" + query
		w := call(h, http.MethodGet, target)
		tag := w.Header().Get("ETag")
		for _, match := range []string{tag, `"x", W/` + tag, "*", `"x",` + tag + `,"y"`} {
			again := call(h, http.MethodGet, target, "If-None-Match", match)
			if again.Code != http.StatusNotModified || again.Body.Len() > 0 || again.Header().Get("ETag") != tag ||
				again.Header().Get("Cache-Control") != "no-cache" || again.Header().Get(wire.HeaderTo) != log.cursor(log.Head()).String() {
				t.Errorf("GET %s that matches %s: %d %v %s", target, match, again.Code, again.Header(), again.Body)
			}
		}
		if two := call(h, http.MethodGet, target, "If-None-Match", `"x"`, "If-None-Match", tag); two.Code != http.StatusNotModified {
			t.Errorf("GET %s with two headers: %d", target, two.Code)
		}
		for _, match := range []string{`"x"`, "", strings.Trim(tag, `"`), tag[1:]} {
			again := call(h, http.MethodGet, target, "If-None-Match", match)
			if again.Code != http.StatusOK || again.Body.String() != w.Body.String() {
				t.Errorf("GET %s that does not match %s: %d %s", target, match, again.Code, again.Body)
			}
		}
		log.put(t, "nobody", "p", 1) // moves the end
		if again := call(h, http.MethodGet, target, "If-None-Match", tag); again.Code != http.StatusOK || again.Header().Get("ETag") == tag {
			t.Errorf("GET %s after an append: %d %v", target, again.Code, again.Header())
		}
		if head := call(h, http.MethodHead, target); head.Code != http.StatusOK || head.Header().Get("ETag") == "" {
			t.Errorf("HEAD %s: %d %v", target, head.Code, head.Header())
		}
	}
}

// A range is the same block by block, as a single window and as the events of GET /events.
func TestWindowsAgreeWithEvents(t *testing.T) {
	log := longLog(event.BlockSize + 300)
	h := New(onDisk(t, log), Config{})
	rapid.Check(t, func(t *rapid.T) {
		topic := topicsOf(t, rapid.SampledFrom([]string{"*", "a", "a/p/3", "*/p/3$", "rare", "a2/p/*", "nobody"}).Draw(t, "topic"))[0]
		near := rapid.SampledFrom([]event.ID{event.BlockSize - 200, event.BlockSize, log.Head() - 2})
		from := near.Draw(t, "from") + event.ID(rapid.IntRange(-2, 2).Draw(t, "a"))
		to := max(from, near.Draw(t, "to")+event.ID(rapid.IntRange(-2, 2).Draw(t, "b")))
		bounds := fmt.Sprintf("topic=%s&since=%s&until=%s", url.QueryEscape(topic.String()), from, to)
		_, text := ask(t, h, "/events?"+bounds, wire.NDJSON)
		var slow window.Leafer
		for line := range strings.Lines(text) {
			ev, err := event.ParseLine([]byte(strings.TrimSuffix(line, "\n")))
			if err != nil {
				t.Fatal(err)
			}
			slow.Add(ev.ID, ev.Time, ev.Hash)
		}
		want, count := window.DigestOf(slow.Leaves())
		sum := windowsOf[wire.Window](t, h, bounds+"&sum=1")
		if sum.Digest != want || sum.Count != count || sum.From.ID != from || sum.To.ID != to {
			t.Fatalf("%s is %+v, want %s of %d", bounds, sum, want, count)
		}
		var n uint64
		for _, w := range windowsOf[wire.WindowList](t, h, bounds).Windows {
			n += w.Count
			if one := windowsOf[wire.Window](t, h, fmt.Sprintf("topic=%s&since=%s&until=%s&sum=1", url.QueryEscape(topic.String()), w.From, w.To)); one.Digest != w.Digest || one.Count != w.Count {
				t.Fatalf("%s is %+v in a list, alone %+v", bounds, w, one)
			}
		}
		if n != count {
			t.Fatalf("the windows of %s have %d events, want %d", bounds, n, count)
		}
	})
}

// onDisk returns log as a server's file keeps it.
func onDisk(t *testing.T, log *memLog) *cache.DB {
	t.Helper()
	i := 0
	clock := func() time.Time { return log.evs[min(i, len(log.evs)-1)].Time.Time() }
	db := openFile(t, clock)
	var drafts []event.Draft
	for i := range log.evs {
		drafts = append(drafts, log.evs[i].Draft)
	}
	receipts, err := db.Append(t.Context(), drafts)
	if err != nil {
		t.Fatal(err)
	}
	for i := range receipts {
		log.evs[i] = receipts[i].Event
	}
	return db
}

// If the horizon has moved, the log's error becomes a 410, and responses to errors must not be
// cached.
func TestWindowsFail(t *testing.T) {
	log := longLog(10)
	for _, c := range []struct {
		log    Log
		status int
	}{
		{brokenLog{memLog: log, leaves: &window.NotHeldError{After: 1, Oldest: 5, Some: true}}, http.StatusGone},
		{brokenLog{memLog: log, leaves: errors.New("on fire")}, http.StatusInternalServerError},
		{brokenLog{memLog: log, timeAt: &window.NotHeldError{After: 1, Oldest: 5, Some: true}}, http.StatusGone}, // the horizon has moved meanwhile
		{brokenLog{memLog: log, timeAt: errors.New("on fire")}, http.StatusInternalServerError},
	} {
		w := call(New(c.log, Config{}), http.MethodGet, "/windows?topic=a&since=0000000000002")
		if w.Code != c.status || w.Header().Get("ETag") != "" || w.Header().Get(wire.HeaderFrom) != "" || w.Header().Get("Cache-Control") != "no-store" {
			t.Errorf("%d %v %s, want %d", w.Code, w.Header(), w.Body, c.status)
		}
	}
}

// A brokenLog fails in some of what it does.
type brokenLog struct {
	*memLog
	leaves, timeAt, snapshot error
	after                    int // events of a snapshot that come before its error
}

func (l brokenLog) Leaves(c ctx, topic event.Topic, span window.Span) ([]window.Leaf, error) {
	if l.leaves != nil {
		return nil, l.leaves
	}
	return l.memLog.Leaves(c, topic, span)
}

func (l brokenLog) LastAt(c ctx, at event.ID) (event.Time, event.Mark, bool, error) {
	if l.timeAt != nil {
		return 0, 0, false, l.timeAt
	}
	return l.memLog.LastAt(c, at)
}

func (l brokenLog) StateAfter(c ctx, topic event.Topic, at event.ID, after event.Storage, fn func(*event.Event) error) error {
	n := 0
	err := l.memLog.StateAfter(c, topic, at, after, func(ev *event.Event) error {
		if n++; n > l.after {
			return l.snapshot
		}
		return fn(ev)
	})
	return errors.Join(err)
}
