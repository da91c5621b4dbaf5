package doctor

import (
	"bufio"
	"compress/gzip"
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
	"unicode/utf8"
)

// good is a server as it should be: ids, heartbeats, resume, and strange ids refused.
func good(w http.ResponseWriter, r *http.Request) {
	after := 0
	if id := r.Header.Get("Last-Event-ID"); id != "" {
		var err error
		if after, err = strconv.Atoi(id); err != nil {
			http.Error(w, "no such id", http.StatusBadRequest)
			return
		}
	}
	s := begin(w, r)
	s.send("retry: 2000\n\n" + messages(after+1, 6))
	s.beat(15*time.Second, ": heartbeat\n\n")
}

func TestGoodServer(t *testing.T) {
	r := examine(t, 70*time.Second, good)
	if r.Severity != OK || r.Unreachable || r.Refused {
		t.Errorf("a good server is %s:\n%s", r.Severity, &r)
	}
	for _, check := range []string{"reach", "status", "content-type", "head", "caching", "proxies", "clock", "format",
		"buffered", "heartbeat", "end", "ids", "retry", "resume", "strange-id", "compression"} {
		if len(r.find(check)) != 1 {
			t.Errorf("%s said %d things", check, len(r.find(check)))
		}
	}
	if r.Requests != 4 {
		t.Errorf("it took %d requests", r.Requests)
	}
	r = examine(t, 20*time.Second, good)
	if r.Severity > Note {
		t.Errorf("in the usual time a good server is %s:\n%s", r.Severity, &r)
	}
	r.want(t, "heartbeat", OK, "the longest silence in 20s was 15s")
}

