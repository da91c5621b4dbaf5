package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"time"

	"github.com/mattn/go-runewidth"
	"github.com/spf13/cobra"

	"github.com/rstream-dev/rstream/cache"
	"github.com/rstream-dev/rstream/client"
	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/internal/wire"
	"github.com/rstream-dev/rstream/window"
)

type statusOptions struct {
	ready  bool
	check  bool
	maxLag time.Duration
}

func newStatusCommand(a *app) *cobra.Command {
	var o statusOptions
	cmd := &cobra.Command{
		Use:         "status [URL]",
		GroupID:     groupInspect,
		Annotations: map[string]string{silentAnnotation: silentIfChecked},
		Short:       "Print what the local copy holds, and its server",
		Long: `Print what the local copy holds, how far behind the server it is, and which server it
follows. Of a relay, status also prints how each source is. If the server cannot be
reached, status says so and still exits with 0. The exit status is 1 if the server's log
was rolled back to an older file. If the copy is known to differ from the server, the
output says where, and the status is 3 until a sync or verify finds both equal.

"not fetched again" counts events that were asked for but already held, over the life of
the copy.

--check makes status a health check. The exit status is 1 if the copy is behind: if the
server has had an event of a followed topic for longer than --max-lag, by this machine's
clock, and the copy does not have it. It is 5 if the server cannot be reached. With -q,
nothing but the reason is printed.

--ready is a health check of a server: it asks only whether the server can read its log,
which needs no token and no copy. The exit status is 0, 1 if it cannot, or 5.`,
		Example: `  rstream status
  rstream status -o json | jq .lag
  rstream status --check -q --max-lag 10m
  rstream status --ready -q -s http://127.0.0.1:8420`,
		Args: afterURL(noArgs),
		RunE: func(cmd *cobra.Command, args []string) error {
			if _, err := a.chooseURL(cmd, args); err != nil {
				return err
			}
			if o.maxLag < 0 {
				return usagef("--max-lag %s: want a duration such as 5m", o.maxLag)
			}
			if a.source != nil {
				if o.ready || o.check {
					return usagef("--ready and --check need a server, and %s is a source", a.source.name)
				}
				return runSourceStatus(cmd.Context(), a)
			}
			if o.ready {
				return runReady(cmd.Context(), a)
			}
			return runStatus(cmd.Context(), a, o)
		},
	}
	f := cmd.Flags()
	f.SortFlags = false
	f.BoolVar(&o.ready, "ready", false, "only ask whether the server can read its log")
	f.BoolVar(&o.check, "check", false, "fail if the copy is behind or the server cannot be reached")
	f.DurationVar(&o.maxLag, "max-lag", 5*time.Minute, "with --check, how long an event may be missing: a `DURATION`")
	excludeFlags(cmd, "ready", "check", "max-lag")
	return cmd
}

// A statusReport is the output of status. Members about the server are omitted if it
// cannot be reached or answers with an error, those about the file if there is none.
type statusReport struct {
	Type      string         `json:"type"`
	Server    string         `json:"server"`
	Reachable bool           `json:"reachable"`
	Error     string         `json:"error,omitempty"`
	ServerLog string         `json:"server_log,omitempty"`
	Head      *event.ID      `json:"head,omitempty"`
	Horizon   *event.ID      `json:"horizon,omitempty"`
	File      string         `json:"file,omitempty"`
	Log       string         `json:"log,omitempty"`
	Role      cache.Role     `json:"role,omitempty"`
	Events    int64          `json:"events"`
	Storages  int64          `json:"storages"`
	Bytes     int64          `json:"bytes"`
	Fetched   int64          `json:"fetched"`           // events received so far
	Received  int64          `json:"received"`          // bytes of their lines
	Saved     int64          `json:"saved"`             // events that were requested and already held
	Reached   *event.ID      `json:"reached,omitempty"` // the newest position held of any topic
	Lag       *uint64        `json:"lag,omitempty"`     // ids from there to the head
	Queued    int64          `json:"queued"`            // appends waiting to be sent
	Refused   int64          `json:"refused"`           // appends that a server refused
	Imported  int64          `json:"imported"`          // events that were imported and are not yet held
	Foreign   int64          `json:"foreign"`           // events imported from other logs
	Followed  []event.Topic  `json:"followed"`
	Windows   map[string]int `json:"windows"`
	Cursors   []cursorReport `json:"cursors"`
	Doubted   []doubtLine    `json:"doubted"` // ranges in which the copy was found to differ from the server

	Servers []serverReport `json:"servers,omitempty"` // if there are several

	// With --check: when the server got its oldest event that follows those held.
	MissingSince *event.Time `json:"missing_since,omitempty"`

	// The times of Head and Reached, if they are known.
	HeadTime    *event.Time `json:"head_time,omitempty"`
	ReachedTime *event.Time `json:"reached_time,omitempty"`

	// Those of a relay, if they may be seen.
	Sources []client.Source `json:"sources,omitempty"`

	newest  string // the server with the newest head, if there are several
	failure error  // why the server did not answer
	older   bool   // a followed topic is not held up to Reached
}

