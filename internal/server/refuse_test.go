package server

import (
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/internal/wire"
)

// A refusal is a request that must have no effect, and the expected response.
type refusal struct {
	request string // "METHOD target", or a whole request
	status  int
	detail  string // a part of it
}

func post(target, body string) string {
	return fmt.Sprintf("POST %s HTTP/1.1\nHost: localhost\nContent-Length: %d\n\n%s", target, len(body), body)
}

func with(target string, headers ...string) string {
	return "GET " + target + " HTTP/1.1\nHost: localhost\n" + strings.Join(headers, "\n") + "\n\n"
}

const formType = "application/x-www-form-urlencoded"

func form(method, target, kind, body string) string {
	return fmt.Sprintf("%s %s HTTP/1.1\nHost: localhost\nContent-Type: %s\nContent-Length: %d\n\n%s", method, target, kind, len(body), body)
}

const sse = "Accept: text/event-stream"

var refusals = []refusal{
	// Paths, which are taken as they are written.
	{"GET //", 404, `"//"`},
	{"GET //events?topic=a", 404, ""},
	{"GET /./events?topic=a", 404, ""},
	{"GET /x/../events?topic=a", 404, ""},
	{"GET /%2e/events", 404, ""},
	{"GET /events/?topic=a", 404, ""},
	{"GET /%65vents?topic=a", 404, ""},
	{"GET /Events?topic=a", 404, ""},
	{"GET /favicon.ico", 404, ""},
	{"GET /set/alice/p", 405, "POST"},
	{"DELETE /events?topic=a", 405, "GET, HEAD, OPTIONS, POST, QUERY"},
	{"HEAD /set", 405, "POST"},
	{"TRACE /", 405, "GET"},
	{"PUT /set/a/b", 405, "POST"},
	{"GET http://localhost/nothing", 404, `"/nothing"`},
	{"CONNECT localhost:80", 404, ""},

	// Appends that are meant for another log.
	{"POST /set/a/b HTTP/1.1\nHost: localhost\nRstream-Log: ZZZZZZZZZZZZZZZZ\nContent-Length: 11\n\n{\"value\":1}", 409, "for the log ZZZZZZZZZZZZZZZZ"},
	{"POST /set HTTP/1.1\nHost: localhost\nRstream-Log: ZZZZZZZZZZZZZZZZ\nContent-Length: 32\n\n{\"user\":\"a\",\"path\":\"b\",\"value\":1}", 409, "this log is "},

	// Names.
	{post("/set/", `{"value":1}`), 400, "want /set/{user}/{path}"},
	{post("/set/alice", `{"value":1}`), 400, "want /set/{user}/{path}"},
	{post("/set/alice/", `{"value":1}`), 400, "must not be empty"},
	{post("/set//p", `{"value":1}`), 400, "user: must not be empty"},
	{post("/set/al%2Fice/p", `{"value":1}`), 400, "must not contain '/'"},
	{post("/set/al%2fice/p", `{"value":1}`), 400, "must not contain '/'"},
	{post(`/set/al%2Fice/p"`, `{"value":1}`), 400, "must not contain '/'"},
	{post("/set/al%2Fice/p\xc3\xa9", `{"value":1}`), 400, "must not contain '/'"},
	{post("http://localhost/set/al%2Fice/p", `{"value":1}`), 400, "must not contain '/'"},
	{post("/set/../p", `{"value":1}`), 400, "URL parsers remove it"},
	{post("/set/%2e%2e/p", `{"value":1}`), 400, "URL parsers remove it"},
	{post("/set/./p", `{"value":1}`), 400, "URL parsers remove it"},
	{post("/set/alice/%2e%2e/p", `{"value":1}`), 400, `segment ".."`},
	{post("/set/alice/p/.", `{"value":1}`), 400, `segment "."`},
	{post("/set/alice/p%2f%2fq", `{"value":1}`), 400, "empty segment"},
	{post("/set/alice/p/", `{"value":1}`), 400, "empty segment"},
	{post("/set/alice//p", `{"value":1}`), 400, "empty segment"},
	{post("/set/alice/p%00q", `{"value":1}`), 400, "control character"},
	{post("/set/alice/p%0aq", `{"value":1}`), 400, "control character"},
	{post("/set/al%ffice/p", `{"value":1}`), 400, "UTF-8"},
	{post("/set/alice/\xff", `{"value":1}`), 400, "UTF-8"},
	{post("/set/alice/p$", `{"value":1}`), 400, "must not end with $"},
	{post("/set/alice/p%2A", `{"value":1}`), 400, "must not contain *"},
	{post("/set/al,ice/p", `{"value":1}`), 400, "must not contain ','"},
	{post("/set/"+strings.Repeat("a", 129)+"/p", `{"value":1}`), 400, "at most 128 bytes long, not 129"},
	{post("/set/a/"+strings.Repeat("p", 1025), `{"value":1}`), 400, "at most 1024 bytes long, not 1025"},

	// Topics in a body.
	{form("POST", "/events", "application/json", `{"topic":"a"}`), 415, "want application/x-www-form-urlencoded"},
	{form("QUERY", "/events", "multipart/form-data; boundary=x", "--x--"), 415, "want application/x-www-form-urlencoded"},
	{form("QUERY", "/events", "x/y/z", "topic=a"), 415, "want application/x-www-form-urlencoded"},
	{post("/events", "topic=a"), 400, "Content-Type is missing"},
	{form("QUERY", "/events", formType, ""), 400, "topic is missing"},
	{"POST /events HTTP/1.1\nHost: localhost\nContent-Length: 0\n\n", 400, "topic is missing"},
	{form("POST", "/events", formType, "topic=a\n"), 400, "control character"},
	{form("POST", "/events", formType, "\ufefftopic=a"), 400, "unknown parameter"},
	{form("POST", "/events", formType, "topic=%zz"), 400, "query"},
	{form("POST", "/events", formType, "topic=a;b=c"), 400, "query"},
	{form("POST", "/events?since=now", formType, "topic=a&since=now"), 400, "parameter since is given 2 times"},
	{form("POST", "/events?since=now", formType, "topic=a&last=5"), 400, "cannot be combined"},
	{form("QUERY", "/events", formType, "topic=a"+strings.Repeat("&topic=a", wire.MaxTopics)), 400, "at most 1000"},
	{form("QUERY", "/events?topic=a", formType, "topic=a"+strings.Repeat("&topic=a", wire.MaxTopics-1)), 400, "at most 1000"},
	{form("POST", "/events", formType, "topic="+strings.Repeat("a", wire.MaxForm)), 413, "longer than 2097152 bytes"},
	{form("POST", "/events", formType, "topic=a"), 410, "oldest"},
	{form("QUERY", "/events", formType, "topic=a&since=0000000000006"), 409, "ahead of this log"},
	{form("QUERY", "/get", formType, "id=a/p"), 405, "GET, HEAD, OPTIONS, POST"},
	{form("QUERY", "/snapshot", formType, "topic=a"), 405, "GET, HEAD"},
	{"QUERY /events HTTP/1.1\nHost: localhost\nContent-Type: " + formType + "\nContent-Encoding: gzip\nContent-Length: 2\n\n\x1f\x8b", 415, "gzip"},
	{"QUERY /events HTTP/1.1\nHost: localhost\nContent-Type: " + formType + "\nAccept: image/png\nContent-Length: 7\n\ntopic=a", 406, "Accept must allow"},
	{"QUERY /events HTTP/1.1\nHost: localhost\nOrigin: https://evil\nContent-Type: " + formType + "\nContent-Length: 7\n\ntopic=a", 403, "origin"},

	// Bodies of one append.
	{post("/set/a/p?key=1", `{"value":1}`), 400, "no parameters"},
	{post("/set/a/p", ``), 400, "empty"},
	{post("/set/a/p", `1`), 400, "not a JSON object"},
	{post("/set/a/p", `{"value":1}{}`), 400, "JSON"},
	{post("/set/a/p", `{"value":}`), 400, "JSON"},
	{post("/set/a/p", `{}`), 400, "value is missing"},
	{post("/set/a/p", `{"value":1,"value":2}`), 400, "twice"},
	{post("/set/a/p", `{"value":1,"Value":2}`), 400, `unknown member "Value"`},
	{post("/set/a/p", `{"value":1,"id":"x"}`), 400, `unknown member "id"`},
	{post("/set/a/p", `{"value":1,"key":5}`), 400, "key: want a string"},
	{post("/set/a/p", `{"value":1,"key":"\u0000"}`), 400, "control character"},
	{post("/set/a/p", `{"value":1,"key":"\ud800"}`), 400, "surrogate"},
	{post("/set/a/p", `{"value":1,"type":"put"}`), 400, "want PUT or DEL"},
	{post("/set/a/p", `{"value":1,"type":"DEL"}`), 400, "a DEL has none"},
	{post("/set/a/p", "{\"value\":\"\xff\"}"), 400, "UTF-8"},
	{post("/set/a/p", `{"value":`+strings.Repeat("[", 600)+strings.Repeat("]", 600)+`}`), 400, "nested"},
	{post("/set/a/p", `{"value":"`+strings.Repeat("x", wire.MaxValue)+`"}`), 413, "at most 1048576"},
	{post("/set/a/p", strings.Repeat(" ", wire.MaxLine+1)), 413, "longer than 1056768 bytes"},
	{"POST /set HTTP/1.1\nHost: localhost\nContent-Length: 67108865\nExpect: 100-continue\n\n", 413, "longer than 67108864 bytes"},
	{"POST /set/a/p HTTP/1.1\nHost: localhost\nContent-Length: 2\nContent-Encoding: gzip\n\n\x1f\x8b", 415, "gzip"},
	{"POST /set HTTP/1.1\nHost: localhost\nTransfer-Encoding: chunked\n\nzz\r\n", 400, "chunk"},

	// Batches.
	{post("/set?x=1", `{}`), 400, "no parameters"},
	{post("/set", `{"user":"a","path":"p","value":1,"extra":2}`), 400, "line 1: unknown member"},
	{post("/set", `{"user":"a","path":"p","value":1,"hash":"`+strings.Repeat("0", 64)+`"}`), 400, "line 1: hash does not match"},
	{post("/set", "[1]\n"), 400, "line 1: not a JSON object"},
	{post("/set", `{"user":"a","path":"p","value":"`+strings.Repeat("x", wire.MaxValue)+`"}`), 400, "line 1: value must be at most 1048576 bytes long, not 1048578"},
	{post("/set", strings.Repeat("x", wire.MaxLine+1)), 413, "line 1: line is too long"},
	{post("/set", strings.Repeat("{\n", wire.MaxBatchLen+1)), 413, "more than 100000 lines"},

	// Queries.
	{"GET /?x=1", 400, "no parameters"},
	{"GET /healthz?x", 400, "no parameters"},
	{"GET /events", 400, "topic is missing"},
	{"GET /events?topic=", 400, "must not be empty"},
	{"GET /events?topic=a&topic=b//c", 400, "empty segment"},
	{"GET /events?topic=a%00", 400, "control character"},
	{"GET /events?topic=%ff", 400, "UTF-8"},
	{"GET /events?topic=%zz", 400, "query"},
	{"GET /events?topic=a;since=now", 400, "query"},
	{"GET /events?Topic=a", 400, "unknown"},
	{"GET /events?topic=a&sum=1", 400, "want one of topic, except, since, until, limit, last"},
	{"GET /events?topic=a&since=now&since=now", 400, "parameter since is given 2 times"},
	{"GET /events?topic=a?since=now", 400, "?since= follows another parameter; want &since="},
	{"GET /events?topic=a&limit=5?topic=b", 400, "?topic= follows another parameter"},
	{"GET /events?topic=a&since=", 400, "since"},
	{"GET /events?topic=a&since=yesterday", 400, "since"},
	{"GET /events?topic=a&since=-5m", 400, "since"},
	{"GET /events?topic=a&since=14:05", 400, "since"},
	{"GET /events?topic=a&since=0000000000001.k7q2m", 400, "since"},
	{"GET /events?topic=a&since=000000000000a", 400, "since"},
	{"GET /events?topic=a&since=8000000000000", 400, "since"},
	{"GET /events?topic=a&until=x", 400, "until"},
	{"GET /events?topic=a&limit=-1", 400, "limit"},
	{"GET /events?topic=a&limit=10001", 400, "from 0 to 10000"},
	{"GET /events?topic=a&limit=+5", 400, "limit"},
	{"GET /events?topic=a&limit=1e3", 400, "limit"},
	{"GET /events?topic=a&last=99999999999999999999", 400, "last"},
	{"GET /events?topic=a&last=1&since=now", 400, "cannot be combined"},
	{"GET /events?topic=a&since=0000000000004&until=0000000000003", 400, "is after until"},
	{"GET /events?topic=a&until=0000000000002&since=now", 400, "is after until"},
	{with("/events?topic=a&until=0000000000003", "Last-Event-ID: 0000000000004"), 400, "is after until"},
	{"GET /events?" + strings.Repeat("topic=a&", wire.MaxTopics+1), 400, "at most 1000"},
	{with("/events?topic=a&limit=5", sse), 400, "a stream has no pages"},
	{with("/events?topic=a", sse, "Last-Event-ID: x"), 400, "Last-Event-ID"},
	{with("/events?topic=a", sse, "Last-Event-ID: 0000000000001", "Last-Event-ID: 0000000000002"), 400, "is given 2 times"},
	{with("/events?topic=a", "Accept: text/html"), 406, "application/json"},
	{with("/events?topic=a", "Content-Length: 2") + "{}", 400, "a GET request must not have a body"},
	{"GET /events?topic=a&except=", 400, "must not be empty"},
	{"GET /events?topic=a&except=b//c", 400, "empty segment"},
	{"GET /events?except=a", 400, "topic is missing"},
	{"GET /events?topic=a&" + strings.Repeat("except=a&", wire.MaxTopics+1), 400, "except: 1001 given, but at most 1000"},
	{"GET /get?id=a/p&except=a", 400, "unknown"},
	{"GET /windows", 400, "want exactly one topic, not 0"},
	{"GET /windows?topic=a", 400, "since=beginning selects"},
	{"GET /windows?topic=a&topic=b&at=now", 400, "want exactly one topic, not 2"},
	{"GET /windows?topic=a&topic=b&since=now", 400, "want exactly one topic, not 2"},
	{"GET /windows?topic=a&topic=b//c&since=now&sum=1", 400, "empty segment"},
	{"GET /windows?since=now&sum=1", 400, "want exactly one topic, not 0"},
	{"GET /windows?topic=a//b&at=now", 400, "empty segment"},
	{"GET /windows?topic=a&sum=1", 400, "at or since"},
	{"GET /windows?topic=a&until=now", 400, "at or since"},
	{"GET /windows?topic=a&at=", 400, "at: "},
	{"GET /windows?topic=a&at=now&at=now", 400, "parameter at is given 2 times"},
	{"GET /windows?topic=a&at=now&since=now", 400, "at cannot be combined with since, until or sum"},
	{"GET /windows?topic=a&at=now&until=now", 400, "at cannot be combined with since, until or sum"},
	{"GET /windows?topic=a&at=now&sum=0", 400, "at cannot be combined with since, until or sum"},
	{"GET /windows?topic=a&since=now&sum=true", 400, "sum: want 0 or 1, not \"true\""},
	{"GET /windows?topic=a&since=now&sum=", 400, "want 0 or 1"},
	{"GET /windows?topic=a&since=x", 400, "since"},
	{"GET /windows?topic=a&since=now&until=x", 400, "until"},
	{"GET /windows?topic=a&since=now&limit=5", 400, "unknown"},
	{"GET /windows?topic=a&since=now&until=0000000000003", 400, "is after until"},
	{with("/windows?topic=a&at=now", "Content-Length: 2") + "{}", 400, "a GET request must not have a body"},
	{"POST /windows", 405, "GET, HEAD"},
	{"GET /snapshot", 400, "want exactly one topic, not 0"},
	{"GET /snapshot?topic=a&topic=b", 400, "want exactly one topic, not 2"},
	{"GET /snapshot?topic=a&at=", 400, "at: "},
	{"GET /snapshot?topic=a&at=-1h", 400, "at: "},
	{"GET /snapshot?topic=a&since=now", 400, "unknown"},
	{with("/snapshot?topic=a&after=a/p", sse), 400, "after: a stream has the whole state"},
	{"GET /snapshot?topic=a&until=now", 400, "until: only a stream has an end"},
	{with("/snapshot?topic=a&until=x", sse), 400, "until: "},
	{"GET /api/room/", 400, "path: want /api/room/TOPIC"},
	{"GET /api/room/a%2Fb/c", 400, "is no user"},
	{"GET /api/room/a/p?topic=a", 400, "unknown"},
	{"GET /api/room/a/p?until=now", 400, "until: only a stream has an end"},
	{with("/api/room/a", "Accept: application/x-ndjson"), 406, "application/json"},
	{"GET /api/connections?topic=a", 400, "unknown"},
	{"POST /api/events", 405, "GET, HEAD"},
	{with("/snapshot?topic=a", "Accept: text/html"), 406, "application/json"},
	{"POST /snapshot", 405, "GET, HEAD"},
	{"GET /get", 400, "want at least one storage"},
	{"GET /get?id=alice", 400, "want user/path"},
	{"GET /get?id=a/p&id=a/q", 400, "is given 2 times"},
	{"GET /get?id=a/p&items=a/q", 400, "cannot be combined"},
	{"GET /get?items=", 400, "want user/path"},
	{"GET /get?items=a/p,", 400, "want user/path"},
	{"GET /get?items=a/p*", 400, "must not contain *"},
	{"GET /get?items=a/p,*/q", 400, "must not contain"},
	{"GET /get?items=a/p" + strings.Repeat(",a/p", wire.MaxTopics), 400, "at most 1000"},
	{"GET /get?topic=a", 400, "unknown"},
	{post("/get", ``), 400, "body"},
	{post("/get", `[]`), 400, "body"},
	{post("/get", `{"items":[]}`), 400, "want at least one storage"},
	{post("/get", `{"items":null}`), 400, "want a storage"},
	{post("/get", `{"items":{"bloomFilter":"9XI"}}`), 400, `want {"id": …}`},
	{post("/get", `{"items":{}}`), 400, `want {"id": …}`},
	{post("/get", `{"items":["a/p",5]}`), 400, "want a storage such as"},
	{post("/get", `{"items":[["a/p"]]}`), 400, "want a storage such as"},
	{post("/get", `{"items":""}`), 400, "want user/path"},
	{post("/get", `items=["a/p"]`), 400, "body: invalid JSON at byte 1"},
	{post("/get", "\ufeff"+`{"items":"a/p"}`), 400, "body: invalid JSON at byte 1"},

	// JSON in a parameter.
	{`GET /get?items=[]`, 400, "want at least one storage"},
	{`GET /get?items=[]&items=[]`, 400, "want at least one storage"},
	{`GET /get?items=["a/p"`, 400, "items: invalid JSON"},
	{`GET /get?items=["a/p"],["a/q"]`, 400, "items: invalid JSON"},
	{`GET /get?items=["a/p",["a/q"]]`, 400, "want a storage such as"},
	{`GET /get?items=["a/p",null]`, 400, "want a storage such as"},
	{`GET /get?items=["a"]`, 400, "want user/path"},
	{`GET /get?items=["a/*"]`, 400, "must not contain *"},
	{`GET /get?items=[%22a/p%00%22]`, 400, "items: invalid JSON"},
	{`GET /get?items=%5B%22a/p\ud800%22%5D`, 400, "surrogate"},
	{`GET /get?items="a/p`, 400, "items: invalid JSON"},
	{`GET /get?items={"id":"a/p","id":"a/q"}`, 400, "twice"},
	{`GET /get?items={"id":"a/p","value":1}`, 400, "nothing else"},
	{`GET /get?items={"ID":"a/p"}`, 400, "nothing else"},
	{`GET /get?items=[{"id":"a/p","bloomFilter":7}]`, 400, "want a string"},
	{`GET /get?items=[{"id":"a/p","have":[]}]&have=`, 400, "both in items and as parameters"},
	{`GET /get?items=["a/p"` + strings.Repeat(`,"a/p"`, wire.MaxTopics) + `]`, 400, "at most 1000"},
	{`GET /get?items=["a/p"` + strings.Repeat(`,"a/p"`, 600) + `]&items=["a/p"` + strings.Repeat(`,"a/p"`, 600) + `]`, 400, "at most 1000"},
	{`GET /get?id=["a/p","b/q"]`, 400, "use items for JSON"},
	{`GET /get?id="a/p"`, 400, "use items for JSON"},
	{`GET /get?id=%7B%22id%22:%22a/p%22%7D`, 400, "use items for JSON"},
	{"GET /get?id=a/p?bloomFilter=9XI", 400, "bloomFilter: does not begin"},
	{"GET /get?id=a/p?since=now", 400, "?since= follows another parameter"},
	{post("/get", `{"items":"[\"a/p\"]"}`), 400, "not JSON in a string"},
	{post("/get", `{"items":["{\"id\":\"a/p\"}"]}`), 400, "not JSON in a string"},
	{"GET /get?id=a/p?bloomFilter=9XI&bloomFilter=9XI", 400, "is given 2 times"},
	{post("/get", `{"items":[{"id":"a/p","bloomFilter":""}]}`), 400, "base64url"},
	{post("/get", `{"items":[{"id":"a/p","bloom":""}]}`), 400, "nothing else"},
	{post("/get", `{"items":"a/p","since":"now"}`), 400, "nothing else"},
	{post("/get?id=a/p", `{"items":"a/p"}`), 400, "unknown"},
	{post("/get", `{"items":["a/p"`+strings.Repeat(`,"a/p"`, wire.MaxTopics)+`]}`), 400, "at most 1000"},

	{post("/get", `{"hashes":["x"]}`), 400, "hashes"},
	{post("/get", `{"hashes":null}`), 400, "want a list of hashes"},
	{post("/get?limit=5", `{"hashes":[]}`), 400, "unknown"},
	{post("/get", `{"hashes":[],"items":"a/p"}`), 400, "nothing else"},
	{post("/get", `{"items":[{"id":"a/p","have":[],"bloomFilter":"9XI"}]}`), 400, "cannot be combined"},
	{post("/get", `{"items":[{"have":[]}]}`), 400, "want"},
	{"GET /get?id=a/p&have=x", 400, "have"},
	{"GET /get?id=a/p&bloomFilter=9XI", 400, "bloomFilter: does not begin"},
	{"GET /get?id=a/p&bloomFilter=!", 400, "base64url"},
	{"GET /get?id=a/p&stubs=2", 400, "want 0 or 1"},
	{"GET /get?id=a/p&values=", 400, "want 0 or 1"},
	{"GET /events?topic=a&values=no", 400, `values: want 0 or 1, not "no"`},
	{"GET /events?topic=a&values=0&values=0", 400, "is given 2 times"},
	{"GET /events?topic=a&values=0&stubs=1", 400, "a stub has no value"},
	{"GET /snapshot?topic=a&values=0", 400, "unknown"},
	{"GET /windows?topic=a&since=now&values=0", 400, "unknown"},
	{"GET /bloom?topic=a&values=0", 400, "unknown"},
	{with("/get?id=a/p&stubs=1&since=now", sse), 400, "a stream has no stubs"},
	{with("/get?id=a/p&bloomFilter=9XI&since=now", sse), 400, "does not begin"},
	{with("/get?id=a/p&bloomFilter=9XI", sse, "Last-Event-ID: 0000000000003"), 400, "does not begin"},
	{with("/get?id=a/p&have=", "Accept: text/event-streams"), 406, "text/event-stream"},
	{with("/events?topic=a&stubs=1", sse), 400, "a stream has no stubs"},
	{"GET /bloom", 410, "oldest"}, // the whole log
	{"POST /bloom HTTP/1.1\nHost: localhost\nContent-Type: application/vnd.rstream.reconcile\nContent-Length: 1\n\nx", 400, "topic or id"},
	{"GET /bloom?id=a/p&topic=a", 400, "cannot be combined"},
	{"GET /bloom?id=a", 400, "want user/path"},
	{"GET /bloom?topic=a&topic=b", 400, "want exactly one topic, not 2"},
	{"GET /bloom?topic=a&count=-1", 400, "count"},
	{"GET /bloom?topic=a&back=yes", 400, "back"},
	{"GET /bloom?topic=a&limit=5", 400, "unknown"},
	{"GET /bloom?topic=a&have=&bloomFilter=9XI", 400, "cannot be combined"},
	{"GET /bloom?topic=a&since=now&until=0000000000003", 400, "is after until"},
	{post("/bloom", `{}`), 400, "items"},
	{post("/bloom", `{"items":[]}`), 400, "items"},
	{post("/bloom", `{"items":["a/p"]}`), 400, `want {"id": …} or {"topic": …}, not "a/p"`},
	{post("/bloom", `{"items":"a/p"}`), 400, `want {"id": …} or a list`},
	{post("/bloom", `{"items":null}`), 400, `want {"id": …} or a list`},
	{post("/bloom", `{"items":[[{"topic":"a"}]]}`), 400, `want {"id": …}`},
	{post("/bloom", `{"items":{"topic":"a","count":null}}`), 400, "count: want an integer from 0 to 2^64-1, not null"},
	{post("/bloom", `{"items":{"topic":"a","count":"5"}}`), 400, "count: want an integer"},
	{post("/bloom", `{"items":{"topic":"a","count":1.5}}`), 400, "count: want an integer from 0 to 2^64-1, not 1.5"},
	{post("/bloom", `{"items":{"topic":"a","count":18446744073709551616}}`), 400, "count: want an integer"},
	{post("/bloom", `{"items":{"topic":"a","back":null}}`), 400, "back: want true or false, not null"},
	{post("/bloom", `{"items":{"topic":"a","bloomFilter":null}}`), 400, "want a string"},
	{post("/bloom", `{"bloomFilter":"9XI","count":1}`), 400, "body: want"},
	{post("/bloom", "\ufeff"+`{"items":{}}`), 400, "body: invalid JSON at byte 1"},
	{"GET /bloom?bloomFilter=9XI+&+count=5", 400, `unknown parameter " count"`},
	{"GET /bloom?count=", 400, "count: want an integer"},
	{"GET /bloom?count=1e3", 400, "count: want an integer"},
	{"GET /bloom?count=+5", 400, "count: want an integer"},
	{post("/bloom", `{"items":[{"id":"a/p","filter":""}]}`), 400, "unknown member"},
	{post("/bloom", `{"items":[{"topic":"a","count":-1}]}`), 400, "items"},
	{post("/bloom?topic=a", `{"items":[{"topic":"a"}]}`), 400, "unknown"},
	{post("/bloom", `{"items":[{"topic":"a"}`+strings.Repeat(`,{"topic":"a"}`, wire.MaxTopics)+`]}`), 400, "at most 1000"},

	// Positions.
	{"GET /bloom?topic=a", 410, "oldest"},
	{"GET /bloom?topic=a&since=0000000000006", 409, "ahead of this log"},
	{post("/bloom?since=0000000000003.ZZZZZ", `{"items":[{"topic":"a"}]}`), 409, "another log"},
	{"GET /events?topic=a&since=0000000000001", 410, "the oldest position still served is 0000000000002"},
	{"GET /events?topic=a", 410, "oldest"},
	{"GET /events?topic=a&until=0000000000001&since=now", 410, "oldest"},
	{"GET /events?topic=a&until=0000000000001&last=1", 410, "oldest"},
	{with("/events?topic=a", sse), 410, "oldest"},
	{with("/events?topic=a&since=now", sse, "Last-Event-ID: 0000000000001"), 410, "oldest"},
	{with("/events?topic=a&last=5", sse, "Last-Event-ID: 0000000000001"), 410, "oldest"},
	{"GET /events?topic=a&since=0000000000006", 409, "ahead of this log"},
	{"GET /events?topic=a&since=7ZZZZZZZZZZZZ", 409, "ahead of this log"},
	{"GET /events?topic=a&since=0000000000003&until=0000000000006", 409, "ahead of this log"},
	{"GET /events?topic=a&since=0000000000003.ZZZZZ", 409, "another log"},
	{with("/events?topic=a", sse, "Last-Event-ID: 0000000000003.ZZZZZ"), 409, "another log"},

	{"GET /windows?topic=a&at=0000000000001", 410, "the oldest position still served is 0000000000002"},
	{"GET /windows?topic=a&at=1900-01-01T00:00:00Z", 410, "oldest"},
	{"GET /windows?topic=a&at=0000000000006", 409, "ahead of this log"},
	{"GET /windows?topic=a&at=0000000000003.ZZZZZ", 409, "another log"},
	{"GET /windows?topic=a&since=beginning", 410, "oldest"},
	{"GET /windows?topic=a&since=0000000000001&until=0000000000001&sum=1", 410, "oldest"},
	{"GET /windows?topic=a&since=0000000000003.ZZZZZ&sum=1", 409, "another log"},
	{"GET /windows?topic=a&since=now&until=0000000000003.ZZZZZ", 409, "another log"},
	{"GET /windows?topic=a&since=0000000000006", 409, "ahead of this log"},
	{"GET /windows?topic=a&since=now&until=0000000000006", 409, "ahead of this log"},
	{"GET /snapshot?topic=a&at=0000000000001", 410, "the oldest position still served is 0000000000002"},
	{"GET /snapshot?topic=a&at=beginning", 410, "oldest"},
	{"GET /snapshot?topic=a&at=0000000000006", 409, "ahead of this log"},
	{"GET /snapshot?topic=a&at=0000000000003.ZZZZZ", 409, "another log"},

	// Other people's pages.
	{"GET / HTTP/1.1\nHost: evil.example\n\n", 403, "not this machine"},
	{"GET http://evil.example/ HTTP/1.1\nHost: localhost\n\n", 403, "not this machine"},
	{"GET / HTTP/1.0\n\n", 403, "not this machine"},
	{"GET / HTTP/1.1\nHost: localhost.evil.example\n\n", 403, "not this machine"},
	{"GET / HTTP/1.1\nHost: 127.0.0.1.evil.example:8420\n\n", 403, "not this machine"},
	{"GET / HTTP/1.1\nHost: 192.168.0.1\n\n", 403, "not this machine"},
	{"GET / HTTP/1.1\nHost: localhost\nOrigin: null\n\n", 403, "origin"},
	{"GET / HTTP/1.1\nHost: localhost\nOrigin: http://localhost:1234\n\n", 403, "origin"},
	{"GET / HTTP/1.1\nHost: localhost\nOrigin: https://app.example.evil\n\n", 403, "origin"},
	{"OPTIONS /set HTTP/1.1\nHost: localhost\nOrigin: https://evil\nAccess-Control-Request-Method: POST\n\n", 403, "origin"},
}