// A bad server differs from the good one in one thing, which is found.
func TestBadServers(t *testing.T) {
	const minute = time.Minute
	for _, c := range []struct {
		name     string
		listen   time.Duration
		handler  http.HandlerFunc
		check    string
		severity Severity
		text     string
	}{
		{"bursts of heartbeats", minute, func(w http.ResponseWriter, r *http.Request) {
			s := begin(w, r)
			s.send(messages(1, 2))
			s.beat(20*time.Second, strings.Repeat(": heartbeat\n\n", 4))
		}, "buffered", Error, "4 heartbeats arrived at once, after a silence of 20s"},
		{"bursts of positions", minute, func(w http.ResponseWriter, r *http.Request) {
			s := begin(w, r)
			s.beat(20*time.Second, "id: 1\n\nid: 2\n\n")
		}, "buffered", Error, "2 heartbeats arrived at once"},
		{"bursts of pings", minute, func(w http.ResponseWriter, r *http.Request) {
			s := begin(w, r)
			s.beat(20*time.Second, "event: ping\ndata: 1\n\nevent: ping\ndata: 2\n\n")
		}, "buffered", Error, "2 heartbeats arrived at once"},
		{"head and all held back", minute, func(w http.ResponseWriter, r *http.Request) {
			time.Sleep(9 * time.Second)
			s := begin(w, r)
			s.send(":\n\n:\n\n" + message(1))
			s.hold()
		}, "buffered", Error, "2 heartbeats arrived at once, after a silence of 9s"},
		{"bursts of events", minute, func(w http.ResponseWriter, r *http.Request) {
			s := begin(w, r)
			for i := 1; s.wait(10 * time.Second); i += 2 {
				s.send(timed(i, time.Now().Add(-6*time.Second)) + timed(i+1, time.Now()))
			}
		}, "buffered", Warning, "events with times 6s apart arrived at once, after a silence of 10s"},
		{"head and events held back", minute, func(w http.ResponseWriter, r *http.Request) {
			began := time.Now()
			w.Header().Set("Date", began.UTC().Format(http.TimeFormat))
			time.Sleep(9 * time.Second)
			begin(w, r).send(timed(1, began.Add(2*time.Second)) + timed(2, began.Add(9*time.Second)))
			<-r.Context().Done()
		}, "buffered", Warning, "events with times 7s apart arrived at once, after a silence of 9s"},
		{"a buffer of full size", 20 * time.Second, func(w http.ResponseWriter, r *http.Request) {
			s := begin(w, r)
			s.send(message(1) + "id: 2\ndata: {\"n\"")
			if s.wait(9 * time.Second) {
				s.send(":2}\n\n")
			}
			s.hold()
		}, "buffered", Error, "an event came in parts, 9s apart"},
		{"cut when idle", minute, func(w http.ResponseWriter, r *http.Request) {
			s := begin(w, r)
			s.send(messages(1, 3))
			s.wait(30 * time.Second)
		}, "end", Warning, "the stream ended after 30s without a byte"},
		{"broken when idle", minute, func(w http.ResponseWriter, r *http.Request) {
			s := begin(w, r)
			s.send(messages(1, 3))
			s.wait(30 * time.Second)
			panic(http.ErrAbortHandler)
		}, "end", Warning, "the stream broke after 30s without a byte"},
		{"broken", minute, func(w http.ResponseWriter, r *http.Request) {
			s := begin(w, r)
			s.send(messages(1, 3))
			panic(http.ErrAbortHandler)
		}, "end", Warning, "the stream broke after"},
		{"ended without a word", minute, func(w http.ResponseWriter, r *http.Request) {
			begin(w, r)
		}, "end", Warning, "without an event"},
		{"polled", minute, func(w http.ResponseWriter, r *http.Request) {
			begin(w, r).send("retry: 3000\n" + messages(1, 3))
		}, "end", Note, "the server ended the stream"},
		{"no heartbeat", 70 * time.Second, func(w http.ResponseWriter, r *http.Request) {
			s := begin(w, r)
			s.send(messages(1, 3))
			s.hold()
		}, "heartbeat", Warning, "no byte came for 1m10s"},
		{"not known whether there is a heartbeat", 10 * time.Second, good, "heartbeat", Note, "may still come later"},
		{"slow heartbeat", 100 * time.Second, func(w http.ResponseWriter, r *http.Request) {
			s := begin(w, r)
			s.send(messages(1, 3))
			s.beat(40*time.Second, ":\n")
		}, "heartbeat", Note, "the longest silence was 40s"},
		{"nothing at all", 10 * time.Second, func(w http.ResponseWriter, r *http.Request) {
			begin(w, r).hold()
		}, "buffered", Note, "nothing came in 10s"},
		{"late head", minute, func(w http.ResponseWriter, r *http.Request) {
			time.Sleep(4 * time.Second)
			good(w, r)
		}, "head", Warning, "came 4s after the connection"},
		{"clock an hour behind", 20 * time.Second, func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Date", time.Now().Add(-time.Hour).UTC().Format(http.TimeFormat))
			good(w, r)
		}, "clock", Warning, "59m59s behind ours"},
		{"clock ahead", 20 * time.Second, func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Date", time.Now().Add(10*time.Second).UTC().Format(http.TimeFormat))
			good(w, r)
		}, "clock", Note, "10s ahead of ours"},
		{"no Date", 20 * time.Second, func(w http.ResponseWriter, r *http.Request) {
			w.Header()["Date"] = nil
			good(w, r)
		}, "clock", Note, "no Date"},
		{"nothing said to caches", 20 * time.Second, func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", "text/event-stream")
			(&stream{w, r}).send(message(1))
			<-r.Context().Done()
		}, "caching", Note, "Cache-Control: no-cache, no-transform, X-Accel-Buffering: no"},
		{"cacheable", 20 * time.Second, func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", "text/event-stream")
			w.Header().Set("Cache-Control", "public, max-age=60")
			(&stream{w, r}).send(message(1))
			<-r.Context().Done()
		}, "caching", Warning, "max-age=60"},
		{"out of a cache", 20 * time.Second, func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Age", "30")
			good(w, r)
		}, "caching", Error, "Age: 30"},
		{"of known length", 20 * time.Second, func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Length", strconv.Itoa(len(messages(1, 3))))
			begin(w, r).send(messages(1, 3))
		}, "length", Error, "Content-Length: "},
		{"another charset", 20 * time.Second, func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", "text/event-stream; charset=iso-8859-1")
			(&stream{w, r}).send(message(1))
		}, "content-type", Warning, "iso-8859-1"},
		{"no ids", 20 * time.Second, sends("data: 1\n\ndata: 2\n\n"), "ids", Warning, "none of 2 events has an id"},
		{"some ids", 20 * time.Second, sends("id: 1\ndata: 1\n\ndata: 2\n\n"), "ids", Warning, "1 of 2 events have no id"},
		{"repeated ids", 20 * time.Second, sends(messages(1, 3) + message(2)), "ids", Warning, `1 of 4 events have the id of an earlier one, for example "2"`},
		{"ids that go back", 20 * time.Second, sends(messages(9, 11) + messages(4, 5)), "ids", Warning, "ids go back 1 times"},
		{"empty ids", 20 * time.Second, sends(message(1) + "id\ndata: 2\n\n"), "ids", Warning, "1 ids are empty, the first is line 4"},
		{"endless ids", 20 * time.Second, sends("id: " + strings.Repeat("1", 5000) + "\ndata: 2\n\n"), "ids", Error, "more than 4096 bytes"},
		{"an id with NUL", 20 * time.Second, sends("id: a\x00b\ndata: 2\n\n"), "ids", Error, "NUL"},
		{"retry 0", 20 * time.Second, sends("retry: 0\n\n" + message(1)), "retry", Warning, "reconnect after 0s"},
		{"retry of hours", 20 * time.Second, sends("retry: 7200000\n\n" + message(1)), "retry", Warning, "clients wait 2h0m0s before they reconnect"},
		{"retry of ages", 20 * time.Second, sends("retry: 9999999999999999999\n\n" + message(1)), "retry", Warning, "is ignored"},
		{"retry with a unit", 20 * time.Second, sends("retry: 5s\n\n" + message(1)), "retry", Warning, `line 1 is ignored: "retry: 5s"`},
		{"not UTF-8", 20 * time.Second, sends(message(1) + "data: \xff\n\n"), "utf-8", Warning, "the first is line 4"},
		{"a BOM", 20 * time.Second, sends("\xef\xbb\xbf" + message(1)), "bom", Note, "begins with"},
		{"a late BOM", 20 * time.Second, sends(message(1) + "\xef\xbb\xbfdata: 2\n\n"), "bom", Error, "line 4"},
		{"CR only", 20 * time.Second, sends(strings.ReplaceAll(messages(1, 2), "\n", "\r")), "line-ends", Warning, "all 6 lines end in CR alone"},
		{"CR among others", 20 * time.Second, sends("data: 1\rdata: 2\n\r\n"), "line-ends", Warning, "1 lines end in CR alone, 1 in LF, 1 in CRLF"},
		{"mixed ends", 20 * time.Second, sends("data: 1\r\n\n"), "line-ends", Note, "1 lines end in LF, 1 in CRLF"},
		{"JSON lines", 20 * time.Second, sends("{\"n\":1}\n{\"n\":2}\n"), "fields", Error, `2 lines have an unknown field, the first is line 1: "{\"n\":1}"`},
		{"nearly fields", 20 * time.Second, sends("Data: 1\n\n data: 2\n\ndata : 3\n\n"), "fields", Error, "3 lines have a misspelled field name"},
		{"an event without data", 20 * time.Second, sends("event: hello\n\n" + message(1)), "fields", Warning, `"hello"`},
		{"no blank lines", 20 * time.Second, sends("data: 1\ndata: 2\ndata: 3\n"), "blank-lines", Error, "3 lines of data in 20s without a blank line"},
		{"no last blank line", 20 * time.Second, sends(message(1) + "data: 2\n"), "blank-lines", Error, "incomplete for 20s"},
		{"no blank line to the end", 20 * time.Second, func(w http.ResponseWriter, r *http.Request) {
			begin(w, r).send("data: 1\n")
		}, "blank-lines", Error, "the stream ended after 1 lines of data without a blank line"},
		{"an event that is cut", 20 * time.Second, func(w http.ResponseWriter, r *http.Request) {
			begin(w, r).send(message(1) + "data: 2")
		}, "cut-event", Warning, "in the middle of an event"},
		{"a long line", 20 * time.Second, sends("data: " + strings.Repeat("x", 100_000) + "\n\n"), "line-length", Note, "100006 bytes"},
		{"an endless line", 20 * time.Second, sends("data: " + strings.Repeat("x", 3<<20)), "line-length", Error, "more than 2097152 bytes"},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := examine(t, c.listen, c.handler)
			r.want(t, c.check, c.severity, c.text)
			if r.Unreachable || r.Refused {
				t.Error("it was reached")
			}
		})
	}
}

