package main

import (
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"iter"
	"os"
	"path/filepath"
	"strings"
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
	pipe    string
	webhook string
	batch   int
	secret  string // file
	private bool
	workers int
	tries   int
	limit   waitLimit
	metrics string
}

// targets are the flags that make a tail a consumer.
var targets = []string{"exec", "pipe", "webhook"}

func (o *consumeOptions) addConsumeFlags(cmd *cobra.Command) {
	f := cmd.Flags()
	o.batch, o.workers, o.limit = 1, 1, waitLimit(time.Minute)
	f.StringVar(&o.exec, "exec", "", "run `COMMAND` for each event, with its line as input")
	f.StringVar(&o.pipe, "pipe", "", "give the lines of events to `COMMAND`, which answers each with its id")
	f.StringVar(&o.webhook, "webhook", "", "post each event to `URL`")
	f.Var(counter{&o.batch, 1, 10_000}, "batch", "post up to `N` events in one request, as lines")
	f.StringVar(&o.secret, "secret-file", "", "`FILE` with the secret that signs requests (default: the secret in RSTREAM_SECRET)")
	f.BoolVar(&o.private, "allow-private", false, "let --webhook connect to this machine and to private networks")
	f.Var(counter{&o.workers, 1, 1000}, "workers", "work on events of up to `N` storages at a time")
	f.Var(counter{&o.tries, 1, 0}, "tries", "give an event up after `N` failed tries (default: never)")
	f.Var(&o.limit, "try-timeout", "end a try after `DURATION`")
	f.StringVar(&o.metrics, "metrics", "", "keep metrics of the consumer in `FILE`, for a textfile collector")
	for i, name := range targets {
		forLineOnly(f, name)
		excludeFlags(cmd, name, append([]string{"lines", "since", "from-state", "skip-gap", "count"}, targets[i+1:]...)...)
	}
}

// target returns the flag that says what to do with events, "" if the tail prints them.
func (o *consumeOptions) target() string {
	for _, t := range [][2]string{{"exec", o.exec}, {"pipe", o.pipe}, {"webhook", o.webhook}} {
		if t[1] != "" {
			return t[0]
		}
	}
	return ""
}

// consumerFlags are the flags that only consumers have, and webhookFlags those that only
// webhooks have.
var (
	consumerFlags = []string{"workers", "tries", "try-timeout", "metrics"}
	webhookFlags  = []string{"batch", "secret-file", "allow-private"}
)

// checkConsumer returns an error for flags that do not fit.
func (o *tailOptions) checkConsumer(a *app, cmd *cobra.Command) error {
	target := o.target()
	if target != "" && o.name == "" {
		return usagef("--%s needs --name, the cursor that moves on success", target)
	}
	// Settings from elsewhere are for the tails that can use them.
	given := func(name string) bool { return cmd.Flags().Changed(name) && a.settings.sourceOf(name) == "" }
	for _, name := range consumerFlags {
		if target == "" && given(name) {
			return usagef("--%s needs --exec, --pipe or --webhook", name)
		}
	}
	for _, name := range webhookFlags {
		if target != "webhook" && given(name) {
			return usagef("--%s needs --webhook", name)
		}
	}
	return nil
}

// A batchesFunc returns the batches of a consumer after a position.
type batchesFunc func(ctx context.Context, after event.ID) iter.Seq2[deliver.Batch, error]

// A consumption is what a consumer consumes.
type consumption struct {
	a       *app
	db      *cache.DB
	topics  []event.Topic
	batches batchesFunc
	follows bool
	dropped func(d deliver.Dropped) (oldest event.ID, ok bool) // see deliver.Config.PassDropped
	hasGaps func() bool                                        // events may be missing; may be nil
}

