package bench

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"time"

	"github.com/rstream-dev/rstream/cache"
	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/window"
)

const diskHelp = `Store events in a log without a server, and compare the size of its file with the lines:
with 1,000 storages, with a storage for each event, and after --history has dropped nine
tenths of the events. The lines of the state at the horizon count as remaining lines.`

// benchDisk measures the size of a log's file: of one with storages of many events, of one with
// storages of one event, and of one that has dropped most of its history.
func (r *runner) benchDisk(ctx context.Context) error {
	beyond, err := r.measureBeyondLines(ctx, storages)
	if err != nil {
		return err
	}
	r.atMost("disk", beyond, "bytes/event", goalBeyondLine)
	if beyond, err = r.measureBeyondLines(ctx, r.cfg.Events); err != nil {
		return err
	}
	r.addFigure("disk storages of one event", beyond, "bytes/event")
	return r.measureHistory(ctx)
}

// measureBeyondLines returns the size of a log with n storages, in bytes per event, without the
// lines.
func (r *runner) measureBeyondLines(ctx context.Context, n int) (bytes float64, err error) {
	file := filepath.Join(r.dir, "disk.db")
	defer func() { err = errors.Join(err, removeDB(file)) }()
	in := newInput()
	in.Storages = n
	if err := r.fillFile(ctx, file, cache.Config{}, 0, r.cfg.Events, in.Draft); err != nil {
		return 0, err
	}
	size, err := measureLog(ctx, file)
	return float64(size.file-size.lines) / float64(r.cfg.Events), err
}

// measureHistory drops nine tenths of a log's history and compares the size of the file with
// the lines that the log still has, those of the state at its horizon included.
func (r *runner) measureHistory(ctx context.Context) (err error) {
	file := filepath.Join(r.dir, "history.db")
	defer func() { err = errors.Join(err, removeDB(file)) }()
	in := newInput()
	in.Storages = max(r.cfg.Events/historyStorageEvents, 1)
	old := r.cfg.Events * 9 / 10
	now := time.Now()
	at := func(t time.Time) cache.Config { return cache.Config{Now: func() time.Time { return t }} }
	if err := r.fillFile(ctx, file, at(now.Add(-48*time.Hour)), 0, old, in.Draft); err != nil {
		return err
	}
	if err := r.fillFile(ctx, file, at(now), old, r.cfg.Events, in.Draft); err != nil {
		return err
	}
	r.reportProgress("drop history", 0.5)
	if err := retainDay(ctx, file, at(now)); err != nil {
		return err
	}
	size, err := measureLog(ctx, file)
	if err != nil {
		return err
	}
	r.addCompared("disk after --history", float64(size.file)/mib, "MiB", baseline{"remaining lines", float64(size.lines) / mib}, goalHistory)
	r.addFigure("disk after --history events", float64(size.events), "events")
	return nil
}

const (
	mib = 1 << 20
	// historyStorageEvents is how many events a storage of the log that drops history has.
	historyStorageEvents = 100
)

// retainDay drops the history of a log that is older than a day.
func retainDay(ctx context.Context, file string, cfg cache.Config) (err error) {
	cfg.Role = cache.Server
	db, err := cache.Open(ctx, file, cfg)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	return db.RetainOnce(ctx, cache.Retention{History: 24 * time.Hour})
}

// fileSize is the size of a closed log.
type fileSize struct {
	file   int64
	lines  int64 // bytes of the events, and of the state at the horizon
	events int
}

func measureLog(ctx context.Context, file string) (size fileSize, err error) {
	info, err := os.Stat(file)
	if err != nil {
		return size, err
	}
	size.file = info.Size()
	db, err := cache.Open(ctx, file, cache.Config{})
	if err != nil {
		return size, err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	count := func(ev *event.Event) error {
		size.events++
		size.lines += int64(len(ev.Line()))
		return nil
	}
	horizon, err := db.Horizon(ctx)
	if err != nil {
		return size, err
	}
	if err := db.State(ctx, event.All, horizon, count); err != nil {
		return size, err
	}
	return size, db.Each(ctx, []event.Topic{event.All}, window.Span{From: horizon, To: db.Head()}, count)
}
