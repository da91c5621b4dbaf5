package bench

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"
)

const putHelp = `Append the lines of a file with "rstream put --from", as a process whose start and output
count. The limit is appends of the same number of events in batches of 1,000, four in
flight, to the same server. The client's CPU time includes the check of all lines before
the first is appended.`

// benchPut measures "rstream put --from" of a file of lines. Appends in batches, from several
// publishers that parse nothing, are the limit.
func (r *runner) benchPut(ctx context.Context) (err error) {
	p, err := r.startPair(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, p.stopBoth()) }()
	size := min(batchSize, r.cfg.Events)
	n := max(r.cfg.Events/size/roundCount, 1) // batches
	load := batches(newInput(), size)
	in := newInput()
	var ours runTimes
	var limit Rate
	for i := range roundCount {
		r.reportProgress("put", float64(i)/roundCount)
		rate, err := load.Run(ctx, p.url, time.Hour, i*n, (i+1)*n)
		if err != nil {
			return err
		}
		limit = limit.Add(rate)
		t, err := r.putLines(ctx, p.url, in, i*n*size, (i+1)*n*size)
		if err != nil {
			return err
		}
		ours = ours.add(t)
	}
	events := float64(roundCount * n * size)
	r.addCompared("put", events/ours.elapsed.Seconds(), "events/s", baseline{"append batch", limit.PerSecond()}, goalPut)
	r.addFigure("put client cpu", float64(ours.cpu.Microseconds())/events, "µs/event")
	return nil
}

// putLines appends the lines from to to-1 of an input with the program.
func (r *runner) putLines(ctx context.Context, server string, in Input, from, to int) (t runTimes, err error) {
	var lines []byte
	for i := from; i < to; i++ {
		lines = append(lines, in.Line(i)...)
	}
	file := filepath.Join(r.dir, "lines.jsonl")
	if err := os.WriteFile(file, lines, 0o600); err != nil {
		return t, err
	}
	var printed printedLines
	t, err = runProgram(ctx, &printed, "put", "--from", file, "--server", server, "--output", "json")
	if err == nil && int(printed) != to-from {
		err = fmt.Errorf("put printed %d of %d events", printed, to-from)
	}
	return t, err
}

// printedLines is an io.Writer that counts lines.
type printedLines int

// Write implements io.Writer.
func (n *printedLines) Write(b []byte) (int, error) {
	*n += printedLines(bytes.Count(b, []byte{'\n'}))
	return len(b), nil
}
