package main

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"iter"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"github.com/rstream-dev/rstream/cache"
	"github.com/rstream-dev/rstream/client"
	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/internal/deliver"
	"github.com/rstream-dev/rstream/window"
)

// consumeOptions are the flags of a tail that does something for each event.
type consumeOptions struct {
	exec    string
	workers int
	tries   int
	limit   waitLimit
}

func (o *consumeOptions) addConsumeFlags(cmd *cobra.Command) {
	f := cmd.Flags()
	o.workers, o.limit = 1, waitLimit(time.Minute)
	f.StringVar(&o.exec, "exec", "", "run `COMMAND` for each event, with its line as input")
	f.Var(counter{&o.workers, 1, 1000}, "workers", "work on up to `N` events at a time, of different storages")
	f.Var(counter{&o.tries, 1, 0}, "tries", "give an event up after `N` failed tries (default: never)")
	f.Var(&o.limit, "try-timeout", "end a try after `DURATION`")
	forLineOnly(f, "exec")
	excludeFlags(cmd, "exec", "lines", "since", "from-state", "skip-gap", "count")
}

// consumes reports whether the tail does something for each event.
func (o *consumeOptions) consumes() bool { return o.exec != "" }

// consumerFlags are the flags that only consumers have.
var consumerFlags = []string{"workers", "tries", "try-timeout"}

// checkConsumer returns an error for flags that do not fit.
func (o *tailOptions) checkConsumer(cmd *cobra.Command) error {
	if o.consumes() {
		if o.name == "" {
			return usagef("--exec needs --name, the cursor that moves as the command succeeds")
		}
		return nil
	}
	for _, name := range consumerFlags {
		if cmd.Flags().Changed(name) {
			return usagef("--%s needs --exec", name)
		}
	}
	return nil
}

// consume runs the consumer until it ends.
func (o *tailOptions) consume(ctx context.Context, s *session, topics []event.Topic, opts client.TailOptions) (err error) {
	a := s.app
	name, err := a.holdName(ctx, s.db, o.name)
	if err != nil {
		return err
	}
	if name != nil {
		defer name.Close()
	}
	c, err := holdConsumer(ctx, s.db, o.name, topics)
	if err != nil {
		return err
	}
	defer func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), endTime)
		defer cancel()
		err = errors.Join(err, c.Release(ctx))
	}()
	cfg := deliver.Config{
		Store:   deliver.NewStore(s.db, c, o.name),
		Batches: consumerBatches(s, topics, opts),
		Workers: o.workers, Tries: o.tries, TryTimeout: time.Duration(o.limit),
		OnFail: a.noteFailure,
	}
	program, err := o.newProgram(a, name)
	if err != nil {
		return err
	}
	defer program.Close()
	cfg.NewWorker = program.ExecWorker
	if opts.Until == nil && !opts.UntilLive {
		a.showWaiting(topics)
	}
	return deliver.Run(ctx, cfg)
}

func (o *tailOptions) newProgram(a *app, name *os.File) (*deliver.Program, error) {
	stderr, ok := a.err.(*os.File)
	if !ok {
		stderr = os.Stderr
	}
	program, err := deliver.NewProgram(o.exec, a.out.file, stderr, name)
	if err != nil {
		return nil, usagef("--exec: %w", err)
	}
	return program, nil
}

// holdName acquires the lock of a consumer's name, which its processes inherit. It waits while
// processes of an earlier run are still there: they may be at work on an event.
func (a *app) holdName(ctx context.Context, db *cache.DB, name string) (*os.File, error) {
	path, err := filepath.EvalSymlinks(db.Path())
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256([]byte(name))
	path = fmt.Sprintf("%s.%x.lock", path, sum[:6])
	noted := false
	for begun := time.Now(); ; {
		f, err := deliver.HoldName(path)
		if !errors.Is(err, deliver.ErrNameHeld) {
			return f, err
		}
		cursors, err := db.Cursors(ctx)
		if err != nil {
			return nil, err
		}
		for _, c := range cursors {
			if c.Name == name && c.Held && time.Since(begun) > holdTime {
				return nil, fmt.Errorf("cursor %s: %w", name, cache.ErrHeld)
			}
		}
		if !noted && time.Since(begun) > holdTime {
			noted = true
			a.note("cursor %s %v; waiting for them to end", name, deliver.ErrNameHeld)
		}
		select {
		case <-time.After(drainPoll):
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

// holdConsumer is holdCursor for a consumer.
func holdConsumer(ctx context.Context, db *cache.DB, name string, topics []event.Topic) (*cache.Consumer, error) {
	return retryHeld(ctx, func() (*cache.Consumer, error) { return db.HoldConsumer(ctx, name, topics) })
}

// consumerBatches returns the batches of a tail after a position, up to where the copy is in
// doubt.
func consumerBatches(s *session, topics []event.Topic, opts client.TailOptions) func(context.Context, event.ID) iter.Seq2[deliver.Batch, error] {
	return func(ctx context.Context, after event.ID) iter.Seq2[deliver.Batch, error] {
		opts.Since = event.At(event.CursorOf(after, s.db.Log()))
		return func(yield func(deliver.Batch, error) bool) {
			at := after
			for b, err := range s.Batches(ctx, topics, opts) {
				var doubted window.Spans
				if err == nil {
					doubted, err = doubtedRanges(ctx, s.db, topics, window.Span{From: at, To: b.Position})
				}
				if err == nil && len(doubted) > 0 {
					err = stopBefore(topics, doubted[0])
				}
				at = max(at, b.Position)
				if !yield(deliver.Batch{Events: b.Events, Position: b.Position}, err) || err != nil {
					return
				}
			}
		}
	}
}

// noteFailure says that a try has failed.
func (a *app) noteFailure(f deliver.Failure) {
	what := f.Event.ID.String() + " " + f.Event.Storage().String()
	if f.Events > 1 {
		what = fmt.Sprintf("%s and %s", what, count(f.Events-1, "other event"))
	}
	then := "trying again in " + f.Pause.Round(100*time.Millisecond).String()
	if f.Dead {
		then = "gave it up; \"rstream dead\" lists it"
	}
	a.note("%s: try %d: %v; %s", what, f.Try, f.Err, then)
}

// A consumerReport is how far a consumer is, as cursor list prints it.
type consumerReport struct {
	Done     int64   `json:"done"`
	UnderWay int     `json:"under_way"`
	Waiting  int     `json:"waiting"`
	Dead     int     `json:"dead"`
	Failed   int64   `json:"failed"`
	Rate     float64 `json:"rate"`
}

// newConsumerReport returns nil if the cursor is no consumer's.
func newConsumerReport(ctx context.Context, db *cache.DB, c *cache.CursorInfo) (*consumerReport, error) {
	info, ok, err := db.ConsumerInfo(ctx, c.Name)
	if err != nil || !ok {
		return nil, err
	}
	status, err := deliver.ReadStatus(info.State)
	if err != nil {
		return nil, fmt.Errorf("cursor %s: %w", c.Name, err)
	}
	r := &consumerReport{Done: status.Done, Waiting: info.Waiting, Dead: info.Dead, Failed: status.Failed}
	if c.Held { // otherwise nothing is under way
		r.UnderWay, r.Rate = status.UnderWay, status.Rate
	}
	return r, nil
}

// String formats the report for a person.
func (r *consumerReport) String() string {
	return fmt.Sprintf("%d done, %d under way, %s waiting, %d dead, %.1f/s", r.Done, r.UnderWay, count(r.Waiting, "storage"), r.Dead, r.Rate)
}