// A retry line needs no blank line: it takes effect at its end, and begins no event.
func TestRetryWithoutBlankLine(t *testing.T) {
	for _, line := range []string{"retry: 3000\n", ": hello\nretry: 3000\n"} {
		r := examine(t, 20*time.Second, func(w http.ResponseWriter, r *http.Request) {
			s := begin(w, r)
			s.send(line)
			if s.wait(10 * time.Second) {
				s.send(message(1))
			}
			s.hold()
		})
		r.want(t, "buffered", OK, "at 2 different times")
		r.want(t, "retry", OK, "clients reconnect after 3s")
		r = examine(t, 20*time.Second, sends(line))
		if len(r.find("blank-lines")) > 0 || r.Severity > Note {
			t.Errorf("a quiet stream after %q is %s:\n%s", line, r.Severity, &r)
		}
	}
	// An invalid one is ignored, which is its only fault.
	r := examine(t, 20*time.Second, sends("retry: 3s\n"))
	r.want(t, "retry", Warning, `line 1 is ignored: "retry: 3s"`)
	if r.Severity > Warning {
		t.Errorf("it is %s:\n%s", r.Severity, &r)
	}
	// Within an event, it does not end the event.
	r = examine(t, 20*time.Second, sends("id: 1\nretry: 3000\ndata: 1\n"))
	r.want(t, "blank-lines", Error, "incomplete for 20s")
}

