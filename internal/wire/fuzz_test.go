package wire

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"io"
	"net/http"
	"net/url"
	"reflect"
	"slices"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	"github.com/rstream-dev/rstream/event"
)

func FuzzParseEvents(f *testing.F) {
	f.Add("topic=alice/posts&topic=*&since=24h&until=now&limit=5")
	f.Add("topic=a%2Bb+c&since=0000000000001.K7Q2M&until=2026-11-20T10:00:00Z")
	f.Add("topic=a/po*&last=10&limit=0&topic=b/p$")
	f.Add("topic=a&except=a/p&except=a/q*")
	f.Add("topic=a&values=0&stubs=0")
	f.Add("topic=0&values")
	f.Fuzz(func(t *testing.T, query string) {
		q, err := ParseEvents(query)
		if err != nil {
			if q != nil {
				t.Fatalf("ParseEvents(%q) = %v with an error", query, q)
			}
			return
		}
		checkQuery(t, q)
		again, err := ParseEvents(q.Values().Encode())
		// The beginning and position 0 are two spellings of one thing.
		if err != nil || !reflect.DeepEqual(again.Values(), q.Values()) {
			t.Fatalf("ParseEvents(%q) = %+v, and of what that prints %+v, %v", query, q, again, err)
		}
	})
}

func FuzzParseWindows(f *testing.F) {
	f.Add("topic=alice/posts&at=24h")
	f.Add("topic=a%2Bb+c&since=0000000000001.K7Q2M&until=2026-11-20T10:00:00Z&sum=1")
	f.Add("topic=*&since=beginning&sum=0")
	f.Fuzz(func(t *testing.T, query string) {
		q, err := ParseWindows(query)
		if err != nil {
			if q != nil {
				t.Fatalf("ParseWindows(%q) = %v with an error", query, q)
			}
			return
		}
		if q.At != nil && (q.Sum || q.Until != nil || q.Since != (event.Moment{})) {
			t.Fatalf("ParseWindows(%q) = %+v", query, q)
		}
		again, err := ParseWindows(q.Values().Encode())
		if err != nil || !reflect.DeepEqual(again, q) {
			t.Fatalf("ParseWindows(%q) = %+v, and of what that prints %+v, %v", query, q, again, err)
		}
	})
}

func FuzzParseUsage(f *testing.F) {
	f.Add("topic=alice/po*&after=alice/posts/1&limit=5&folders=1")
	f.Add("topic=*&folders=0")
	f.Add("topic=a&limit=0")
	f.Add("topic=a&after=a")
	f.Fuzz(func(t *testing.T, query string) {
		q, err := ParseUsage(query)
		if err != nil {
			if q != nil {
				t.Fatalf("ParseUsage(%q) = %v with an error", query, q)
			}
			return
		}
		if q.Limit < 1 || q.Limit > MaxLimit {
			t.Fatalf("ParseUsage(%q) = %+v", query, q)
		}
		again, err := ParseUsage(q.Values().Encode())
		if err != nil || *again != *q {
			t.Fatalf("ParseUsage(%q) = %+v, and of what that prints %+v, %v", query, q, again, err)
		}
	})
}

func FuzzParseSnapshot(f *testing.F) {
	f.Add("topic=alice/po*&at=2026-11-20T10:00:00.5+01:00")
	f.Add("topic=*&at=0000000000000")
	f.Add("&topic=a%2fb")
	f.Fuzz(func(t *testing.T, query string) {
		q, err := ParseSnapshot(query)
		if err != nil {
			if q != nil {
				t.Fatalf("ParseSnapshot(%q) = %v with an error", query, q)
			}
			return
		}
		again, err := ParseSnapshot(q.Values().Encode())
		if err != nil || *again != *q {
			t.Fatalf("ParseSnapshot(%q) = %+v, and of what that prints %+v, %v", query, q, again, err)
		}
	})
}

// checkQuery checks the invariants of a parsed query.
func checkQuery(t *testing.T, q *Query) {
	t.Helper()
	if len(q.Topics) == 0 || len(q.Topics) > MaxTopics || q.Last != nil && q.Since != (event.Moment{}) {
		t.Fatalf("query %+v", q)
	}
	for _, n := range []*int{q.Limit, q.Last} {
		if n != nil && (*n < 0 || *n > MaxLimit) {
			t.Fatalf("query %+v asks for %d", q, *n)
		}
	}
}

