package wire

import (
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"reflect"
	"strconv"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/rstream-dev/rstream/event"
	"pgregory.net/rapid"
)

func TestNegotiate(t *testing.T) {
	for accept, want := range map[string]Form{
		"":                                       Page,
		" , ":                                    Page,
		"*/*":                                    Page,
		"application/*":                          Page,
		"application/json":                       Page,
		"Application/JSON; charset=utf-8":        Page,
		"text/event-stream":                      Stream,
		"text/event-stream, */*":                 Stream,
		"*/*, text/event-stream":                 Stream,
		"text/*":                                 Stream,
		"text/event-stream;q=0.5, */*":           Page,
		"text/html, application/xml, */*;q=0.8":  Page,
		"application/x-ndjson":                   Lines,
		"application/jsonl":                      Lines,
		"application/x-ndjson, application/json": Lines,
		"application/json, application/x-ndjson": Page,
		"application/json;q=0.1, application/x-ndjson;q=0.2": Lines,
		"text/event-stream;q=0, text/*":                      -1,
		"application/json;q=0, */*":                          -1,
		"text/event-stream;q=2":                              -1,
		"text/event-stream;q=NaN":                            -1,
		"text/event-stream;q=-1":                             -1,
		"text/event-stream;q=x, application/json":            Page,
		"text/html": -1,
		"json":      -1,
		"\x00":      -1,
	} {
		form, ok := NegotiateForm([]string{accept})
		if !ok {
			form = -1
		}
		if form != want {
			t.Errorf("Negotiate(%q) = %v, want %v", accept, form, want)
		}
	}
	if form, ok := NegotiateForm(nil); form != Page || !ok {
		t.Errorf("Negotiate() = %v, %t", form, ok)
	}
	if form, _ := NegotiateForm([]string{"text/html", SSE}); form != Stream {
		t.Errorf("Negotiate of two headers = %v", form)
	}
}

func TestParseGet(t *testing.T) {
	for query, want := range map[string][]string{
		"id=a/p":                         {"a/p$"},
		"id=a%2Fp,q":                     {"a/p,q$"},
		"items=a/p,a/q&items=b/r":        {"a/p$", "a/q$", "b/r$"},
		"items=a/p%2Cq,a/r":              {"a/p,q$", "a/r$"},
		"items=a%2fp+q%2B":               {"a/p q+$"},
		"%69tems=a/p,a/q":                {"a/p$", "a/q$"},
		"items=a/p&since=now&until=now":  {"a/p$"},
		"items=a/p&limit=0&&last=10000&": {"a/p$"},
	} {
		q, err := ParseGet(query)
		if err != nil || !reflect.DeepEqual(names(q.Topics), want) {
			t.Errorf("ParseGet(%q) = %v, %v, want %v", query, q, err, want)
		}
	}
}

func names(ts []event.Topic) (list []string) {
	for _, t := range ts {
		list = append(list, t.String())
	}
	return list
}

func TestLineReader(t *testing.T) {
	long := strings.Repeat("x", 10)
	for text, want := range map[string]string{
		"":                                   "",
		"\n\r\n \n":                          "",
		"a":                                  "1:a|",
		"a\n":                                "1:a|",
		"\na\r\n\n b\t\r":                    "2:a|4: b\t|",
		"a\r\r\n":                            "1:a\r|",
		long + "\n" + long + "\r\n" + long:   "1:xxxxxxxxxx|2:xxxxxxxxxx|3:xxxxxxxxxx|",
		"a\n" + long + "x\nb":                "1:a|line 2: line is too long: over 10 bytes",
		long + "x\r\n":                       "line 1: line is too long: over 10 bytes",
		long + "\r\r":                        "line 1: line is too long: over 10 bytes",
		"a\n\n" + strings.Repeat("y", 1e6):   "1:a|line 3: line is too long: over 10 bytes",
		strings.Repeat(" ", 11) + "\na\nb":   "line 1: line is too long: over 10 bytes",
		strings.Repeat(" ", 10) + "\na\nb":   "2:a|3:b|",
		strings.Repeat("\n", 70_000) + "\ta": "70001:\ta|",
	} {
		got := readLines(NewLineReader(iotest.HalfReader(strings.NewReader(text)), 10))
		if got != want {
			t.Errorf("lines of %.40q are %q, want %q", text, got, want)
		}
	}
	broken := errors.New("broken")
	r := io.MultiReader(strings.NewReader("a\nb"), iotest.ErrReader(broken))
	if got := readLines(NewLineReader(r, 10)); got != "1:a|broken" {
		t.Errorf("a line that was cut: %q", got)
	}
}