// A time that is still to come, such as that of an appointment, is not when an event was produced.
func TestTimesInFuture(t *testing.T) {
	for _, future := range []time.Duration{3 * time.Second, 26 * time.Hour} {
		r := examine(t, 20*time.Second, func(w http.ResponseWriter, r *http.Request) {
			s := begin(w, r)
			for i := 1; s.wait(6 * time.Second); i += 2 {
				s.send(timed(i, time.Now()) + timed(i+1, time.Now().Add(future)))
			}
		})
		r.want(t, "buffered", OK, "at 3 different times")
	}
}

// timed is an event with an id that names a time.
func timed(id int, at time.Time) string {
	return fmt.Sprintf("id: %d\ndata: {\"at\":%q}\n\n", id, at.Format(time.RFC3339))
}

// A stream that never ends is read only up to a limit, which the report says.
func TestEndlessStream(t *testing.T) {
	cfg := Config{URL: mustParse("http://127.0.0.1/stream"), Listen: time.Hour, MaxBytes: 1 << 20}
	r := examineAt(t, cfg, func(w http.ResponseWriter, r *http.Request) {
		s := begin(w, r)
		for b := strings.Repeat(message(1), 1000); r.Context().Err() == nil; {
			s.send(b)
		}
	})
	r.want(t, "end", Note, "then stopped")
	if n := r.find("ids"); len(n) != 1 || !strings.Contains(n[0].Detail, "4999 of 5000 events") {
		t.Errorf("%v", n)
	}
}

// sends is a server that sends a text and stays.
func sends(text string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		s := begin(w, r)
		s.send(text)
		s.hold()
	}
}

// Positions at which a stream may resume after a reconnection.
func TestResume(t *testing.T) {
	at := func(from int) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			if r.Header.Get("Last-Event-ID") == "" {
				sends(messages(11, 15))(w, r)
				return
			}
			sends(messages(from, 17))(w, r)
		}
	}
	for _, c := range []struct {
		name     string
		handler  http.HandlerFunc
		severity Severity
		text     string
	}{
		{"just after", at(14), OK, `after the id "13", the stream resumes with the next event`},
		{"at it", at(13), Warning, "that event itself is repeated"},
		{"a bit before", at(12), Warning, "2 earlier events are repeated"},
		{"from the beginning", at(11), Warning, "the stream starts at its beginning again: the id is ignored"},
		{"from further back", at(7), Warning, `resumes with "7", which is older`},
		{"with one left out", at(15), Error, "1 events are skipped"},
		{"with all left out", at(16), Error, `resumes with "16": the 2 events in between are skipped`},
		{"from now", at(18), Error, "no event with an id came in 5s, though 2 later events came before"},
		{"refused", func(w http.ResponseWriter, r *http.Request) {
			if r.Header.Get("Last-Event-ID") != "" {
				http.Error(w, "no resume here", http.StatusBadRequest)
				return
			}
			sends(messages(11, 15))(w, r)
		}, Error, "400 no resume here"},
		{"of one event, again", sends(message(1)), Warning, "that event itself is repeated"},
		{"of one event", func(w http.ResponseWriter, r *http.Request) {
			if r.Header.Get("Last-Event-ID") != "" {
				begin(w, r).hold()
				return
			}
			sends(message(1))(w, r)
		}, Note, "that event is not repeated"},
		{"of ids without order", func(w http.ResponseWriter, r *http.Request) {
			if r.Header.Get("Last-Event-ID") != "" {
				sends("id: x\ndata: 1\n\n")(w, r)
				return
			}
			sends("id: b\ndata: 1\n\nid: a\ndata: 1\n\nid: c\ndata: 1\n\n")(w, r)
		}, Note, `resumes with "x" and not with "c"`},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := examine(t, 20*time.Second, c.handler)
			r.want(t, "resume", c.severity, c.text)
		})
	}
}

