//go:build unix

package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/internal/longtest"
)

// A failure is a fault during a command.
type failure struct {
	name    string
	at      int  // the append that fails, from 1; if 0, none
	there   bool // the log took that append first
	status  int  // the HTTP status; if 0, the connection is cut
	log     bool // the response is the log's own
	gone    bool // no server listens afterwards
	held    bool // the response is held until the command has ended
	stdout  string
	timeout string         // the command's --timeout
	signal  syscall.Signal // sent once a request is held or retried
}

// failures is one side of the table. Each row is tried with every command.
var failures = []failure{
	{name: "none"},
	{name: "no server", gone: true},
	{name: "cut before, then no server", at: 1, gone: true},
	{name: "cut after, then no server", at: 1, there: true, gone: true},
	{name: "killed before the third, interrupted", at: 3, gone: true, signal: syscall.SIGINT},
	{name: "killed after the third, terminated", at: 3, there: true, gone: true, signal: syscall.SIGTERM},
	{name: "killed after the third, given up", at: 3, there: true, gone: true, timeout: "1s"},
	{name: "interrupted, the first not there", at: 1, held: true, signal: syscall.SIGINT},
	{name: "interrupted, the first there", at: 1, there: true, held: true, signal: syscall.SIGINT},
	{name: "terminated, the third there", at: 3, there: true, held: true, signal: syscall.SIGTERM},
	{name: "full output", stdout: "full"},
	{name: "closed output", stdout: "closed"},
	{name: "403 of a proxy before", at: 1, status: 403},
	{name: "403 of a proxy after", at: 2, there: true, status: 403},
	{name: "413 of a proxy", at: 3, status: 413},
	{name: "502 of a proxy after, then no server", at: 1, there: true, status: 502, gone: true},
	{name: "full disk", at: 1, status: 507, log: true},
	{name: "full disk later", at: 3, status: 507, log: true},
	{name: "unknown to the server, then no server", at: 1, there: true, status: 503, log: true, gone: true, signal: syscall.SIGINT},
	{name: "403 of the log later", at: 2, status: 403, log: true},
	{name: "full output and cut", stdout: "full", at: 1, there: true, gone: true},
	{name: "closed output, killed after the second", stdout: "closed", at: 2, there: true, gone: true, signal: syscall.SIGINT},
}

// A claimant is a command that reports the fate of its appends.
type claimant struct {
	name  string
	args  []string
	input func(line int) string // the lines of its input, if it reads any
	pipe  bool                  // its input is a pipe
	copy  bool                  // it needs a copy
}

// claimLines returns the number of lines in an input: enough that a batch comes after the
// failure, if it is one of the first two, or with -full three batches.
func (f *failure) claimLines() int {
	enough := min(1000*max(f.at, 1)+150, 2500)
	return longtest.Scale(enough, enough, 2500)
}

// aside reports whether a line is not an append.
func aside(n int) bool { return n%97 == 0 || n%101 == 0 }

// eventLine returns the lines of a file of events: numbered, some empty, some aside.
func eventLine(keyed func(n int) bool) func(int) string {
	return func(n int) string {
		switch {
		case n%97 == 0:
			return ""
		case n%101 == 0:
			return `{"type":"live","id":"0000000000001"}`
		case keyed(n):
			return fmt.Sprintf(`{"user":"a","path":"x","key":"k%d","value":%d}`, n, n)
		}
		return fmt.Sprintf(`{"user":"a","path":"x","value":%d}`, n)
	}
}

func everyLine(int) bool { return true }
func noLine(int) bool    { return false }
func firstly(n int) bool { return n <= 40 }
func lastly(n int) bool  { return n > 40 }

func plainLine(n int) string {
	if aside(n) {
		return ""
	}
	return strconv.Itoa(n)
}

// claimants is the other side of the table.
var claimants = []claimant{
	{name: "put", args: []string{"put", "a/x", "1"}},
	{name: "put --key", args: []string{"put", "a/x", "1", "--key", "it's"}},
	{name: "del", args: []string{"del", "a/x"}},
	{name: "put --from keyed", args: []string{"put", "--from", "in 100%"}, input: eventLine(everyLine)},
	{name: "put --from keyless", args: []string{"put", "--from", "in 100%"}, input: eventLine(noLine)},
	{name: "put --from keyed at first", args: []string{"put", "--from", "in 100%"}, input: eventLine(firstly)},
	{name: "put --from keyed at last", args: []string{"put", "--from", "in 100%"}, input: eventLine(lastly)},
	{name: "put --from -", args: []string{"put", "--from", "-"}, input: eventLine(noLine), pipe: true},
	{name: "put --lines", args: []string{"put", "a/x", "--lines"}, input: plainLine, pipe: true},
	{name: "put --offline", args: []string{"put", "--offline", "--from", "in 100%"}, input: eventLine(noLine), copy: true},
	{name: "put --queue", args: []string{"put", "a/x", "1", "--queue"}, copy: true},
	{name: "put --queue --from", args: []string{"put", "--queue", "--from", "in 100%"}, input: eventLine(noLine), copy: true},
	{name: "del --queue", args: []string{"del", "a/x", "--queue"}, copy: true},
}