func readLines(l *LineReader) string {
	var b strings.Builder
	for {
		line, err := l.Next()
		if err != nil {
			if err != io.EOF {
				b.WriteString(err.Error())
			}
			return b.String()
		}
		b.WriteString(strings.Join([]string{strconv.Itoa(l.Number()), ":", string(line), "|"}, ""))
	}
}

func TestProblemRoundTrip(t *testing.T) {
	oldest := event.ID(7)
	head := event.Cursor{ID: 7, Log: "K7Q2M", Mark: 1<<30 | 5}
	for _, e := range []*Error{
		Errorf(http.StatusBadRequest, "user %q: no", "x"),
		{Status: 410, Title: "gone", Detail: "d", Oldest: &oldest},
		{Status: 409, Title: "conflict", Head: &head, Log: "K7Q2M4X9C0V3B8RT"},
		{Status: 400, Title: "bad request", Lines: []int{1, 5}},
		{Status: 503, Title: "service unavailable", RetryAfter: 2 * time.Second},
	} {
		w := httptest.NewRecorder()
		e.Write(w)
		if got := ReadError(w.Result()); !reflect.DeepEqual(got, e) {
			t.Errorf("ReadError = %+v, want %+v", got, e)
		}
	}
}

func TestReadError(t *testing.T) {
	for _, c := range []struct{ mediaType, body, want string }{
		{"text/html", "<html>no</html>", "502 bad gateway"},
		{"text/plain", "\n upstream is down \x1b[31m\r\nmore", "upstream is down [31m (502)"},
		{"", "", "502 bad gateway"},
		{Problem, "{", "{ (502)"},
		{Problem, `{"status":200,"title":"no\u001b[2J","detail":"\u009b31m\u202eno"}`, "31mno (502)"},
		{Problem, `{"oldest":5}`, `{"oldest":5} (502)`},
		{Problem, `{"type":"about:blank","title":"later\n"}`, "502 later"},
		{"text/plain", strings.Repeat("é", 500), strings.Repeat("é", 100) + " (502)"},
	} {
		resp := &http.Response{StatusCode: 502, Header: http.Header{"Content-Type": {c.mediaType}}, Body: io.NopCloser(strings.NewReader(c.body))}
		e := ReadError(resp)
		if e.Error() != c.want || e.Status != 502 {
			t.Errorf("ReadError of %q = %q, want %q", c.body, e, c.want)
		}
	}
	for s, want := range map[string]time.Duration{"": 0, "1": time.Second, "-1": 0, "x": 0, "999999": maxRetryAfter, "99999999999999": maxRetryAfter, "99999999999999999999": maxRetryAfter, "10.5": 0} {
		if got := RetryAfter(http.Header{"Retry-After": {s}}); got != want {
			t.Errorf("RetryAfter(%q) = %s, want %s", s, got, want)
		}
	}
	for at, want := range map[string]time.Duration{
		"Fri, 20 Nov 2026 10:00:07 GMT":   7 * time.Second,
		"Friday, 20-Nov-26 10:01:00 GMT":  time.Minute,
		"Fri, 20 Nov 2026 09:00:00 GMT":   0,
		"Sat, 20 Nov 2027 10:00:00 GMT":   maxRetryAfter,
		"Fri, 20 Nov 2026 10:00:07 +0100": 0,
	} {
		h := http.Header{"Date": {"Fri, 20 Nov 2026 10:00:00 GMT"}, "Retry-After": {at}}
		if got := RetryAfter(h); got != want {
			t.Errorf("RetryAfter(%q) = %s, want %s", at, got, want)
		}
	}
	soon := http.Header{"Retry-After": {time.Now().Add(time.Minute).UTC().Format(http.TimeFormat)}}
	if got := RetryAfter(soon); got < 50*time.Second || got > time.Minute {
		t.Errorf("retryAfter without Date = %s, want a minute", got)
	}
}