// Heartbeats that are events need no ids, and are no events from which a stream resumes. Neither are
// other events without an id, such as a greeting.
func TestHeartbeatEvents(t *testing.T) {
	const ping = "event: ping\ndata: {}\n\n"
	const hello = "event: connected\ndata: {}\n\n"
	from := func(id int) string { return messages(id, 17) }
	resumes := func(begin, resumed string) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			switch r.Header.Get("Last-Event-ID") {
			case "":
				streamWithPings(w, r, begin)
			case noSuchID:
				http.Error(w, "no such id", http.StatusBadRequest)
			default:
				streamWithPings(w, r, resumed)
			}
		}
	}
	for _, c := range []struct {
		name     string
		handler  http.HandlerFunc
		check    string
		severity Severity
		text     string
	}{
		{"pings have no id", resumes(messages(11, 15), from(14)), "ids", OK, "each of 5 events has its own id"},
		{"pings repeat the id", resumes(messages(11, 15)+"id: 15\n"+ping, from(14)), "ids", OK, "each of 5 events has its own id"},
		{"only pings", resumes("", ""), "ids", Note, "no event came except heartbeats"},
		{"a ping, then all that is due", resumes(messages(11, 15), ping+from(14)), "resume", OK, "resumes with the next event"},
		{"a ping, then a loss", resumes(messages(11, 15), ping+from(16)), "resume", Error, "the 2 events in between are skipped"},
		{"only pings after the reconnection", resumes(messages(11, 15), ping), "resume", Error, "no event with an id came in 5s, though 2 later events came before"},
		{"a greeting, then all that is due", resumes(hello+messages(11, 15), hello+from(14)), "resume", OK, "resumes with the next event"},
		{"a greeting, then a loss", resumes(hello+messages(11, 15), hello+from(16)), "resume", Error, "the 2 events in between are skipped"},
		{"an event without an id is due", resumes(messages(11, 13)+hello+messages(14, 15), hello+from(14)), "resume", OK, "resumes with the next event"},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := examine(t, 20*time.Second, c.handler)
			r.want(t, c.check, c.severity, c.text)
		})
	}
	// After an invalid id too, a greeting is not where a stream starts.
	r := examine(t, 20*time.Second, func(w http.ResponseWriter, r *http.Request) {
		switch r.Header.Get("Last-Event-ID") {
		case noSuchID:
			streamWithPings(w, r, hello+messages(14, 15))
		default:
			streamWithPings(w, r, hello+messages(11, 15))
		}
	})
	r.want(t, "strange-id", Note, `the stream starts with "14"`)
}

// streamWithPings sends a text, then a ping every two seconds.
func streamWithPings(w http.ResponseWriter, r *http.Request, text string) {
	s := begin(w, r)
	s.send(text)
	s.beat(2*time.Second, "event: ping\ndata: {}\n\n")
}

// The report says how the server handles an invalid id.
func TestStrangeID(t *testing.T) {
	on := func(strange http.HandlerFunc) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			if r.Header.Get("Last-Event-ID") == noSuchID {
				strange(w, r)
				return
			}
			good(w, r)
		}
	}
	for _, c := range []struct {
		name     string
		strange  http.HandlerFunc
		severity Severity
		text     string
	}{
		{"refused", good, OK, "is refused: 400 no such id"},
		{"clamped", sends(messages(1, 6)), Note, "the stream starts as without an id"},
		{"clamped elsewhere", sends(messages(4, 6)), Note, `the stream starts with "4"`},
		{"broken", func(w http.ResponseWriter, r *http.Request) { begin(w, r) }, Warning, "the stream ends without an event"},
		{"now", sends(""), Note, "no event with an id came in 3s"},
		{"failed", func(w http.ResponseWriter, r *http.Request) { http.Error(w, "atoi", http.StatusInternalServerError) }, Warning, "500 atoi"},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := examine(t, 20*time.Second, on(c.strange))
			r.want(t, "strange-id", c.severity, c.text)
		})
	}
}