type cursorReport struct {
	Name     string   `json:"name"`
	Topics   []string `json:"topics"`
	Position event.ID `json:"position"`
	Held     bool     `json:"held"`
	Damaged  bool     `json:"damaged,omitempty"` // its row is; nothing else is certain

	Time *event.Time `json:"time,omitempty"` // of the position, if it is known
	*consumerReport
}

func newCursorReport(c cache.CursorInfo, times *positionTimes) (r cursorReport, err error) {
	r = cursorReport{Name: c.Name, Topics: append([]string{}, c.Topics...), Position: c.Position, Held: c.Held, Damaged: c.Damaged}
	if r.Time, err = times.timeAt(c.Position); err != nil || c.Damaged {
		return r, err
	}
	r.consumerReport, err = newConsumerReport(&c, times)
	return r, err
}

// probeTime is how long status waits for a server.
const probeTime = 3 * time.Second

// runReady asks the server whether it is ready.
func runReady(ctx context.Context, a *app) error {
	ctx, cancel := context.WithTimeout(ctx, probeTime)
	defer cancel()
	server := wire.RedactURL(a.servers[0])
	if err := client.Ready(ctx, a.clientConfig()); errors.Is(err, context.DeadlineExceeded) {
		return &exitError{exitUnreachable, fmt.Sprintf("status: no answer from %s within %s", server, probeTime), ""}
	} else if err != nil {
		return fmt.Errorf("status: %w", err)
	}
	switch {
	case a.quiet:
		return nil
	case a.out.isForPerson():
		return a.out.printf("%s is ready\n", visible(server))
	}
	return a.out.writeJSON(struct {
		Type   string `json:"type"`
		Server string `json:"server"`
		Ready  bool   `json:"ready"`
	}{"ready", server, true})
}

func runStatus(ctx context.Context, a *app, o statusOptions) error {
	r := statusReport{Type: "status", Server: wire.RedactURL(a.servers[0]), Followed: []event.Topic{}, Windows: map[string]int{}, Cursors: []cursorReport{}, Doubted: []doubtLine{}}
	if err := r.askServers(ctx, a); err != nil {
		return err
	}
	db, err := r.openCopy(ctx, a)
	if err != nil {
		return err
	}
	if db != nil {
		defer db.Close()
		if err := r.readCopy(ctx, a, db); err != nil {
			return err
		}
	}
	found := r.compareServer(ctx, a, db, o)
	if r.Head != nil && r.Reached != nil && r.ServerLog == r.Log && !errors.As(found, new(*client.RolledBackError)) {
		lag := uint64(*r.Head - min(*r.Reached, *r.Head))
		r.Lag = &lag
	}
	print := func() error { return a.out.writeJSON(r) }
	if a.out.isForPerson() {
		print = func() error { return r.printStatus(a.out) }
	}
	if o.check && a.quiet {
		print = func() error { return nil }
	}
	if err := errors.Join(print(), found); err != nil || len(r.Doubted) == 0 {
		return err
	}
	return &exitError{status: exitGap}
}

// compareServer compares the copy with the server: whether its log was rolled back and, for
// a health check, whether everything is well. db is nil if there is no copy.
func (r *statusReport) compareServer(ctx context.Context, a *app, db *cache.DB, o statusOptions) error {
	if o.check {
		if err := r.checkComparable(a); err != nil {
			return err
		}
	}
	if r.Head == nil || r.ServerLog != r.Log || r.Role != cache.Client {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, probeTime)
	defer cancel()
	cfg := a.statusConfig()
	if r.newest != "" {
		cfg.Servers = []string{r.newest}
	}
	err := r.compareWith(ctx, cfg, db, o)
	if errors.As(err, new(*client.RolledBackError)) && len(a.servers) > 1 {
		err = r.compareWith(ctx, a.statusConfig(), db, o) // it counts only if all servers say so
	}
	return err
}

