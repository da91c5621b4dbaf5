//go:build unix

package main

import (
	"encoding/json"
	"fmt"
	"os"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/rstream-dev/rstream/cache"
	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/internal/wire"
	"github.com/rstream-dev/rstream/window"
)

var topicA, _ = event.ParseTopic("a")

// checkCopy compares everything that the copy claims to hold with the log.
func (tr *answerTrial) checkCopy(r ran) {
	tr.t.Helper()
	if info, err := os.Stat(tr.cache); err != nil || info.Size() == 0 {
		if r.status == exitDone && tr.c.name != "status" {
			tr.t.Errorf("the status is 0, and there is no copy: %v", err)
		}
		return
	}
	db, err := cache.Open(tr.t.Context(), tr.cache, cache.Config{})
	if err != nil {
		if tr.f.disk == 0 {
			tr.t.Errorf("the copy cannot be opened: %v", err)
		}
		return
	}
	defer db.Close()
	held, err := db.Held(tr.t.Context(), topicA)
	if err != nil {
		tr.t.Fatal(err)
	}
	doubted, err := db.Doubted(tr.t.Context(), topicA)
	if err != nil {
		tr.t.Fatal(err)
	}
	if tr.c.copy == "damaged" && r.status != exitDone {
		doubted = doubted.Add(window.Span{From: 29, To: 31})
	}
	for _, span := range held {
		for _, sure := range doubted.Gaps(span) {
			var b strings.Builder
			err := db.Each(tr.t.Context(), []event.Topic{topicA}, sure, func(ev *event.Event) error {
				fmt.Fprintf(&b, "%s\n", ev.Line())
				return nil
			})
			if want := tr.l.lines(sure.From, sure.To, ofA); err != nil || b.String() != want {
				tr.t.Errorf("of %s %d lines are here and %d in the log (%v)", sure, strings.Count(b.String(), "\n"), strings.Count(want, "\n"), err)
			}
		}
	}
	whole := window.Span{From: event.Beginning, To: tr.l.head}
	if tr.c.args[0] == "sync" && r.status == exitDone && tr.c.name != "sync --at" && (!held.Contains(whole) || len(doubted) > 0) {
		tr.t.Errorf("sync ends with 0, and the copy holds %s, without %s", held, doubted)
	}
}

// asOf matches the note of state when it prints an older state than requested.
var asOf = pattern(`(?m)^rstream: no server can be reached; this is the state as of (\w+)(?:, .*)?$`)

// checkOutput compares the output with the log. The output of a command that failed
// must be a prefix of the full output.
func (tr *answerTrial) checkOutput(r ran) {
	tr.t.Helper()
	if tr.c.name == "status as text" {
		tr.checkStatus(r.out)
		return
	}
	if tr.c.want == nil {
		for line := range strings.Lines(r.out) {
			tr.checkSummary(r, line)
		}
		return
	}
	want := tr.c.want(tr.l)
	if m := asOf().FindStringSubmatch(r.err); m != nil {
		id, err := event.ParseID(m[1])
		if err != nil || id > tr.l.head {
			tr.t.Errorf("%q: %v", m[0], err)
		}
		want = tr.l.state(id)
	}
	if r.status == exitDone && r.out != want || !strings.HasPrefix(want, r.out) {
		tr.t.Errorf("status %d, and %d lines differ from the %d expected: %.200s", r.status,
			strings.Count(r.out, "\n"), strings.Count(want, "\n"), r.out)
	}
}

// checkStatus checks the text output of status for an up-to-date copy.
func (tr *answerTrial) checkStatus(out string) {
	tr.t.Helper()
	reached, log := strings.Contains(out, ", head "+tr.l.head.String()+"\n"), strings.HasSuffix(tr.f.what, "of the log")
	switch {
	case reached && strings.Contains(out, ", up to date\n"), tr.took >= answerTimeout && strings.Contains(out, ", not reachable: "):
	case reached, len(tr.failed) == 0 && tr.f.at != 0:
		tr.t.Errorf("the server is well and the copy is whole: %s", out)
	case strings.Contains(out, ", not reachable: ") && log, strings.Contains(out, "up to date"), strings.Contains(out, "behind"):
		tr.t.Errorf("that is not so, or nothing says so: %s", out)
	}
}