// A response that is not a stream is reported, and no further request is made.
func TestNoStream(t *testing.T) {
	answers := func(status int, media, body string) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", media)
			w.Header().Set("Retry-After", "30")
			w.WriteHeader(status)
			if status != http.StatusNoContent {
				io.WriteString(w, body)
			}
		}
	}
	for _, c := range []struct {
		name        string
		handler     http.HandlerFunc
		check, text string
		unreachable bool
		refused     bool
	}{
		{name: "page", handler: answers(200, "text/html", "<html>hello"), check: "content-type", text: "text/html"},
		{name: "login", handler: answers(200, "text/html; charset=utf-8", `<input type="password">`), check: "content-type", text: "password field"},
		{name: "error", handler: answers(200, "application/json", `{"error":"no such channel"}`), check: "content-type", text: "application/json: no such channel"},
		{name: "stream by another name", handler: answers(200, "text/plain", "id: 1\ndata: 1\n\n"), check: "content-type", text: "text/plain"},
		{name: "no type", handler: answers(200, "", ""), check: "content-type", text: `"", 0 bytes`},
		{name: "endless page", handler: func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", "text/html")
			for r.Context().Err() == nil {
				io.WriteString(w, strings.Repeat("<p>", 1000))
			}
		}, check: "content-type", text: "text/html"},
		{name: "page that never ends", handler: func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", "text/html")
			(&stream{w, r}).send("<html>")
			<-r.Context().Done()
		}, check: "content-type", text: "text/html"},
		{name: "204", handler: answers(204, "", ""), check: "status", text: "204 No Content"},
		{name: "401", handler: answers(401, "text/plain", "who are you\n"), check: "status", text: "401 Unauthorized: who are you", refused: true},
		{name: "403", handler: answers(403, "application/problem+json", `{"detail":"not yours"}`), check: "status", text: "403 Forbidden: not yours", refused: true},
		{name: "404", handler: answers(404, "text/html", "<html>"), check: "status", text: "404 Not Found"},
		{name: "429", handler: answers(429, "", ""), check: "status", text: "429 Too Many Requests"},
		{name: "500", handler: answers(500, "", ""), check: "status", text: "500"},
		{name: "502", handler: answers(502, "", ""), check: "status", text: "502 Bad Gateway", unreachable: true},
		{name: "never answers", handler: func(w http.ResponseWriter, r *http.Request) { <-r.Context().Done() }, check: "head", text: "no response head in 20s"},
		{name: "endless head", handler: func(w http.ResponseWriter, r *http.Request) {
			raw(t, w, func(rw *bufio.ReadWriter) {
				rw.WriteString("HTTP/1.1 200 OK\r\n")
				for {
					if _, err := rw.WriteString("X-More: " + strings.Repeat("x", 1000) + "\r\n"); err != nil {
						return
					}
				}
			})
		}, check: "reach", text: "exceeded", unreachable: true},
		{name: "another language", handler: func(w http.ResponseWriter, r *http.Request) {
			raw(t, w, func(rw *bufio.ReadWriter) { rw.WriteString("SSH-2.0-OpenSSH_9.2\r\n") })
		}, check: "reach", text: "no response: malformed HTTP", unreachable: true},
		{name: "hangs up", handler: func(w http.ResponseWriter, r *http.Request) {
			raw(t, w, func(*bufio.ReadWriter) {})
		}, check: "reach", text: "the connection was closed", unreachable: true},
		{name: "circle", handler: func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "/stream", http.StatusFound)
		}, check: "redirect", text: "6 redirects and no response"},
		{name: "redirect to nowhere", handler: func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "file:///etc/passwd", http.StatusFound)
		}, check: "reach", text: "redirected to file:", unreachable: true},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := examine(t, 20*time.Second, c.handler)
			r.want(t, c.check, Error, c.text)
			if r.Unreachable != c.unreachable || r.Refused != c.refused {
				t.Errorf("unreachable %t, refused %t", r.Unreachable, r.Refused)
			}
			if want := 1; r.Requests != want && c.name != "circle" {
				t.Errorf("it made %d requests", r.Requests)
			}
		})
	}
}