func TestRefusals(t *testing.T) {
	log := newLog()
	log.put(t, "a", "p", 5)
	log.horizon = 2
	s, stop := serve(t, log, Config{Loopback: true, Origins: []string{"https://app.example"}})
	defer stop()
	calls := log.calls.Load()
	for _, c := range refusals {
		request := c.request
		if !strings.Contains(request, "\n") {
			request += " HTTP/1.1\nHost: localhost\n\n"
		}
		resp, text := s.raw(request)
		name := request[:min(len(request), 120)]
		if resp.StatusCode != c.status {
			t.Errorf("%q: %s %.200s, want %d", name, resp.Status, text, c.status)
			continue
		}
		checkProblem(t, name, resp, text, c)
	}
	if n := log.calls.Load(); n != calls {
		t.Errorf("the log was called %d times", n-calls)
	}
}

func checkProblem(t *testing.T, name string, resp *http.Response, text string, c refusal) {
	t.Helper()
	if resp.Header.Get("Content-Type") != wire.Problem || wire.LogOf(resp.Header) != logName || resp.Header.Get("Location") != "" {
		t.Errorf("%q: headers %v", name, resp.Header)
	}
	if resp.Header.Get(wire.HeaderHead) == "" || resp.Header.Get(wire.HeaderFrom) != "" {
		t.Errorf("%q: headers %v", name, resp.Header)
	}
	if strings.HasPrefix(name, "HEAD") {
		return
	}
	var e wire.Error
	if err := json.Unmarshal([]byte(text), &e); err != nil || e.Status != c.status || e.Title == "" || !strings.Contains(e.Detail, c.detail) {
		t.Errorf("%q: %.200s, want %q", name, text, c.detail)
	}
	if (c.status == 410) != (e.Oldest != nil) || (c.status == 409) != (e.Head != nil && e.Log == logName) || (c.status == 405) != (resp.Header.Get("Allow") != "") {
		t.Errorf("%q: %s", name, text)
	}
}