// checkSummary checks the summary line of a command.
func (tr *answerTrial) checkSummary(r ran, line string) {
	tr.t.Helper()
	var s struct {
		Type, Error                                                 string
		From, To                                                    event.ID
		Fetched, Held, Server, Windows, Events, Different, Repaired int
		Candidates, Foreign, Known, Members                         int
		Reachable                                                   bool
		Head                                                        *event.ID
		Lag                                                         *uint64
	}
	if strings.Contains(line, `"type":"status"`) { // its windows are an object, its doubts a list
		line = regexp.MustCompile(`"windows":\{[^}]*\},|"server":"[^"]*",`).ReplaceAllString(line, "")
	}
	line = strings.ReplaceAll(strings.ReplaceAll(line, `"repaired":true`, `"repaired":1`), `"repaired":false`, `"repaired":0`)
	if err := json.Unmarshal([]byte(line), &s); err != nil {
		tr.t.Fatalf("%s: %v", line, err)
	}
	all, there := strings.Count(tr.l.lines(0, tr.l.head, ofA), "\n"), strings.Count(tr.l.lines(s.From, s.To, ofA), "\n")
	wrong := ""
	switch s.Type {
	case "summary":
		if s.Held != there || s.Fetched-s.Members > there && tr.f.what == "" {
			wrong = fmt.Sprintf("the log has %d events there", there)
		}
		if s.To != tr.l.head && tr.c.name != "sync --at" {
			wrong = "the log goes on"
		}
	case "imported":
		if s.Events != all || s.Candidates+s.Known != all || s.Foreign != 0 {
			wrong = fmt.Sprintf("the file has %d events", all)
		}
	case "verified":
		if s.Events != all || (s.Different-s.Repaired > 0) != (r.status != exitDone) {
			wrong = fmt.Sprintf("the log has %d events, and the status is %d", all, r.status)
		}
	case "finding":
		if s.Server != there || s.Held != there-2 {
			wrong = fmt.Sprintf("the log has %d events there, and the copy two fewer", there)
		}
	case "status":
		half := uint64(tr.l.head - tr.l.half)
		switch {
		case s.Head != nil && (!s.Reachable || s.Error != "" || *s.Head != tr.l.head || s.Lag == nil || *s.Lag != half):
			wrong = "that is not the log's head"
		case s.Head == nil && (s.Error == "" || tr.f.at != 0 && len(tr.failed) == 0):
			wrong = "the server was well"
		case s.Head == nil && s.Reachable && tr.f.at == 0:
			wrong = "nothing answers"
		}
	default:
		wrong = "nothing here can tell whether that is so"
	}
	if wrong != "" {
		tr.t.Errorf("it prints %s, and %s", strings.TrimSpace(line), wrong)
	}
}

// A sentence is a message allowed on standard error, with the condition under which it
// is true. The condition receives the submatches.
type sentence struct {
	re   func() *regexp.Regexp
	true func(tr *answerTrial, r ran, m []string) bool
}

func says(re string, when func(tr *answerTrial, r ran, m []string) bool) sentence {
	return sentence{pattern(`^` + re + `$`), when}
}

func always(*answerTrial, ran, []string) bool { return true }

// causes are the endings of a sentence that blame a response.
var causes = []sentence{
	says(`connect \S+: connection refused`, func(tr *answerTrial, _ ran, _ []string) bool { return tr.f.at == 0 || tr.f.gone }),
	says(`(?:connect|read) \S+: (?:unexpected EOF|EOF|connection reset by peer|the connection was (?:closed|cut).*|cut off)`, answered("killed")),
	says(`connect \S+: (?:refused \(|)(50[23])(?:\)| bad gateway)`, func(tr *answerTrial, _ ran, m []string) bool { return tr.status() == m[1] && tr.f.what != "404" }),
	says(`read \S+: the answer has (\d+) of (\d+) events: something between here and the server shortened it`,
		func(tr *answerTrial, _ ran, m []string) bool {
			for _, right := range tr.failed {
				n := strings.Count(right.Body.String(), "\n")
				sent := (n + 1) * 3 / 5
				if tr.f.what == "emptied" {
					sent = 0
				}
				if right.Header().Get(wire.HeaderEvents) == m[2] && m[2] == strconv.Itoa(n) && m[1] == strconv.Itoa(sent) {
					return tr.f.what == "shortened" || tr.f.what == "emptied"
				}
			}
			return false
		}),
	says(`(?:connect|read) \S+: (?:no answer in time|i/o timeout|silent for too long)`, tooLong),
	says(`read \S+: the answer has no end: something between here and the server shortened it`, answered("shortened", "emptied")),
	says(`http://\S+: is not an rstream server: it answers with refused \((\d+)\)`, func(tr *answerTrial, _ ran, m []string) bool {
		return tr.f.what == "404" && m[1] == "404"
	}),
	says(`http://\S+: is not an rstream server: it does not name its log`, answered("200 in HTML")),
	says(`refused \((\d+)\)`, func(tr *answerTrial, _ ran, m []string) bool {
		return tr.status() == m[1] && strings.HasSuffix(tr.f.what, "of the log")
	}),
	says(`.*(?:disk I/O error|no space left|disk is full|file too large).*`, func(tr *answerTrial, _ ran, _ []string) bool { return tr.f.disk > 0 }),
}

// tooLong reports whether a command has waited for its full timeout. A busy machine can
// be as slow as a stuck server.
func tooLong(tr *answerTrial, _ ran, _ []string) bool {
	return tr.took >= answerTimeout && (tr.f.gone || tr.f.n == 0)
}