func TestRedirect(t *testing.T) {
	to := func(target string) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			switch {
			case r.URL.Path == "/stream":
				http.Redirect(w, r, target, http.StatusTemporaryRedirect)
			case r.Host != "127.0.0.1" && r.Header.Get("Authorization") != "":
				http.Error(w, "this was not for me", http.StatusBadRequest)
			case r.Host == "127.0.0.1" && r.Header.Get("Authorization") == "":
				http.Error(w, "who are you", http.StatusUnauthorized)
			default:
				good(w, r)
			}
		}
	}
	cfg := Config{URL: mustParse("http://127.0.0.1/stream"), Listen: 20 * time.Second, Header: http.Header{"Authorization": {"Bearer x"}}}
	r := examineAt(t, cfg, to("/other"))
	r.want(t, "redirect", Note, "redirected to http://127.0.0.1/other")
	if r.Severity > Note || r.Requests != 5 {
		t.Errorf("%s in %d requests:\n%s", r.Severity, r.Requests, &r)
	}
	r = examineAt(t, cfg, to("http://127.0.0.2/other"))
	r.want(t, "redirect", Warning, "redirected to http://127.0.0.2/other")
	r.want(t, "status", OK, "200")

	cfg.Header, cfg.URL = nil, mustParse("http://me:secret@127.0.0.1/stream")
	r = examineAt(t, cfg, to("/other"))
	if r.Severity > Note {
		t.Errorf("with a password it is %s:\n%s", r.Severity, &r)
	}
	if strings.Contains(r.String(), "secret") {
		t.Errorf("a password is shown:\n%s", &r)
	}
}

// A certificate for the requested origin is not sent to another one.
func TestRedirectWithCertificate(t *testing.T) {
	var mu sync.Mutex
	var sent []int
	serve := func(answer http.HandlerFunc) *httptest.Server {
		s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			mu.Lock()
			sent = append(sent, len(r.TLS.PeerCertificates))
			mu.Unlock()
			answer(w, r)
		}))
		s.TLS = &tls.Config{ClientAuth: tls.RequestClientCert}
		s.StartTLS()
		t.Cleanup(s.Close)
		return s
	}
	other := serve(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNotFound) })
	first := serve(func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, other.URL+"/stream", http.StatusTemporaryRedirect)
	})
	roots := x509.NewCertPool()
	roots.AddCert(first.Certificate())
	secure := &tls.Config{RootCAs: roots, Certificates: first.TLS.Certificates}
	if _, err := Examine(t.Context(), Config{URL: mustParse(first.URL + "/stream"), TLS: secure}); err != nil {
		t.Fatal(err)
	}
	mu.Lock()
	defer mu.Unlock()
	if len(sent) < 2 || sent[0] != 1 || sent[1] != 0 || len(secure.Certificates) != 1 {
		t.Errorf("certificates %v", sent)
	}
}

// If no connection to the target of a redirect can be made, the report is about that host, not about
// the one that redirected.
func TestRedirectToUnreachableHost(t *testing.T) {
	for _, c := range []struct{ target, check, text string }{
		{"http://" + silentAddress + "/stream", "reach", "no connection to " + silentAddress + " in "},
		{"http://" + closedAddress + "/stream", "reach", closedAddress + " refused the connection"},
		{"https://127.0.0.2/stream", "tls", "127.0.0.2 does not speak TLS"},
	} {
		for _, path := range []string{"/stream", "/"} {
			r := examineAt(t, Config{URL: mustParse("http://127.0.0.1" + path), Listen: 20 * time.Second}, func(w http.ResponseWriter, r *http.Request) {
				http.Redirect(w, r, c.target, http.StatusMovedPermanently)
			})
			r.want(t, c.check, Error, c.text)
			if len(r.Findings) != 1 || !r.Unreachable {
				t.Errorf("%s to %s: unreachable %t\n%s", path, c.target, r.Unreachable, &r)
			}
		}
	}
}