func TestAcceptedNames(t *testing.T) {
	log := newLog()
	s, stop := serve(t, log, Config{Loopback: true})
	defer stop()
	for target, want := range map[string]string{
		"/set/a+b/c+d":                      "a+b/c+d",
		"/set/a%20b/c%2Bd":                  "a b/c+d",
		"/set/a/b%2Fc":                      "a/b/c",
		"/set/set/set":                      "set/set",
		"/set/a/..b/...":                    "a/..b/...",
		"/set/%C3%A9/\xc3\xa9":              "é/é",
		`/set/a/"<>^|`:                      `a/"<>^|`,
		"/set/a/%25":                        "a/%",
		"/set/a/b#c":                        "a/b#c",
		"http://localhost/set/a/b;c=d,e&f=": "a/b;c=d,e&f=",
	} {
		resp, text := s.raw(post(target, `{"value":1}`))
		ev, err := event.ParseLine([]byte(strings.TrimSuffix(text, "\n")))
		if err != nil || resp.StatusCode != http.StatusCreated || ev.Storage().String() != want {
			t.Errorf("POST %s = %s, %.200s, want %s", target, resp.Status, text, want)
		}
	}
}

func TestHosts(t *testing.T) {
	s, stop := serve(t, newLog(), Config{Loopback: true, Origins: []string{"*"}})
	defer stop()
	for _, host := range []string{
		"localhost", "LOCALHOST:8420", "localhost:1", "127.0.0.1", "127.9.9.9:80", "[::1]", "[::1]:8420", "[::ffff:127.0.0.1]:1",
	} {
		resp, _ := s.raw("GET / HTTP/1.1\nHost: " + host + "\nOrigin: http://" + host + "\n\n")
		if resp.StatusCode != http.StatusOK || resp.Header.Get("Access-Control-Allow-Origin") != "" {
			t.Errorf("Host %s: %s, %v", host, resp.Status, resp.Header)
		}
	}
	for _, host := range []string{"", "[::2]", "::1:80:", "local", "localhost.", "0.0.0.0", "127.0.0.1:80:80", "[::1", "xn--localhost"} {
		if isLoopback(host) {
			t.Errorf("isLoopback(%q)", host)
		}
	}
	resp, _ := s.raw("GET / HTTP/1.1\nHost: localhost\nOrigin: https://any.example\n\n")
	if got := resp.Header.Get("Access-Control-Allow-Origin"); got != "https://any.example" {
		t.Errorf("Access-Control-Allow-Origin is %q", got)
	}
	if resp.Header.Get("Access-Control-Allow-Credentials") != "" || !slices.Contains(resp.Header.Values("Vary"), "Origin") {
		t.Errorf("headers %v", resp.Header)
	}
}