// compareWith is compareServer with a configuration.
func (r *statusReport) compareWith(ctx context.Context, cfg client.Config, db *cache.DB, o statusOptions) error {
	c, err := client.New(db, cfg)
	if err != nil {
		return o.orNil(err)
	}
	defer c.Close()
	_, err = c.Info(ctx)
	if errors.As(err, new(*client.RolledBackError)) {
		return fmt.Errorf("status: %w", err)
	}
	if err != nil || !o.check {
		return o.orNil(r.nameLate(err))
	}
	return r.nameLate(r.checkLag(ctx, c, o))
}

// nameLate returns err, or that the server has not answered if that is the reason for it: then
// it is not known whether the copy is behind.
func (r *statusReport) nameLate(err error) error {
	if errors.Is(err, context.DeadlineExceeded) {
		return &exitError{exitUnreachable, fmt.Sprintf("status: no answer from %s within %s", r.Server, probeTime), ""}
	}
	return err
}

// orNil returns err for a health check. Otherwise what matters has been reported.
func (o statusOptions) orNil(err error) error {
	if o.check {
		return err
	}
	return nil
}

// checkComparable returns an error if there is nothing to compare.
func (r *statusReport) checkComparable(a *app) error {
	switch {
	case r.failure != nil:
		return fmt.Errorf("status: %w", r.failure)
	case r.File == "":
		return a.noCopyError()
	case r.Role != cache.Client:
		return usagef("%s is a server's file; --check is for copies", r.File)
	case r.ServerLog != r.Log:
		return &client.OtherLogError{URL: a.servers[0], Got: r.ServerLog, Want: r.Log}
	case len(r.Followed) == 0:
		return &exitError{exitFailed, r.File + " follows no topic yet", "fetch one with \"rstream sync TOPIC\""}
	}
	return nil
}

// checkLag returns an error if an event has been missing for too long.
func (r *statusReport) checkLag(ctx context.Context, c *client.Client, o statusOptions) error {
	ev, err := c.OldestMissing(ctx, r.Followed...)
	if err != nil || ev == nil {
		return err
	}
	r.MissingSince = &ev.Time
	lag := time.Since(ev.Time.Time())
	if lag <= o.maxLag {
		return nil
	}
	return &exitError{exitFailed, fmt.Sprintf("the copy is %s behind: event %s of %s is missing", lag.Round(time.Second), ev.ID, localTime(ev.Time)),
		"\"rstream sync\" fetches the missing events of all followed topics"}
}

// askServers asks the server for its Info or, if there are several, each of them.
func (r *statusReport) askServers(ctx context.Context, a *app) error {
	ctx, cancel := context.WithTimeout(ctx, probeTime)
	defer cancel()
	c, err := client.New(nil, a.statusConfig())
	if err == nil {
		defer c.Close()
		err = r.probeServers(ctx, a, c)
	}
	if err == nil {
		r.addFromServer(ctx, c)
	} else {
		if errors.As(err, new(*usageError)) {
			return err
		}
		r.Error, r.Reachable = probeProblem(err)
		r.failure = r.nameLate(err)
	}
	return context.Cause(contextWithoutDeadline(ctx))
}

// probeServers reports the server and, if there are several, each. The one with the newest head
// stands for all.
func (r *statusReport) probeServers(ctx context.Context, a *app, c *client.Client) error {
	if len(a.servers) == 1 {
		info, err := c.Info(ctx)
		if err == nil {
			r.describeLog(info)
		}
		return err
	}
	infos, err := c.Survey(ctx)
	if err != nil {
		return err
	}
	r.Servers = newServerReports(infos)
	if err := c.CheckServers(ctx); err != nil {
		return err
	}
	for i := range infos {
		if of := &infos[i]; of.Err == nil && (r.Head == nil || of.Head.ID > *r.Head) {
			r.newest = of.URL
			r.describeLog(of.Info)
		}
	}
	if r.Head != nil {
		return nil
	}
	for i := range infos {
		if _, answered := probeProblem(infos[i].Err); answered {
			return infos[i].Err
		}
	}
	return infos[0].Err
}

// statusConfig is clientConfig without notes of servers that are left: the report says so.
func (a *app) statusConfig() client.Config {
	cfg := a.clientConfig()
	cfg.OnLeave = nil
	return cfg
}