// Whatever fails during an append: the command's claims match the log, and its advice
// leads to every line being in the log once.
func TestClaims(t *testing.T) {
	inParallel(t)
	for i, f := range failures {
		for j, c := range claimants {
			if (i+3*j)%longtest.Scale(13, 5, 1) != 0 {
				continue
			}
			t.Run(f.name+"/"+c.name, func(t *testing.T) {
				t.Parallel()
				newTrial(t, f, c).run()
			})
		}
	}
}

// A truth counts how often each line is in the log or waits in the outbox.
type truth map[int]int

// want returns the truth that has every line once.
func (tr *trial) want() truth {
	all := truth{}
	for n := 1; n <= tr.f.claimLines(); n++ {
		if tr.c.input != nil && !aside(n) || tr.c.input == nil && n == 1 {
			all[n] = 1
		}
	}
	return all
}

// has returns the least and the largest count of the lines from first to last that are
// appends.
func (tr *trial) has(now truth, first, last int) (least, most int) {
	least = 1 << 30
	for n := range tr.want() {
		if first <= n && n <= last {
			least, most = min(least, now[n]), max(most, now[n])
		}
	}
	if least > most {
		least = most
	}
	return least, most
}

// look reads the log and the outbox directly.
func (tr *trial) look() truth {
	tr.t.Helper()
	now, sent := truth{}, map[string]bool{}
	for after := event.Beginning; ; {
		evs, next, err := tr.db.Read(tr.t.Context(), []event.Topic{event.All}, after, tr.db.Head(), 1000)
		if err != nil {
			tr.t.Fatal(err)
		}
		for i := range evs {
			now[lineOf(evs[i].Value)]++
			sent[evs[i].Hash.String()] = true
		}
		if after = next; after >= tr.db.Head() {
			break
		}
	}
	if tr.c.copy {
		for line := range strings.Lines(tr.must(nil, "rstream", "outbox", "-o", "json")) {
			var q queuedLine
			if err := json.Unmarshal([]byte(line), &q); err != nil {
				tr.t.Fatal(err)
			}
			if !sent[q.Hash.String()] { // otherwise it only waits for the acknowledgement
				now[lineOf(q.Value)]++
			}
		}
	}
	return now
}

// lineOf returns the number of the line with a value. A DEL is the first line.
func lineOf(value []byte) int {
	n, err := strconv.Atoi(string(value))
	if err != nil {
		return 1
	}
	return n
}

// The only claims about appends that are allowed.
var (
	saidDone   = pattern(`\blines? (\d+)(?:-(\d+))? of (?:in 100%|standard input) (?:was|were) (?:appended|kept in the outbox|appended or kept in the outbox)\b`)
	saidOpen   = pattern(`\bwhether lines? (\d+)(?:-(\d+))?(?: of (?:in 100%|standard input))? (?:was|were) (?:appended|kept in the outbox|appended or kept in the outbox) is unknown$`)
	saidOne    = pattern(`; it was (?:appended|kept in the outbox|appended or kept in the outbox)$`)
	saidNone   = pattern(`; nothing was (?:appended|kept in the outbox|appended or kept in the outbox)$`)
	saidOneOpn = pattern(`; whether it was (?:appended|appended or kept in the outbox) is unknown$`)
)