func TestBatch(t *testing.T) {
	log := newLog()
	s, stop := serve(t, log, Config{})
	defer stop()
	line := func(key string) string { return `{"user":"a","path":"p","key":"` + key + `","value":1}` }
	for _, c := range []struct {
		body string
		want []int
	}{
		{"", nil},
		{"\n\r\n  \n", nil},
		{line("1"), []int{201}},
		{line("1") + "\n" + line("2") + "\r\n\n" + line("2"), []int{200, 201, 200}},
		{line("3") + "\r", []int{201}},
	} {
		resp, text := s.raw(post("/set", c.body))
		var got []int
		for l := range strings.Lines(text) {
			var r wire.SetResult
			if err := json.Unmarshal([]byte(l), &r); err != nil {
				t.Fatal(err)
			}
			got = append(got, r.Status)
		}
		if resp.StatusCode != http.StatusOK || resp.Header.Get("Content-Type") != wire.NDJSON || !slices.Equal(got, c.want) {
			t.Errorf("POST /set %q = %s %v, want %v", c.body, resp.Status, got, c.want)
		}
		if h, _ := wire.PositionIn(resp.Header, wire.HeaderHead); h != log.Head() {
			t.Errorf("Rstream-Head is %s, want %s", h, log.Head())
		}
	}
	if n := log.Head(); n != 3 {
		t.Errorf("the log has %d events, want 3", n)
	}
}