// describeLog reports the log of a server.
func (r *statusReport) describeLog(info client.Info) {
	r.Reachable, r.ServerLog, r.Head, r.Horizon = true, info.Log, &info.Head.ID, &info.Horizon.ID
}

// addFromServer adds what matters less: the time of the server's head, and its sources.
func (r *statusReport) addFromServer(ctx context.Context, c *client.Client) {
	if t, ok, err := c.HeadTime(ctx); err == nil && ok {
		r.HeadTime = &t
	}
	if sources, err := c.Sources(ctx); err == nil {
		r.Sources = sources
	}
}

// contextWithoutDeadline removes an expired deadline: a slow probe must not fail the
// command, but a signal must.
func contextWithoutDeadline(ctx context.Context) context.Context {
	if errors.Is(ctx.Err(), context.DeadlineExceeded) {
		return context.WithoutCancel(ctx)
	}
	return ctx
}

// openCopy opens the copy. It returns nil if there is none.
func (r *statusReport) openCopy(ctx context.Context, a *app) (*cache.DB, error) {
	path, _, err := a.copyPath()
	if err == nil && path == "" && r.ServerLog != "" {
		// The copy may exist already, from another server of this log or another name
		// of this server.
		path, err = cacheFileOf(r.ServerLog)
	}
	if err != nil || path == "" {
		return nil, err
	}
	db, err := a.openDB(ctx, path, cache.Config{})
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return db, err
}

func (r *statusReport) readCopy(ctx context.Context, a *app, db *cache.DB) error {
	r.File, r.Log, r.Role = db.Path(), db.Log(), db.Role()
	if err := r.readCounts(ctx, db); err != nil {
		return err
	}
	if len(r.Servers) > 0 {
		if err := r.addServerNotes(ctx, a, db); err != nil {
			return err
		}
	}
	return r.readProgress(ctx, db)
}

// readCounts reads how much the file holds, and how much it has fetched.
func (r *statusReport) readCounts(ctx context.Context, db *cache.DB) error {
	n, err := db.Count(ctx)
	if err != nil {
		return err
	}
	r.Events, r.Storages, r.Bytes = n.Events, n.Storages, n.Bytes
	tally, err := db.Tally(ctx)
	if err != nil {
		return err
	}
	r.Fetched, r.Received, r.Saved = tally.Fetched, tally.Received, tally.Saved
	aside, err := db.Aside(ctx)
	if err != nil {
		return err
	}
	r.Queued, r.Refused, r.Imported, r.Foreign = aside.Queued, aside.Refused, aside.Candidates, aside.Foreign
	return nil
}

// readProgress reads which topics are followed, and how far the windows and cursors are.
func (r *statusReport) readProgress(ctx context.Context, db *cache.DB) error {
	followed, err := db.Followed(ctx)
	if err != nil {
		return err
	}
	r.Followed = append(r.Followed, followed...) // a list in JSON, even if empty
	windows, err := db.Windows(ctx)
	if err != nil {
		return err
	}
	for i := range windows {
		w := &windows[i]
		r.Windows[w.State.String()]++
		if end := w.Held().To; r.Reached == nil || end > *r.Reached {
			r.Reached = &end
		}
	}
	if r.Doubted, err = doubtLines(ctx, db); err != nil {
		return err
	}
	if r.older, err = r.anyOlder(ctx, db); err != nil {
		return err
	}
	times := newPositionTimes(ctx, db)
	if err := r.addTimes(times); err != nil {
		return err
	}
	cursors, err := db.Cursors(ctx)
	for _, c := range cursors {
		report, err := newCursorReport(c, times)
		if err != nil {
			return err
		}
		r.Cursors = append(r.Cursors, report)
	}
	return err
}

// addTimes adds the times of the positions.
func (r *statusReport) addTimes(times *positionTimes) (err error) {
	if r.Reached != nil {
		if r.ReachedTime, err = times.timeAt(*r.Reached); err != nil {
			return err
		}
	}
	for i := range r.Doubted {
		d := &r.Doubted[i]
		if d.FromTime, d.ToTime, err = times.spanTimes(window.Span{From: d.From, To: d.To}); err != nil {
			return err
		}
	}
	return nil
}