func TestCompression(t *testing.T) {
	zipped := func(flush bool) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			if r.Header.Get("Accept-Encoding") != "gzip" {
				good(w, r)
				return
			}
			w.Header().Set("Content-Encoding", "gzip")
			s := begin(w, r)
			z := gzip.NewWriter(w)
			io.WriteString(z, messages(1, 3))
			if flush {
				z.Flush()
			}
			s.send("")
			s.hold()
		}
	}
	r := examine(t, 20*time.Second, zipped(true))
	r.want(t, "compression", OK, "gzip works, the first block came after")
	r = examine(t, 20*time.Second, zipped(false))
	r.want(t, "compression", Error, "with gzip nothing came in 3s; without, the first block came after")
	r = examine(t, 20*time.Second, func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Accept-Encoding") == "gzip" {
			w.Header().Set("Content-Encoding", "gzip")
		}
		good(w, r)
	})
	r.want(t, "compression", Error, "with gzip the stream breaks: gzip: invalid header")
	r = examine(t, 20*time.Second, func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Accept-Encoding") == "gzip" {
			http.Error(w, "no", http.StatusNotAcceptable)
			return
		}
		good(w, r)
	})
	r.want(t, "compression", Warning, "406 no")

	// An encoding that was not requested is decoded if possible.
	r = examine(t, 20*time.Second, func(w http.ResponseWriter, r *http.Request) {
		r.Header.Set("Accept-Encoding", "gzip")
		zipped(true)(w, r)
	})
	r.want(t, "encoding", Warning, "Content-Encoding: gzip, though")
	r.want(t, "ids", OK, "each of 3 events")
	r = examine(t, 20*time.Second, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Encoding", "br")
		good(w, r)
	})
	r.want(t, "encoding", Error, "Content-Encoding: br, though")
}

// nginx removes X-Accel-Buffering, so its absence means nothing there.
func TestNginxTakesHeader(t *testing.T) {
	r := examine(t, 20*time.Second, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Server", "nginx/1.22.1")
		w.Header().Set("Content-Type", "text/event-stream")
		w.Header().Set("Cache-Control", "no-cache, no-transform")
		(&stream{w, r}).send(messages(1, 3))
		<-r.Context().Done()
	})
	r.want(t, "caching", OK, "")
	r.want(t, "proxies", OK, "Server: nginx/1.22.1")
}

// The end of an HTTP/1.0 response cannot be detected.
func TestWithoutChunks(t *testing.T) {
	r := examine(t, 20*time.Second, func(w http.ResponseWriter, r *http.Request) {
		raw(t, w, func(rw *bufio.ReadWriter) {
			rw.WriteString("HTTP/1.0 200 OK\r\nContent-Type: text/event-stream\r\n\r\n" + messages(1, 3))
		})
	})
	r.want(t, "length", Note, "a truncated body looks complete")
	r.want(t, "ids", OK, "3 events")
}

// Errors of TLS are explained.
func TestTLS(t *testing.T) {
	plain := httptest.NewServer(http.HandlerFunc(good))
	defer plain.Close()
	secret := httptest.NewUnstartedServer(http.HandlerFunc(good))
	secret.Config.ErrorLog = log.New(io.Discard, "", 0)
	secret.StartTLS()
	defer secret.Close()
	moved := httptest.NewServer(http.RedirectHandler(secret.URL+"/stream", http.StatusMovedPermanently))
	defer moved.Close()
	for _, c := range []struct{ url, text string }{
		{moved.URL + "/stream", strings.TrimPrefix(secret.URL, "https://") + " is invalid: x509: certificate signed by unknown authority"},
		{secret.URL + "/stream", "is invalid: x509: certificate signed by unknown authority"},
		{strings.Replace(plain.URL, "http:", "https:", 1) + "/stream", "does not speak TLS"},
	} {
		r, err := Examine(t.Context(), Config{URL: mustParse(c.url)})
		if err != nil {
			t.Error(err)
		}
		r.want(t, "tls", Error, c.text)
		if !r.Unreachable {
			t.Errorf("%s is reachable", c.url)
		}
	}
	for left, want := range map[time.Duration]Severity{time.Hour: Warning, 100 * 24 * time.Hour: OK} {
		now := time.Now()
		if f := checkTLS(&Transcript{Began: now, TLSUntil: now.Add(left)}); len(f) != 1 || f[0].Severity != want {
			t.Errorf("%s before its end: %v", left, f)
		}
	}
}

// A cancelled examination ends at once, with the error of its context.
func TestCancel(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
		defer cancel()
		began := time.Now()
		_, err := Examine(ctx, Config{URL: mustParse("http://127.0.0.1/stream"), Dial: (&pipes{}).dial})
		if err != context.DeadlineExceeded || time.Since(began) != 3*time.Second {
			t.Errorf("%v after %s", err, time.Since(began))
		}
	})
}

// Whatever a server says, a finding is one line of text.
func TestFindingsAreLines(t *testing.T) {
	for _, f := range []Finding{
		ok("x", "a\nb\rc\td\xff"),
		newFinding("x", Error, "a\nb", "c"),
	} {
		if all := f.Detail + f.Advice; strings.ContainsAny(all, "\n\r\t") || !utf8.ValidString(all) {
			t.Errorf("%q", f)
		}
	}
}