func TestFinal(t *testing.T) {
	for status, want := range map[int]bool{400: true, 403: true, 404: true, 408: false, 409: true, 410: true, 413: true, 429: false, 500: false, 503: false, 507: true} {
		if got := (&Error{Status: status}).Final(); got != want {
			t.Errorf("Final of %d = %t, want %t", status, got, want)
		}
	}
}

func TestResults(t *testing.T) {
	d := event.Draft{User: "alice", Path: "posts/1", Type: event.Put, Key: "k1", Value: []byte(`{"n":1}`)}
	ev := event.New(1, 0, d, d.Hash())
	got := string(AppendResults(nil, []event.Receipt{{Event: ev}, {Event: ev, Duplicate: true}}))
	rest := `"id":"0000000000001","time":"1970-01-01T00:00:00.000000Z","hash":"90657bc6092ddb0659c8fde359202b9a7415786fa82671d01cfa3fde0a589b4a"}` + "\n"
	if want := `{"status":201,` + rest + `{"status":200,` + rest; got != want {
		t.Errorf("AppendResults = %s, want %s", got, want)
	}
}

func TestFrames(t *testing.T) {
	const log = "K7Q2M4X9C0V3B8RT"
	d := event.Draft{User: "a", Path: "p", Type: event.Del}
	ev := event.New(33, 0, d, d.Hash())
	var b []byte
	b = AppendPreamble(b, 1500*time.Millisecond)
	b = AppendEvent(b, &ev, log)
	b = AppendPosition(b, event.Point{ID: 34, Mark: 1<<30 | 31}, log)
	b = AppendLive(b, event.Point{ID: 34}, event.Point{ID: event.MaxID, Mark: 1<<31 - 1}, log, nil)
	want := "retry: 1500\n: rstream\n\n" +
		"id: 0000000000011.K7Q2M.RSMJ9R\nevent: DEL\ndata: " + string(ev.Line()) + "\n\n" +
		"id: 0000000000012.K7Q2M.00000Z\n\n" +
		"id: 0000000000012.K7Q2M\nevent: live\ndata: {\"type\":\"live\",\"head\":\"7ZZZZZZZZZZZZ.K7Q2M.ZZZZZZ\"}\n\n"
	if string(b) != want {
		t.Errorf("frames are %s, want %s", b, want)
	}
}

// names that are hard on a URL.
var hardName = rapid.StringMatching(`[a-z.%+ &=;#?é"<\\\[\]{}|^~:@!'()-]{1,12}`)

func TestSetPathRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		user := hardName.Filter(func(s string) bool { return event.CheckUser(s) == nil }).Draw(t, "user")
		path := strings.Join(rapid.SliceOfN(hardName, 1, 4).Draw(t, "path"), "/")
		storage := event.Storage{User: user, Path: path}
		if storage.Check() != nil {
			t.Skip()
		}
		got, err := ParseSetPath(SetPath(storage))
		if err != nil || got != storage {
			t.Fatalf("ParseSetPath(%q) = %q, %v", SetPath(storage), got, err)
		}
	})
}

