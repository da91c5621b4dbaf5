package report

import (
	"context"
	"encoding/json"
	"errors"
	"time"

	"github.com/rstream-dev/rstream/internal/board"
)

// answerLooks reports while somebody looks, until ctx ends.
func (r *Reporter) answerLooks(ctx context.Context) {
	for ctx.Err() == nil {
		look, left := r.lease.current()
		if left > 0 {
			r.cfg.Meter.Reporting.Store(true)
			r.answerLook(ctx, look)
			r.cfg.Meter.Reporting.Store(false)
			continue
		}
		select {
		case <-r.lease.changed:
		case <-ctx.Done():
		}
	}
}

// lasts reports whether a look still holds.
func (r *Reporter) lasts(look board.Look) bool {
	now, left := r.lease.current()
	return now == look && left > 0
}

// answerLook reports for as long as a look holds.
func (r *Reporter) answerLook(ctx context.Context, look board.Look) {
	view := board.New(r.cfg.Registry, board.Config{Node: r.cfg.Node, SampleEvery: board.RenewEvery})
	defer view.Close()
	news := make(chan struct{}, 1)
	wake := func() {
		select {
		case news <- struct{}{}:
		default:
		}
	}
	viewer := view.Look(board.Cursor{}, board.View{}, wake)
	defer func() { viewer.Close() }()
	for r.lasts(look) {
		want := r.reportBatch(ctx, look, viewer.Next())
		switch {
		case ctx.Err() != nil:
			r.leave(ctx, look)
			return
		case want == board.WantNothing:
			r.lease.end(look)
			return
		case want == board.WantList:
			viewer.Close()
			viewer = view.Look(board.Cursor{}, board.View{}, wake)
			wake()
		}
		if !r.pause(ctx, look, nil, r.cfg.Every) || !r.pause(ctx, look, news, board.RenewEvery-r.cfg.Every) {
			if ctx.Err() != nil {
				r.leave(ctx, look)
			}
			return
		}
	}
}

// pause waits for news, but no longer than d. It reports whether the look still holds.
func (r *Reporter) pause(ctx context.Context, look board.Look, news <-chan struct{}, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	for {
		select {
		case <-news:
		case <-timer.C:
		case <-r.lease.changed:
			if r.lasts(look) {
				continue
			}
		case <-ctx.Done():
			return false
		}
		return r.lasts(look)
	}
}

// reportBatch sends a batch, and returns what the board wants then. It tries again for as long as
// the look holds.
func (r *Reporter) reportBatch(ctx context.Context, look board.Look, batch board.Batch) board.Wanted {
	for _, report := range splitBatch(&batch) {
		r.number++
		report.Look, report.Boot, report.Number, report.From = look, r.boot, r.number, r.cfg.Node()
		body, err := json.Marshal(report)
		if err != nil { // cannot happen: every field can be marshaled
			panic(err)
		}
		if want := r.sendUntilTaken(ctx, look, body); want != board.WantChanges {
			return want
		}
	}
	return board.WantChanges
}

// sendUntilTaken sends a report until there is an answer.
func (r *Reporter) sendUntilTaken(ctx context.Context, look board.Look, body []byte) board.Wanted {
	for pause := minPause; ; pause = min(2*pause, maxPause) {
		want, err := r.send(ctx, body)
		if err == nil {
			return want
		}
		if ctx.Err() != nil {
			return board.WantNothing
		}
		r.cfg.Meter.Failed.Add(1)
		r.cfg.OnError(err)
		if errors.As(err, new(refusedError)) || !r.pause(ctx, look, nil, pause) {
			return board.WantNothing // the next announcement begins again
		}
	}
}

// leaveWait is how long a process that ends waits for the board.
const leaveWait = time.Second

// leave tells the board that the node leaves.
func (r *Reporter) leave(ctx context.Context, look board.Look) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), leaveWait)
	defer cancel()
	r.number++
	body, err := json.Marshal(board.Report{Look: look, Boot: r.boot, Number: r.number, From: r.cfg.Node(), Left: true})
	if err == nil {
		_, err = r.send(ctx, body)
	}
	if err != nil {
		r.cfg.OnError(err)
	}
}

// partSize is about how many bytes a report has at most.
const partSize = 256 << 10

// splitBatch returns a batch as reports, of which there is at least one.
func splitBatch(batch *board.Batch) []*board.Report {
	reports := []*board.Report{{}}
	last, size := reports[0], 0
	add := func(n int) {
		if size > 0 && size+n > partSize {
			last, size = &board.Report{}, 0
			reports = append(reports, last)
		}
		size += n
	}
	open := func(c *board.Connection) {
		short := *c
		short.Node = "" // the report has it once
		add(sizeOf(c))
		last.Opened = append(last.Opened, &short)
	}
	for _, c := range batch.State {
		open(c)
	}
	for i := range batch.Changes {
		switch c := batch.Changes[i].Connection; batch.Changes[i].Kind {
		case board.Opened:
			open(c)
		case board.Lagged:
			add(50)
			last.Lags = append(last.Lags, board.LagOf{ID: c.ID, Lag: c.Lag})
		case board.Closed:
			add(10)
			last.Closed = append(last.Closed, c.ID)
		}
	}
	if batch.Begins {
		for _, report := range reports {
			report.List = board.NextPart
		}
		reports[0].List, last.List = board.FirstPart, board.LastPart
		if len(reports) == 1 {
			last.List = board.WholeList
		}
	}
	return reports
}

// sizeOf returns about how many bytes a connection has in a report.
func sizeOf(c *board.Connection) int {
	n := 150 + len(c.Address) + len(c.Subject)
	for _, t := range c.Topics {
		n += 3 + len(t.String())
	}
	return n
}