func FuzzParseGet(f *testing.F) {
	f.Add("id=alice/posts/1&since=now")
	f.Add("items=alice/posts/1,bob/a%2Cb&items=c/d+e&limit=5")
	f.Add("%69tems=a/p,")
	f.Add(`items=["a/p","b/q,r"]&items=c/d&values=0`)
	f.Add(`items=[{"id":"a/p","bloomFilter":"9XI="},{"id":"b/q","have":[]},"[c/p"]`)
	f.Add(`items=+%22a/p%22+&stubs=0`)
	f.Add("id=a/p?bloomFilter=9X+/&since=now")
	f.Add("id=[a/p&have=")
	f.Fuzz(func(t *testing.T, query string) {
		q, err := ParseGet(query)
		if err != nil {
			if q != nil {
				t.Fatalf("ParseGet(%q) = %v with an error", query, q)
			}
			return
		}
		checkStorages(t, q)
		checkKnown(t, q)
		// Storages of any name can be given as JSON, in a parameter and in a body.
		var names []string
		for _, topic := range q.Topics {
			names = append(names, strings.TrimSuffix(topic.String(), "$"))
		}
		list, err := json.Marshal(names)
		if err != nil {
			t.Fatal(err)
		}
		again, err := ParseGet("items=" + url.QueryEscape(string(list)))
		if err != nil || !slices.Equal(again.Topics, q.Topics) {
			t.Fatalf("ParseGet(%q) asks for %v, and for %v, %v of them as JSON", query, q.Topics, again, err)
		}
		posted, err := ParsePostGet("", []byte(`{"items":`+string(list)+`}`))
		if err != nil || !slices.Equal(posted.Topics, q.Topics) {
			t.Fatalf("ParseGet(%q) asks for %v, a body of them for %v, %v", query, q.Topics, posted, err)
		}
	})
}

// checkKnown wants what the reader has of each topic, or of none.
func checkKnown(t *testing.T, q *Query) {
	t.Helper()
	if q.PeerHas != nil && len(q.PeerHas) != len(q.Topics) || q.Stubs && q.Notices {
		t.Fatalf("query %+v", q)
	}
	said := q.PeerHas == nil
	for _, k := range q.PeerHas {
		said = said || !k.IsZero()
		if k.Filter != nil && k.Have != nil || len(k.Have) > MaxHashes {
			t.Fatalf("query %+v", q)
		}
	}
	if !said {
		t.Fatalf("query %+v knows nothing of anything", q)
	}
}

// A filter is the same in either alphabet, with and without padding.
func FuzzParseFilterText(f *testing.F) {
	f.Add("9XIBBA==")
	f.Add("-_+/")
	f.Fuzz(func(t *testing.T, text string) {
		frame, err := ParseFilterText(text)
		if err != nil {
			return
		}
		for _, enc := range []*base64.Encoding{base64.StdEncoding, base64.RawStdEncoding, base64.URLEncoding, base64.RawURLEncoding} {
			again, err := ParseFilterText(enc.EncodeToString(frame))
			if err != nil || !bytes.Equal(again, frame) {
				t.Fatalf("ParseFilterText(%q) = %x, and of what that prints %x, %v", text, frame, again, err)
			}
		}
	})
}

// checkStorages wants q to ask for storages and nothing larger.
func checkStorages(t *testing.T, q *Query) {
	t.Helper()
	checkQuery(t, q)
	for _, topic := range q.Topics {
		storage, err := event.ParseStorage(strings.TrimSuffix(topic.String(), "$"))
		if err != nil || topic != event.Exactly(storage) {
			t.Fatalf("query %+v asks for %s", q, topic)
		}
	}
}

func FuzzParsePostGet(f *testing.F) {
	f.Add("", []byte(`{"items":"alice/posts/1"}`))
	f.Add("since=now", []byte(` {"items" : ["a/p", {"id":"b\/q"} ] } `))
	f.Add("", []byte(`{"items":[{}]}`))
	f.Add("values=0", []byte(`{"items":{"id":"a/p","bloomFilter":"9XI+/A=="}}`))
	f.Fuzz(func(t *testing.T, query string, body []byte) {
		before := bytes.Clone(body)
		q, err := ParsePostGet(query, body)
		if !bytes.Equal(body, before) {
			t.Fatal("the body was changed")
		}
		if err == nil {
			checkStorages(t, q)
			checkKnown(t, q)
		}
	})
}