// consume runs the consumer until it ends.
func (o *tailOptions) consume(ctx context.Context, what *consumption) (err error) {
	a, db := what.a, what.db
	name, err := a.holdName(ctx, db, o.name)
	if err != nil {
		return err
	}
	if name != nil {
		defer name.Close()
	}
	dead := map[event.ID]bool{}
	cfg := deliver.Config{
		Batches: what.batches,
		Workers: o.workers, Batch: o.batch, Tries: o.tries, TryTimeout: time.Duration(o.limit),
		OnFail: countDead(dead, a.noteFailure), PassDropped: what.dropped, OnEnding: a.noteEnding, Grace: consumerGrace,
	}
	if a.filter.where != nil {
		cfg.Want = a.filter.wants
	}
	if a.filter.selection != nil {
		cfg.Line = a.filter.appendLine
	}
	if err := o.setTarget(a, name, &cfg); err != nil { // before there is a cursor
		return err
	}
	c, err := holdConsumer(ctx, db, o.name, what.topics)
	if err != nil {
		return err
	}
	defer func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), endTime)
		defer cancel()
		err = errors.Join(err, c.Release(ctx))
	}()
	cfg.Store = deliver.NewStore(db, c, o.name)
	if o.metrics != "" {
		m := consumerMetrics{file: o.metrics, name: o.name, db: db}
		cfg.OnStatus = m.take
		defer func() { err = errors.Join(err, m.write()) }()
	}
	if what.follows {
		o.showConsuming(a, what.topics)
	}
	if err = deliver.Run(ctx, cfg); err == nil {
		return what.endStatus(len(dead))
	}
	return nameTarget(o.target(), err)
}

// endStatus returns the error with which a consumer ends that has done all events but dead ones.
func (c *consumption) endStatus(dead int) error {
	status := exitFailed
	if c.hasGaps != nil && c.hasGaps() {
		status = exitGap
	}
	switch {
	case dead == 1:
		return &exitError{status, "1 event was given up", "\"rstream dead\" lists it"}
	case dead > 1:
		return &exitError{status, count(dead, "event") + " were given up", "\"rstream dead\" lists them"}
	case status == exitGap:
		return &exitError{status: status}
	}
	return nil
}

// countDead returns note, which adds the events that become dead letters, or stay some, to dead, too.
func countDead(dead map[event.ID]bool, note func(deliver.Failure)) func(deliver.Failure) {
	return func(f deliver.Failure) {
		if f.Dead {
			dead[f.Event.ID] = true
		}
		note(f)
	}
}

// showConsuming is showWaiting for a consumer. Commands write to the terminal themselves, so the
// line stays where it is.
func (o *consumeOptions) showConsuming(a *app, topics []event.Topic) {
	switch {
	case o.webhook != "":
		a.showWaiting(topics)
	case a.footer != nil:
		a.note("%s", a.waitingText(topics))
	}
}

// nameTarget adds the flag of the target to an error that comes from it.
func nameTarget(target string, err error) error {
	if end := (*deliver.EndError)(nil); errors.As(err, &end) {
		return fmt.Errorf("--%s: %w", target, err)
	}
	return err
}

// setTarget sets what the consumer does with events.
func (o *tailOptions) setTarget(a *app, name *os.File, cfg *deliver.Config) (err error) {
	if o.webhook != "" {
		cfg.NewWorker, err = o.newWebhook(a)
		return err
	}
	stderr, ok := a.err.(*os.File)
	if !ok {
		stderr = os.Stderr
	}
	program, err := deliver.NewProgram(cmp.Or(o.exec, o.pipe), a.out.file, stderr, name)
	if err != nil {
		return usagef("--%s: %w", o.target(), err)
	}
	kill := program.Kill
	a.onKill.Store(&kill)
	cfg.NewWorker = program.ExecWorker
	if o.pipe != "" {
		cfg.NewWorker = program.PipeWorker
	}
	return nil
}

func (o *tailOptions) newWebhook(a *app) (func() deliver.Worker, error) {
	secret, err := o.readSecret(a)
	if err != nil {
		return nil, err
	}
	w, err := deliver.NewWebhook(deliver.WebhookConfig{URL: o.webhook, Secret: secret, Private: o.private, Lines: o.batch > 1, Workers: o.workers, UserAgent: "rstream/" + programVersion()})
	if err != nil {
		return nil, usagef("--webhook: %w", err)
	}
	if secret == "" {
		a.note("requests are not signed; --secret-file names a secret")
	}
	return w.Worker, nil
}