// The numbers of all bad lines are listed, and the client can read the maximum number.
func TestBatchOfBadLines(t *testing.T) {
	s, stop := serve(t, newLog(), Config{})
	defer stop()
	resp, text := s.raw(post("/set", strings.Repeat("\n", 1000)+strings.Repeat("x\n", wire.MaxBatchLen)))
	e := wire.ReadError(&http.Response{StatusCode: resp.StatusCode, Header: resp.Header, Body: http.NoBody})
	if e.Status != http.StatusBadRequest {
		t.Fatalf("%s: %.200s", resp.Status, text)
	}
	resp.Body = http.MaxBytesReader(nil, readCloser{strings.NewReader(text)}, 1<<20)
	if e = wire.ReadError(resp); len(e.Lines) != wire.MaxBatchLen || e.Lines[0] != 1001 || !strings.Contains(e.Detail, "99995 more") {
		t.Errorf("%d bad lines: %.300s", len(e.Lines), e.Detail)
	}
}

type readCloser struct{ *strings.Reader }

func (readCloser) Close() error { return nil }

// Errors of the log go to the server's log and not to the client, except those meant for
// clients.
func TestFailures(t *testing.T) {
	var told strings.Builder
	log := newLog()
	s, stop := serve(t, log, Config{Logger: slog.New(slog.NewTextHandler(&told, nil))})
	defer stop()
	log.set(func() { log.err = errors.New("disk /secret/path is on fire") })
	for _, request := range []string{
		"GET /", "GET /events?topic=a", "GET /get?id=a/p", "GET /events?topic=a&since=1h",
		strings.TrimSuffix(post("/set/a/p", `{"value":1}`), "\n"),
	} {
		if !strings.Contains(request, "\n") {
			request += " HTTP/1.1\nHost: localhost\n\n"
		}
		resp, text := s.raw(request)
		if resp.StatusCode != http.StatusInternalServerError || strings.Contains(text, "secret") || resp.Header.Get("Content-Type") != wire.Problem {
			t.Errorf("%.40q: %s %s", request, resp.Status, text)
		}
	}
	if resp, text := s.raw("GET /readyz HTTP/1.1\nHost: localhost\n\n"); resp.StatusCode != http.StatusServiceUnavailable || strings.Contains(text, "secret") {
		t.Errorf("GET /readyz: %s %s", resp.Status, text)
	}
	if n := strings.Count(told.String(), "secret"); n != 6 {
		t.Errorf("%d failures were logged:\n%s", n, &told)
	}
	log.set(func() { log.err = fmt.Errorf("append /secret/path: %w", refused{}) })
	resp, text := s.raw(post("/set/a/p", `{"value":1}`))
	if resp.StatusCode != http.StatusServiceUnavailable || resp.Header.Get("Retry-After") != "1" || strings.Contains(text, "secret") || !strings.Contains(text, "same key") {
		t.Errorf("%s %v %s", resp.Status, resp.Header, text)
	}
}

