package bench

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/rstream-dev/rstream/event"
)

const consumeHelp = `Do something for each event of a local copy with "rstream tail": start a process with
--exec, ask eight processes with --pipe, post batches of 100 with --webhook. The limit of
--exec is a shell that reads the lines of "rstream log" and starts a process for each;
both start /bin/true. CPU time includes that of all processes.`

const (
	execShare      = 50 // the run's events for each event that a process is started for
	consumeWorkers = 8
	hookBatch      = 100
)

// benchConsume measures consumers of a copy.
func (r *runner) benchConsume(ctx context.Context) (err error) {
	p, err := r.startPair(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, p.stopBoth()) }()
	r.reportProgress("consume", 0)
	file := filepath.Join(r.dir, "consumed.db")
	defer func() { err = errors.Join(err, removeDB(file)) }()
	few, err := r.copyToConsume(ctx, p.url, file, max(r.cfg.Events/execShare, 1))
	if err != nil {
		return err
	}
	if err := few.compareExec(ctx); err != nil {
		return err
	}
	many, err := r.copyToConsume(ctx, p.url, file, r.cfg.Events)
	if err != nil {
		return err
	}
	return many.measure(ctx, p.limit.url)
}

// A consumed is a topic of a copy whose events are consumed.
type consumed struct {
	*runner
	server, file string
	topic        string
	events       int
	names        int // consumers so far
}

// copyToConsume appends n events of a new topic and copies them.
func (r *runner) copyToConsume(ctx context.Context, server, file string, n int) (*consumed, error) {
	in, err := appendEvents(ctx, server, n)
	if err != nil {
		return nil, err
	}
	c := &consumed{runner: r, server: server, file: file, topic: in.User, events: n}
	_, err = c.run(ctx, io.Discard, "sync", "--quiet")
	return c, err
}

// run runs a command of the program on the copy.
func (c *consumed) run(ctx context.Context, out io.Writer, command string, args ...string) (runTimes, error) {
	return runProgram(ctx, out, append([]string{command, c.topic, "--cache", c.file, "--server", c.server}, args...)...)
}

// consume runs a new consumer, which must do all events.
func (c *consumed) consume(ctx context.Context, args ...string) (t runTimes, err error) {
	c.names++
	name := c.topic + strconv.Itoa(c.names)
	if t, err = c.run(ctx, io.Discard, "tail", append(args, "--name", name, "--until-live", "--quiet")...); err != nil {
		return t, err
	}
	var out bytes.Buffer
	if _, err := runProgram(ctx, &out, "cursor", "list", "--cache", c.file, "--output", "json"); err != nil {
		return t, err
	}
	for line := range strings.Lines(out.String()) {
		var cursor struct {
			Name string
			Done int
		}
		if err := json.Unmarshal([]byte(line), &cursor); err != nil {
			return t, err
		}
		if cursor.Name == name && cursor.Done == c.events {
			return t, nil
		}
	}
	return t, fmt.Errorf("not all of %d events are done: %s", c.events, out.String())
}

// compareExec compares processes that tail starts with those of a shell.
func (c *consumed) compareExec(ctx context.Context) error {
	nothing, err := exec.LookPath("true")
	if err == nil {
		_, err = exec.LookPath("sh")
	}
	if err != nil {
		c.cfg.Note("consume exec is not measured: %v", err)
		return nil
	}
	var ours, limit runTimes
	for i := range roundCount {
		c.reportProgress("consume exec", float64(i)/roundCount)
		t, err := c.loopInShell(ctx, nothing)
		if err != nil {
			return err
		}
		limit = limit.add(t)
		if t, err = c.consume(ctx, "--exec", nothing); err != nil {
			return err
		}
		ours = ours.add(t)
	}
	all := float64(roundCount * c.events)
	c.addCompared("consume exec", all/ours.elapsed.Seconds(), "events/s", baseline{shellLoop, all / limit.elapsed.Seconds()}, goalExec)
	c.addCompared("consume exec cpu", microseconds(ours.cpu)/all, "µs/event", baseline{shellLoop, microseconds(limit.cpu) / all}, goal{})
	return nil
}

// loopInShell starts a process for each event in a shell.
func (c *consumed) loopInShell(ctx context.Context, program string) (t runTimes, err error) {
	list, err := programCommand(ctx, "log", c.topic, "--cache", c.file, "--output", "json")
	if err != nil {
		return t, err
	}
	const script = `program=$1; shift; "$@" | while read -r line; do "$program"; done`
	cmd := exec.CommandContext(ctx, "sh", append([]string{"-c", script, "sh", program}, list.Args...)...)
	cmd.Env = list.Env
	return timeCommand(cmd)
}

// measure measures consumers that start no process for an event.
func (c *consumed) measure(ctx context.Context, url string) error {
	list, err := programCommand(ctx, "bench", "worker")
	if err != nil {
		return err
	}
	workers := strconv.Itoa(consumeWorkers)
	for _, m := range []struct {
		name string
		goal float64
		args []string
	}{
		{"consume pipe", goalPipe, []string{"--pipe", shellWords(list.Args), "--workers", workers}},
		{"consume webhook", goalWebhook, []string{"--webhook", url, "--allow-private", "--batch", strconv.Itoa(hookBatch), "--workers", workers}},
	} {
		var ours runTimes
		for i := range roundCount {
			c.reportProgress(m.name, float64(i)/roundCount)
			t, err := c.consume(ctx, m.args...)
			if err != nil {
				return err
			}
			ours = ours.add(t)
		}
		all := float64(roundCount * c.events)
		c.atLeast(m.name, all/ours.elapsed.Seconds(), "events/s", m.goal)
		c.addFigure(m.name+" cpu", microseconds(ours.cpu)/all, "µs/event")
	}
	return nil
}

// shellWords returns a command line whose words are args, whatever characters they have.
func shellWords(args []string) string {
	var line strings.Builder
	for _, arg := range args {
		line.WriteString(" '" + strings.ReplaceAll(arg, "'", `'\''`) + "'")
	}
	return line.String()[1:]
}

// AnswerLines is the worker of a consumer that answers each line with the id of its event, and
// does nothing else.
func AnswerLines(in io.Reader, out io.Writer) error {
	const before = `{"id":"`
	lines := bufio.NewReaderSize(in, 64<<10)
	for {
		line, err := lines.ReadSlice('\n')
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if len(line) < len(before)+event.IDLen {
			return fmt.Errorf("%.40q is not the line of an event", line)
		}
		answer := line[len(before) : len(before)+event.IDLen+1]
		answer[event.IDLen] = '\n' // in place of the quote
		if _, err := out.Write(answer); err != nil {
			return err
		}
	}
}