// readSecret returns the secret that signs requests, "" for none.
func (o *tailOptions) readSecret(a *app) (string, error) {
	if o.secret == "" {
		return os.Getenv("RSTREAM_SECRET"), nil
	}
	b, err := os.ReadFile(o.secret)
	if err != nil {
		return "", usagef("--secret-file: %w", err)
	}
	a.warnIfExposed(o.secret)
	secret := strings.TrimSpace(string(b))
	if secret == "" {
		return "", usagef("--secret-file: %s is empty", o.secret)
	}
	return secret, nil
}

// holdName acquires the lock of a consumer's name, which its processes inherit. It waits while
// processes of an earlier run are still there: they may be at work on an event.
func (a *app) holdName(ctx context.Context, db *cache.DB, name string) (*os.File, error) {
	path, err := filepath.EvalSymlinks(db.Path())
	if err == nil {
		path, err = filepath.Abs(path)
	}
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
			a.note("cursor %s %v%s; waiting for them to end", name, deliver.ErrNameHeld, listPIDs(deliver.NameHolders(path)))
		}
		select {
		case <-time.After(drainPoll):
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

// listPIDs formats ids of processes for a note, "" for none.
func listPIDs(pids []int) string {
	if len(pids) == 0 {
		return ""
	}
	return " (" + strings.Trim(fmt.Sprint(pids), "[]") + ")"
}

// holdConsumer is holdCursor for a consumer.
func holdConsumer(ctx context.Context, db *cache.DB, name string, topics []event.Topic) (*cache.Consumer, error) {
	return retryHeld(ctx, func() (*cache.Consumer, error) { return db.HoldConsumer(ctx, name, topics) })
}

// consumerBatches returns the batches of a tail after a position, up to where the copy is in
// doubt.
func consumerBatches(s *session, topics []event.Topic, opts client.TailOptions) batchesFunc {
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

// consumerGrace is how long a consumer waits for running work before it ends.
const consumerGrace = 10 * time.Second

// noteEnding says that a consumer waits before it ends.
func (a *app) noteEnding(underWay int) {
	a.note("waiting up to %s for %s under way; a second signal does not wait", consumerGrace, count(underWay, "event"))
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

	Oldest     *event.ID   `json:"oldest"` // unfinished event, or a position before it; null if there is none
	OldestTime *event.Time `json:"oldest_time"`
}

// newConsumerReport returns nil if the cursor is no consumer's.
func newConsumerReport(c *cache.CursorInfo, times *positionTimes) (*consumerReport, error) {
	info, ok, err := times.db.ConsumerInfo(times.ctx, c.Name)
	if err != nil || !ok {
		return nil, err
	}
	status, err := deliver.ReadStatus(info.State)
	if err != nil {
		return nil, fmt.Errorf("cursor %s: %w", c.Name, err)
	}
	r := &consumerReport{Done: status.Done, Waiting: info.Waiting, Dead: info.Dead, Failed: status.Failed}
	if c.Held { // otherwise nothing is under way
		r.UnderWay = status.UnderWay
		if time.Since(status.At) <= deliver.MeterTime { // otherwise it has been idle since
			r.Rate = status.Rate
		}
	}
	if info.Oldest != 0 {
		r.Oldest = &info.Oldest
		r.OldestTime, err = times.timeAt(info.Oldest)
	}
	return r, err
}

// String formats the report for a person.
func (r *consumerReport) String() string {
	oldest := ""
	if r.Oldest != nil {
		oldest = ", oldest unfinished " + r.Oldest.String()
	}
	if r.OldestTime != nil {
		oldest += " (" + localTime(*r.OldestTime) + ")"
	}
	return fmt.Sprintf("%d done, %d under way, %s waiting, %d dead, %.1f/s", r.Done, r.UnderWay, count(r.Waiting, "storage"), r.Dead, r.Rate) + oldest
}