func TestValuesRoundTrip(t *testing.T) {
	moment := rapid.OneOf(
		rapid.Just(event.FromBeginning), rapid.Just(event.Now),
		rapid.Custom(func(t *rapid.T) event.Moment {
			at := event.ID(rapid.Uint64Range(0, uint64(event.MaxID)).Draw(t, "id"))
			c := event.CursorOf(at, rapid.SampledFrom([]string{"", "K7Q2M4X9C0V3B8RT"}).Draw(t, "log"))
			if c.Log != "" {
				c.Mark = event.Mark(rapid.SampledFrom([]uint32{0, 1 << 30, 1<<31 - 1}).Draw(t, "mark"))
			}
			return event.At(c)
		}),
		rapid.Custom(func(t *rapid.T) event.Moment {
			return event.AtTime(event.Time(rapid.Int64Range(-62167219200000000, 253402300799999999).Draw(t, "time")))
		}),
		rapid.Map(rapid.SampledFrom([]string{"90s", "24h", "7d", "2w", "1.5h", "1us"}), func(s string) event.Moment {
			m, err := event.ParseMoment(s)
			if err != nil {
				t.Fatal(err)
			}
			return m
		}),
	)
	number := rapid.Ptr(rapid.IntRange(0, MaxLimit), true)
	rapid.Check(t, func(t *rapid.T) {
		q := &Query{Limit: number.Draw(t, "limit"), Last: number.Draw(t, "last"), Until: rapid.Ptr(moment, true).Draw(t, "until")}
		if q.Last == nil {
			q.Since = moment.Draw(t, "since")
		}
		for range rapid.IntRange(1, 5).Draw(t, "topics") {
			s := hardName.Draw(t, "user") + rapid.SampledFrom([]string{"", "/p", "/p/", "/p$", "/po*"}).Draw(t, "path")
			topic, err := event.ParseTopic(s)
			if err != nil {
				t.Skip()
			}
			q.Topics = append(q.Topics, topic)
		}
		got, err := ParseEvents(q.Values().Encode())
		if err != nil || !reflect.DeepEqual(got, q) {
			t.Fatalf("ParseEvents(%s) = %+v, %v", q.Values().Encode(), got, err)
		}
	})
}

func TestPage(t *testing.T) {
	d := event.Draft{User: "a", Path: "p", Type: event.Del}
	ev := event.New(1, 0, d, d.Hash())
	line := string(ev.Line())
	for n, want := range []string{`[]`, `[` + line + `]`, `[` + line + `,` + line + `]`} {
		lines := []byte(strings.Repeat(line+"\n", n))
		got := string(AppendPage([]byte("x"), lines, PageEnd{Next: event.Cursor{ID: 32, Log: "K7Q2M", Mark: 1 << 30}, Live: n == 0}))
		if want := `x{"events":` + want + `,"next":"0000000000010.K7Q2M.000000","live":` + map[bool]string{true: "true", false: "false"}[n == 0] + "}\n"; got != want {
			t.Errorf("page of %d is %s, want %s", n, got, want)
		}
	}
}

func TestNegotiateEncoding(t *testing.T) {
	for header, want := range map[string]string{
		"": "", "identity": "", "*": "", "br": "", "gzip": Gzip, "zstd": Zstd, "x-gzip": Gzip, "GZIP": Gzip,
		"gzip, zstd": Zstd, "gzip;q=1, zstd;q=0.9": Gzip, "gzip;q=0": "", "zstd; q=0, gzip;q=0.1": Gzip,
		"gzip;q=2": "", "gzip;level=9": "", "gzip, deflate, br": Gzip,
	} {
		if got := NegotiateEncoding([]string{header}); got != want {
			t.Errorf("NegotiateEncoding(%q) = %q, want %q", header, got, want)
		}
	}
}

// A stub has the members that its event's hash does not cover, and is JSON.
func TestStubTellsMembers(t *testing.T) {
	ev := event.Event{ID: 1, Extra: []byte(`"origin":"x","n":[1]`)}
	const want = `{"id":"0000000000001","time":"1970-01-01T00:00:00.000000Z","hash":"0000000000000000000000000000000000000000000000000000000000000000","origin":"x","n":[1]}`
	got := AppendStub(&ev, nil)
	var s Stub
	if err := json.Unmarshal(got, &s); err != nil || string(got) != want || s.ID != 1 {
		t.Errorf("%s, %+v, %v", got, s, err)
	}
}