type refused struct{}

func (refused) Error() string   { return "outcome unknown; retry with the same key" }
func (refused) HTTPStatus() int { return http.StatusServiceUnavailable }

type full struct{}

func (full) Error() string   { return "no space left for the file" }
func (full) HTTPStatus() int { return http.StatusInsufficientStorage }

// A full disk has its own status, detail and metric.
func TestFullDisk(t *testing.T) {
	log := newLog()
	s, stop := serve(t, log, Config{})
	defer stop()
	log.set(func() { log.err = fmt.Errorf("append: %w", full{}) })
	for _, request := range []string{post("/set/a/p", `{"value":1}`), post("/set", `{"user":"a","path":"p","value":1}`)} {
		resp, text := s.raw(request)
		if resp.StatusCode != http.StatusInsufficientStorage || resp.Header.Get("Retry-After") != "" ||
			!strings.Contains(text, `"no space left for the file; nothing was appended"`) {
			t.Errorf("%s %v %s", resp.Status, resp.Header, text)
		}
	}
	log.set(func() { log.err = nil })
	_, text := s.raw("GET /metrics HTTP/1.1\nHost: localhost\n\n")
	if !strings.Contains(text, `rstream_append_requests_total{outcome="full"} 2`) || strings.Contains(text, `outcome="failed"`) {
		t.Errorf("the metrics tell of %.2000s", text)
	}
}