// check compares the claims with the truth.
func (tr *trial) check(status int, said string) {
	tr.t.Helper()
	now := tr.look()
	claim := ""
	for line := range strings.Lines(said) {
		if strings.HasPrefix(line, "rstream: error: ") {
			claim = strings.TrimSuffix(line, "\n")
		}
	}
	if (status == 0) != (claim == "") {
		tr.t.Errorf("status %d, and it says %q", status, claim)
	}
	all := 1
	if tr.c.input != nil {
		all = tr.f.claimLines()
	}
	done, open := saidDone().FindStringSubmatch(claim), saidOpen().FindStringSubmatch(claim)
	known := 0 // all lines up to known are there; none after end is
	end := 0
	switch {
	case status == 0, saidOne().MatchString(claim):
		known, end = all, all
	case saidNone().MatchString(claim):
	case saidOneOpn().MatchString(claim):
		end = 1
	case done == nil && open == nil:
		tr.t.Errorf("no claim about the appends: %q", claim)
		return
	default:
		if done != nil && (open == nil || len(done[0]) < len(claim) && !strings.HasPrefix(open[0], "whether "+done[0])) {
			known = number(done)
		}
		if end = known; open != nil {
			end = number(open)
			if first, _ := strconv.Atoi(open[1]); first <= known {
				tr.t.Errorf("lines from %d are known and unknown: %q", first, claim)
			} else if least, most := tr.has(now, first, end); least != most {
				tr.t.Errorf("of a batch some lines are there and some are not: %q", claim)
			}
		}
	}
	if least, most := tr.has(now, 1, known); known > 0 && (least != 1 || most != 1) {
		tr.t.Errorf("lines 1-%d are there %d to %d times, and it says %q", known, least, most, claim)
	}
	if _, most := tr.has(now, end+1, tr.f.claimLines()); most > 0 {
		tr.t.Errorf("lines after %d are there, and it says %q", end, claim)
	}
	if tr.f.stdout == "closed" && tr.f.at == 0 && status != 0 {
		tr.t.Errorf("the reader left, and the status is %d", status)
	}
	if tr.f.stdout == "full" && status == 0 {
		tr.t.Error("the output was full, and the status is 0")
	}
}

// number returns the last line that a claim names.
func number(match []string) int {
	n, _ := strconv.Atoi(match[1])
	if m, err := strconv.Atoi(match[2]); err == nil {
		n = m
	}
	return n
}

// The only advice that is allowed.
var (
	adviceKey  = pattern(`(?m)^rstream: hint: run the command again with --key (.*): it is appended once$`)
	adviceSame = pattern(`(?m)^rstream: hint: run the command again: each line so far has a key and is appended once$`)
	adviceRest = pattern(`(?m)^rstream: hint: continue from line (\d+)(?:, with the same flags: (tail .*))?$`)
	adviceLook = pattern(`(?m)^rstream: hint: .*look for it in the (?:log|outbox), then continue from line (\d+) or (\d+)$|look for line \d+ in the (?:log|outbox), then continue from line (\d+) or (\d+)$`)
)

// follow follows the hint, against a server that works. Then every line is there once.
func (tr *trial) follow(status int, said string) {
	tr.t.Helper()
	same := append([]string{"rstream"}, tr.c.args...)
	input, err := os.ReadFile(tr.inputFile())
	if tr.c.input != nil && err != nil {
		tr.t.Fatal(err)
	}
	from := func(line int) {
		lines := bytes.SplitAfter(input, []byte("\n"))
		args := slices.Clone(same)
		if i := slices.Index(args, "in 100%"); i > 0 {
			args[i] = "-"
		}
		tr.must(bytes.Join(lines[line-1:], nil), args...)
	}
	key, rest, look := adviceKey().FindStringSubmatch(said), adviceRest().FindStringSubmatch(said), adviceLook().FindStringSubmatch(said)
	switch claim := strings.TrimSpace(said); {
	case status == 0:
	case saidOne().MatchString(firstError(claim)):
	case key != nil:
		tr.must(nil, "sh", "-c", shellCommand(tr.c.args)+" --key "+key[1])
	case rest != nil && rest[2] != "":
		tr.must(nil, "sh", "-c", rest[2])
	case rest != nil:
		n, _ := strconv.Atoi(rest[1])
		from(n)
	case look != nil:
		numbers := slices.DeleteFunc(slices.Clone(look[1:]), func(s string) bool { return s == "" })
		first, _ := strconv.Atoi(numbers[0])
		after, _ := strconv.Atoi(numbers[1])
		if tr.look()[first] > 0 {
			first = after
		}
		from(first)
	case saidNone().MatchString(firstError(claim)), adviceSame().MatchString(said):
		tr.must(input, same...)
	default:
		tr.t.Errorf("no safe next step is advised: %s", said)
	}
	if tr.c.copy {
		tr.must(nil, "rstream", "sync", "-q")
	}
	now, want := tr.look(), tr.want()
	for n := range want {
		if now[n] != 1 {
			tr.t.Fatalf("after following the hint, line %d is there %d times: %s", n, now[n], said)
		}
	}
}

// firstError returns the last error line without the lines after it.
func firstError(said string) string {
	claim := ""
	for line := range strings.Lines(said) {
		if strings.HasPrefix(line, "rstream: error: ") {
			claim = strings.TrimSpace(line)
		}
	}
	return claim
}

// shellCommand formats a command line for a shell, without its key.
func shellCommand(args []string) string {
	text := "rstream"
	for i, arg := range args {
		if arg != "--key" && (i == 0 || args[i-1] != "--key") {
			text += " " + shellWord(arg)
		}
	}
	return text
}