// anyOlder reports whether some followed topic is not held up to r.Reached, the newest
// position of any topic.
func (r *statusReport) anyOlder(ctx context.Context, db *cache.DB) (bool, error) {
	if r.Reached == nil || *r.Reached == event.Beginning {
		return false, nil
	}
	for _, t := range r.Followed {
		held, err := db.Held(ctx, t)
		if err != nil {
			return true, err
		}
		start, err := db.FollowedSince(ctx, t)
		if err != nil || max(start, held.EndAfter(*r.Reached-1)) < *r.Reached {
			return true, err
		}
	}
	return false, nil
}

func (r *statusReport) printStatus(out *output) error {
	row := func(name, format string, args ...any) {
		_ = out.printf("%-9s %s\n", name, visible(fmt.Sprintf(format, args...))) // flush returns the error
	}
	switch {
	case len(r.Servers) > 0:
		r.printServers(row)
	case r.Head != nil:
		row("server", "%s, log %s, head %s", r.Server, r.ServerLog, *r.Head)
		if r.HeadTime != nil {
			row("head", "%s", localTime(*r.HeadTime))
		}
	case r.Reachable: // it answered with an error
		row("server", "%s: %s", r.Server, r.Error)
	default:
		row("server", "%s, not reachable: %s", r.Server, r.Error)
	}
	for i := range r.Sources {
		connection, counts := describeSource(&r.Sources[i])
		row("source", "%s", connection)
		row("", "%s", counts)
	}
	if r.File == "" {
		row("file", "none yet; \"rstream sync\" creates it")
		return out.flush()
	}
	row("file", "%s, %s, %s's file of log %s", r.File, formatSize(r.Bytes), r.Role, r.Log)
	row("events", "%d in %s", r.Events, count(r.Storages, "storage"))
	if r.Reached != nil {
		lag := ""
		if r.Lag != nil {
			lag = fmt.Sprintf(", %s behind", count(*r.Lag, "event"))
			switch {
			case *r.Lag == 0 && r.older:
				lag = ""
			case *r.Lag == 0 && len(r.Doubted) == 0:
				lag = ", up to date"
			}
		}
		row("reached", "%s%s%s", *r.Reached, afterComma(r.ReachedTime), lag)
	}
	if r.Role == cache.Client {
		row("fetched", "%s, %s; %s not fetched again", count(r.Fetched, "event"), formatSize(r.Received), count(r.Saved, "event"))
	}
	if r.Queued > 0 || r.Refused > 0 {
		row("outbox", "%s to send, %d refused", count(r.Queued, "append"), r.Refused)
	}
	if r.Imported > 0 || r.Foreign > 0 {
		row("imported", "%s not held, %d of other logs", count(r.Imported, "event"), r.Foreign)
	}
	row("followed", "%s", orNothing(topicList(r.Followed)))
	var states []string
	for _, s := range []string{"committed", "live", "pulling", "pending", "failed"} {
		if n := r.Windows[s]; n > 0 {
			states = append(states, fmt.Sprintf("%d %s", n, s))
		}
	}
	row("windows", "%s", orNothing(strings.Join(states, ", ")))
	for _, d := range r.Doubted {
		row("differs", "%s between %s and %s%s; run \"rstream sync %s\"", d.Topic, positionName(d.From), d.To, spanText(d.FromTime, d.ToTime), shellWord(d.Topic.String()))
	}
	for _, c := range r.Cursors {
		row("cursor", "%s", c)
	}
	return out.flush()
}

// describeSource says how a source of a relay is: whether it is connected, and what was stored
// of it.
func describeSource(s *client.Source) (connection, counts string) {
	since := ""
	if s.Since != nil {
		since = " since " + localTime(*s.Since)
	}
	connection = s.Name + " (" + s.Kind + "), " + s.URL + ", connected" + since
	switch {
	case !s.Connected:
		connection = s.Name + " (" + s.Kind + "), " + s.URL + ", not connected" + since
		if s.Trouble != "" {
			connection += ": " + s.Trouble
		}
	case s.Behind != nil && *s.Behind == 0:
		connection += ", up to date"
	case s.Behind != nil:
		connection += ", " + count(*s.Behind, "id") + " behind"
	}
	counts = fmt.Sprintf("%s, %s", count(s.Events, "event"), formatSize(s.Bytes))
	if s.Cursor != "" {
		counts += ", up to " + runewidth.Truncate(s.Cursor, 60, "…") // that of Wikimedia is long
	}
	return connection, counts + fmt.Sprintf("; %s, %d refused", count(s.Gaps, "gap"), s.Refused)
}

func orNothing(s string) string {
	if s == "" {
		return strings.TrimSpace(nothingYet)
	}
	return s
}