func FuzzParseSetPath(f *testing.F) {
	f.Add("/set/alice/posts/1")
	f.Add("/set/al%2Fice/posts/1")
	f.Add("/set/a+b/c%20d//")
	f.Add("/set/alice%2Fposts%2F1")
	f.Fuzz(func(t *testing.T, escaped string) {
		storage, err := ParseSetPath(escaped)
		if err != nil {
			if storage != (event.Storage{}) {
				t.Fatalf("ParseSetPath(%q) = %q with an error", escaped, storage)
			}
			return
		}
		if storage.Check() != nil {
			t.Fatalf("ParseSetPath(%q) = %q", escaped, storage)
		}
		if raw, _, split := strings.Cut(strings.TrimPrefix(escaped, "/set/"), "/"); split && strings.Contains(strings.ToLower(raw), "%2f") {
			t.Fatalf("ParseSetPath(%q) takes an escaped slash in a user", escaped)
		}
		again, err := ParseSetPath(SetPath(storage))
		if err != nil || again != storage {
			t.Fatalf("SetPath(%q) is read as %q, %v", storage, again, err)
		}
	})
}

func FuzzParseSetBody(f *testing.F) {
	f.Add([]byte(`{"value":{"n":1},"key":"k1"}`))
	f.Add([]byte(` { "type" : "DEL" , "key":"\u006b" }`))
	f.Add([]byte(`{"value":"\ud800","type":"PUT"}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		storage := event.Storage{User: "alice", Path: "posts/1"}
		d, keyed, err := ParseSetBody(body, storage)
		strict, named, refused := parseSetBody(body, storage)
		if refused == nil {
			if refused = strict.CheckNew(); refused != nil {
				strict, named = event.Draft{}, false
			}
		}
		if (err == nil) != (refused == nil) || named != keyed || !reflect.DeepEqual(strict, d) {
			t.Fatalf("ParseSetBody(%q) = %+v, %v, %v, want %+v, %v, %v", body, d, keyed, err, strict, named, refused)
		}
		if err == nil && !keyed && d.Key != "" {
			t.Fatalf("ParseSetBody(%q) has the key %q, which nobody has given", body, d.Key)
		}
		if err != nil {
			return
		}
		again, err := event.ParseDraft(d.AppendJSON(nil))
		if err != nil || !reflect.DeepEqual(again, d) {
			t.Fatalf("ParseSetBody(%q) = %+v, which reads back as %+v, %v", body, d, again, err)
		}
		ev := event.New(1, 0, d, d.Hash())
		if bytes.ContainsAny(ev.Line(), "\r\n") {
			t.Fatalf("line %q", ev.Line())
		}
	})
}

// The fast path of ParseResult agrees with encoding/json, and accepts what a server sends.
func FuzzParseResult(f *testing.F) {
	d := event.Draft{User: "alice", Path: "posts/1", Type: event.Put, Key: "k", Value: []byte("1")}
	ev := event.New(7, 1_700_000_000_000_000, d, d.Hash())
	sent := AppendResults(nil, []event.Receipt{{Event: ev}, {Event: ev, Duplicate: true}, {Event: ev, Duplicate: true, Dropped: true}})
	dropped := []byte("dropped")
	for line := range bytes.Lines(sent) {
		line = bytes.TrimSpace(line)
		f.Add(line)
		if fast := new(SetResult).scan(line); fast == bytes.Contains(line, dropped) {
			f.Errorf("%s: on the fast path: %v", line, fast)
		}
	}
	f.Add([]byte(`{"id":"0000000000007","status":201}`))
	f.Fuzz(func(t *testing.T, line []byte) {
		var want SetResult
		refused := json.Unmarshal(line, &want)
		got, err := ParseResult(line)
		if (err == nil) != (refused == nil) || err == nil && got != want {
			t.Fatalf("ParseResult(%q) = %+v, %v, want %+v, %v", line, got, err, want, refused)
		}
	})
}

func FuzzLineReader(f *testing.F) {
	f.Add([]byte("a\nb\r\n\n c"), 10)
	f.Add([]byte(strings.Repeat("x", 200)), 3)
	f.Fuzz(func(t *testing.T, text []byte, most int) {
		most = min(max(most, 0), 1<<20)
		l := NewLineReader(bytes.NewReader(text), most)
		all := bytes.Split(text, []byte("\n"))
		for last := 0; ; {
			line, err := l.Next()
			if err == io.EOF {
				all = all[last:]
				break
			}
			if err != nil {
				if n := l.Number(); n == 0 || len(bytes.TrimSuffix(all[n-1], []byte("\r"))) <= most {
					t.Fatalf("line %d of %q: %v", n, text, err)
				}
				return
			}
			n := l.Number()
			if len(line) > most || n <= last || !bytes.Equal(line, bytes.TrimSuffix(all[n-1], []byte("\r"))) {
				t.Fatalf("line %d of %q is %q", n, text, line)
			}
			if skipped := bytes.Join(all[last:n-1], nil); len(bytes.TrimSpace(skipped)) > 0 {
				t.Fatalf("%q was left out", skipped)
			}
			last = n
		}
		if rest := bytes.Join(all, nil); len(bytes.TrimSpace(rest)) > 0 {
			t.Fatalf("%q was left out", rest)
		}
	})
}

func FuzzReadError(f *testing.F) {
	f.Add(Problem, 410, []byte(`{"status":410,"title":"gone","detail":"no","oldest":"0000000000001"}`), "5")
	f.Add("text/html", 502, []byte("<html>"), "")
	f.Add(Problem, 400, []byte(`{"lines":[1,2,3],"detail":"\u001b[0m"}`), "-1")
	f.Fuzz(func(t *testing.T, mediaType string, status int, body []byte, retry string) {
		resp := &http.Response{StatusCode: status, Body: io.NopCloser(bytes.NewReader(body)),
			Header: http.Header{"Content-Type": {mediaType}, "Retry-After": {retry}}}
		e := ReadError(resp)
		if e.Status != status || e.RetryAfter < 0 || e.RetryAfter > maxRetryAfter || e.Log != "" && !event.ValidLogID(e.Log) {
			t.Fatalf("%+v", e)
		}
		for _, r := range e.Error() {
			if !unicode.IsPrint(r) || r == utf8.RuneError {
				t.Fatalf("%q has %U", e, r)
			}
		}
	})
}

func FuzzNegotiate(f *testing.F) {
	f.Add("text/event-stream, */*;q=0.1", "application/json")
	f.Add("a/b;x=\"", ",;q=1,")
	f.Add("event/text-stream;q=0.5", "text/event-stream;q=0.1, */*")
	f.Fuzz(func(t *testing.T, a, b string) {
		form, ok := NegotiateForm([]string{a, b})
		if form < Page || form > Stream || !ok && form != Page {
			t.Fatalf("Negotiate(%q, %q) = %v, %t", a, b, form, ok)
		}
		// Repeating the header changes nothing.
		if again, ok2 := NegotiateForm([]string{a, b, a, b}); again != form || ok2 != ok {
			t.Fatalf("Negotiate(%q, %q) = %v, twice %v", a, b, form, again)
		}
	})
}

// A parsed comparison has its sets, and no more of them than allowed.
func FuzzParsePostBloom(f *testing.F) {
	f.Add("since=now", []byte(`{"items":[{"id":"a/p","have":["90657bc6092ddb0659c8fde359202b9a7415786fa82671d01cfa3fde0a589b4a"],"count":1}]}`))
	f.Add("", []byte(`{"items":[{"topic":"a","bloomFilter":"9XIBBA==","back":true},{"id":"a/p"}]}`))
	f.Add("topic=a&have=,&count=7", []byte(`{"hashes":[]}`))
	f.Add("count=0", []byte(`{"items":{"bloomFilter":"9XI+/A==","count":18446744073709551615}}`))
	f.Add("bloomFilter=9XI&back=0", []byte(`{"items":{}}`))
	f.Fuzz(func(t *testing.T, query string, body []byte) {
		for _, parse := range []func() (*BloomQuery, error){
			func() (*BloomQuery, error) { return ParsePostBloom(query, body) },
			func() (*BloomQuery, error) { return ParseBloom(query) },
		} {
			q, err := parse()
			if err != nil {
				continue
			}
			if len(q.Items) == 0 || len(q.Items) > MaxTopics || q.One && len(q.Items) != 1 {
				t.Errorf("%d items", len(q.Items))
			}
			for _, item := range q.Items {
				if (item.ID == "") == (item.Topic == "") || len(item.Have) > MaxHashes || item.Filter != nil && item.Have != nil {
					t.Errorf("item %+v", item)
				}
			}
		}
		if hashes, form, err := ParseHashes(query, body); form != nil && err == nil {
			again, form, err := ParseHashes("", AppendHashes(nil, hashes))
			if form == nil || err != nil || len(again) != len(hashes) {
				t.Errorf("%d hashes, read again %d, %v", len(hashes), len(again), err)
			}
		}
	})
}