// answered returns the condition that a bad response of one of these kinds was sent.
func answered(kinds ...string) func(tr *answerTrial, _ ran, _ []string) bool {
	return func(tr *answerTrial, _ ran, _ []string) bool {
		for _, kind := range kinds {
			if tr.f.what == kind && len(tr.failed) > 0 {
				return true
			}
		}
		return false
	}
}

// status is the HTTP status of the bad response, "" if there was none.
func (tr *answerTrial) status() string {
	if len(tr.failed) == 0 || len(tr.f.what) < 3 {
		return ""
	}
	return tr.f.what[:3]
}

// sentences are all other messages that are allowed.
var sentences = []sentence{
	says(`rstream: (.*); trying again in [0-9.]+m?s`, func(tr *answerTrial, _ ran, m []string) bool { return tr.isCause(m[1]) }),
	says(`rstream: error: (?:(?:sync|fetch|verify|state of|tail|get) \S+(?: at \S+)?: )?(?:ask which log to import for: )?(no progress for 700ms: )?(.*)`,
		func(tr *answerTrial, r ran, m []string) bool {
			return tr.isCause(m[2]) && (m[1] == "" || tooLong(tr, r, m))
		}),
	says(`rstream: error: a/never: has never been written`, always),
	says(`rstream: error: a/x0: has no value, it was deleted at (.*)`, func(tr *answerTrial, _ ran, m []string) bool {
		return tr.l.latest(tr.l.head)["x0"].Time.String() == m[1]
	}),
	says(`rstream: error: a/x1: had no value at 0000000000001`, always),
	says(`rstream: error: 1 window differs from the server`, func(tr *answerTrial, _ ran, _ []string) bool { return tr.c.copy == "damaged" }),
	{asOf, func(tr *answerTrial, r ran, _ []string) bool {
		return len(tr.failed) > 0 || tr.f.at == 0 || tooLong(tr, r, nil)
	}}, // checkOutput checks the output
	says(`rstream: a: \d+ events? fetched, \d+ held, .*`, always),
	says(`rstream: http://\S+ has not answered yet \("rstream doctor http://\S+" shows what answers there\)`,
		func(tr *answerTrial, _ ran, _ []string) bool { return tr.took >= 2*time.Second }),
	says(`rstream: hint: is a server running\? start one with "rstream serve"`,
		func(tr *answerTrial, _ ran, _ []string) bool { return tr.f.at == 0 || tr.f.gone }),
	says(`rstream: hint: or name one with --server URL`,
		func(tr *answerTrial, _ ran, _ []string) bool { return tr.f.at == 0 || tr.f.gone }),
	says(`rstream: hint: check the name and the network`,
		func(tr *answerTrial, r ran, _ []string) bool { return len(tr.failed) > 0 || tooLong(tr, r, nil) }),
	says(`rstream: hint: or name another server with --server URL`,
		func(tr *answerTrial, r ran, _ []string) bool { return len(tr.failed) > 0 || tooLong(tr, r, nil) }),
	says(`rstream: hint: "rstream verify --repair" fetches the differing blocks again`, func(tr *answerTrial, _ ran, _ []string) bool { return tr.c.copy == "damaged" }),
	says(`rstream: hint: "rstream doctor http://\S+" shows what answers there`, func(tr *answerTrial, _ ran, _ []string) bool { return len(tr.failed) > 0 }),
	says(`rstream: hint: a proxy or filter cuts answers`, answered("shortened", "emptied")),
	says(`rstream: hint: "rstream doctor http://\S+" checks the path to the server`, answered("shortened", "emptied")),
	says(`rstream: hint: (?:free some space|the disk is full).*`, func(tr *answerTrial, _ ran, _ []string) bool { return tr.f.disk > 0 }),
	says(`rstream: hint: no acknowledged event is lost`, func(tr *answerTrial, _ ran, _ []string) bool { return tr.f.disk > 0 }),
}

func (tr *answerTrial) isCause(text string) bool {
	for _, c := range causes {
		if m := c.re().FindStringSubmatch(text); m != nil {
			return c.true(tr, ran{}, m)
		}
	}
	return false
}

// checkSentences checks each message against what happened. A message that is not in
// the table is an error, too: add it with its condition.
func (tr *answerTrial) checkSentences(r ran) {
	tr.t.Helper()
	errors := 0
	for line := range strings.Lines(r.err) {
		line = strings.TrimSuffix(line, "\n")
		if strings.HasPrefix(line, "rstream: error: ") {
			errors++
		}
		known := false
		for _, s := range sentences {
			if m := s.re().FindStringSubmatch(line); m != nil && s.true(tr, r, m) {
				known = true
			}
		}
		if !known {
			tr.t.Errorf("it says %q, which is not true or not in the table", line)
		}
	}
	if (r.status == exitDone) != (errors == 0) {
		tr.t.Errorf("the status is %d, and it says %q", r.status, r.err)
	}
	well := tr.f.name == "none"
	if well && tr.c.fails == "" && r.status != exitDone || tr.c.fails != "" && well && !strings.Contains(r.err, tr.c.fails) {
		tr.t.Errorf("the server is well, and it ends with %d: %s", r.status, r.err)
	}
}
