package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/internal/source"
)

func newSourceCommand(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:     "source [COMMAND]",
		GroupID: groupTools,
		Short:   "Try, list, add and remove event streams of other servers",
		Long: `Sources are event streams of other servers, most of them not rstream's. "tail URL" and "sync
URL" follow one into a file of its own, and "serve --source" into a log. With the URL, log, state, get, windows, status and
verify read that file as they read a copy. "source add" gives a source a name, which --server takes.
docs/sources.md says which kinds of streams there are, and what each can promise.`,
		Example: `  rstream source try https://stream.wikimedia.org/v2/stream/recentchange
  rstream source add wiki https://stream.wikimedia.org/v2/stream/recentchange
  rstream tail -s wiki`,
		Args:                  knownCommand,
		DisableFlagsInUseLine: true,
		RunE:                  func(*cobra.Command, []string) error { return namedSources.runList(a) },
	}
	cmd.AddCommand(newSourceTryCommand(a), namedSources.newListCommand(a), newSourceAddCommand(a), newSourceResetCommand(a), namedSources.newRmCommand(a,
		`Remove named sources from the user's config file, all or none. Their files stay: a
source that is added again under the same name goes on where it was.`, `  rstream source rm wiki`))
	return cmd
}

// sourceFlags are the flags that describe a source.
type sourceFlags struct {
	kind        string
	cursor, id  string
	resume, end string
	user, path  string
	key, value  string
	where       string
	into        string
	since       string // an absolute time once it is in a file
	maxBytes    string
}

func (f *sourceFlags) addSourceFlags(cmd *cobra.Command) {
	flags := cmd.Flags()
	before := map[string]bool{}
	flags.VisitAll(func(f *pflag.Flag) { before[f.Name] = true })
	flags.StringVar(&f.kind, "kind", "", "`KIND` of the stream: "+strings.Join(source.KindNames(), ", ")+" (default: what the URL looks like, or else sse)")
	flags.StringVar(&f.cursor, "cursor", "", "`PLACE` of the cursor in a frame: id, json:NAME, line:NAME, event:TYPE:NAME or none")
	flags.StringVar(&f.id, "id", "", "`PLACE` of an event's id, if it is not the cursor")
	flags.StringVar(&f.resume, "resume", "", "`WAY` to send the cursor: header, query:NAME or users:NAME")
	flags.StringVar(&f.end, "end", "", "`MARK` of the end of the history: close, json:NAME, event:TYPE or event:TYPE:NAME")
	flags.StringVar(&f.user, "user", "", "jq `EXPRESSION` for the user (default: the source's name)")
	flags.StringVar(&f.path, "path", "", "jq `EXPRESSION` for the path (default: the event's type)")
	flags.StringVar(&f.key, "key", "", "jq `EXPRESSION` for the key (default: the event's id)")
	flags.StringVar(&f.value, "value", "", "jq `EXPRESSION` for the value (default: the data)")
	flags.StringVar(&f.where, "where", "", "jq `EXPRESSION`: take only events for which it is true")
	flags.StringVar(&f.into, "into", "", "refuse events that would be stored outside `TOPIC`")
	addMoment(cmd, &f.since, "since", "ask for the history since `MOMENT` only: wikimedia, ntfy")
	flags.VisitAll(func(f *pflag.Flag) {
		if !before[f.Name] {
			forLineOnly(flags, f.Name)
		}
	})
	completeFlag(cmd, "kind", source.KindNames()...)
}

// kindOf returns the kind of the stream at u, changed as the flags say.
func (f *sourceFlags) kindOf(u *url.URL) (k source.Kind, err error) {
	k = source.KindOf(u)
	if f.kind != "" {
		if k, err = source.KindNamed(f.kind); err != nil {
			return k, usagef("--kind: %w", err)
		}
	}
	for _, p := range []struct {
		name, text string
		place      *source.Place
	}{{"cursor", f.cursor, &k.Knobs.Cursor}, {"id", f.id, &k.Knobs.ID}} {
		if p.text == "" {
			continue
		}
		if *p.place, err = source.ParsePlace(p.text); err != nil {
			return k, usagef("--%s: %w", p.name, err)
		}
	}
	if f.resume != "" {
		if k.Knobs.Resume, err = source.ParseResume(f.resume); err != nil {
			return k, usagef("--resume: %w", err)
		}
	}
	if f.end != "" {
		if k.Knobs.End, k.Knobs.EndClose, err = source.ParseEnd(f.end); err != nil {
			return k, usagef("--end: %w", err)
		}
	}
	if f.since != "" {
		t, err := momentTime(f.since)
		if err == nil {
			k, err = k.BeginAt(t)
		}
		if err != nil {
			return k, usagef("--since: %w", err)
		}
	}
	for _, e := range []struct {
		text string
		to   *string
	}{{f.user, &k.Mapping.User}, {f.path, &k.Mapping.Path}, {f.key, &k.Mapping.Key}, {f.value, &k.Mapping.Value}, {f.where, &k.Mapping.Where}, {f.into, &k.Mapping.Into}} {
		if e.text != "" {
			*e.to = e.text
		}
	}
	return k, nil
}

// momentTime returns the time of a moment that has one.
func momentTime(text string) (time.Time, error) {
	now := time.Now()
	local, err := event.ParseLocalMoment(text, now)
	if err != nil {
		return time.Time{}, err
	}
	t, ok := local.Moment.Time(now)
	if !ok {
		return time.Time{}, errors.New("want a time or an age")
	}
	return t.Time(), nil
}

// maxFileBytes returns the size that bounds the file of a source.
func (f *sourceFlags) maxFileBytes() (n int64, err error) {
	if f.maxBytes == "" {
		return sourceMaxBytes, nil
	}
	if err := (*byteSize)(&n).Set(f.maxBytes); err != nil {
		return 0, usagef("--max-bytes: %w", err)
	}
	return n, nil
}

type tryOptions struct {
	sourceFlags
	n int
}

func newSourceTryCommand(a *app) *cobra.Command {
	o := tryOptions{n: 10}
	cmd := &cobra.Command{
		Use:   "try URL",
		Short: "Show the first frames of a stream and what would be stored",
		Long: `Connect to an event stream and show its first frames, each with the event that would be
stored of it. Nothing is written. In a pipe each frame is a line of JSON.`,
		Example: `  rstream source try https://stream.wikimedia.org/v2/stream/recentchange
  rstream source try https://example.com/sse --path .room --where '.bot | not'`,
		Args: argCount(1, 1, "the URL of a stream"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return runSourceTry(cmd.Context(), a, o, args[0])
		},
	}
	cmd.Flags().SortFlags = false
	cmd.Flags().Var(counter{&o.n, 1, 10_000}, "count", "show `N` frames")
	forLineOnly(cmd.Flags(), "count")
	o.addSourceFlags(cmd)
	return cmd
}

func runSourceTry(ctx context.Context, a *app, o tryOptions, address string) error {
	u, err := source.ParseURL(address)
	if err != nil {
		return usagef("URL: %w", err)
	}
	kind, err := o.kindOf(u)
	if err != nil {
		return err
	}
	mapper, err := source.NewMapper(u.Host, kind.Mapping)
	if err != nil {
		return usagef("--%w", err)
	}
	if err := a.out.printKind(&kind); err != nil {
		return err
	}
	a.source = &chosenSource{name: u.Host, url: address, kind: kind}
	if err := a.dropServerCredentials(); err != nil {
		return err
	}
	cfg := a.sourceConfig()
	return a.out.untilClosed(ctx, func(ctx context.Context) error {
		if a.timeout > 0 {
			var cancel context.CancelFunc
			ctx, cancel = context.WithTimeoutCause(ctx, a.timeout, errTryTimeout)
			defer cancel()
		}
		err := source.Try(ctx, cfg, mapper, o.n, func(t source.Trial) error {
			return errors.Join(a.out.printTrial(&t), a.out.flush())
		})
		if err != nil && errors.Is(context.Cause(ctx), errTryTimeout) {
			return &exitError{exitUnreachable, fmt.Sprintf("no more frames within %s", a.timeout), ""}
		}
		return sourceError(err)
	})
}

var errTryTimeout = errors.New("--timeout is over")

// sourceError adds the exit status of an error of a source.
func sourceError(err error) error {
	var status *source.StatusError
	var stream *source.StreamError
	var unreachable *source.UnreachableError
	var timeout *source.TimeoutError
	switch {
	case errors.As(err, &timeout):
		return &exitError{exitUnreachable, err.Error(), ""}
	case errors.Is(err, source.ErrMapping):
		return &exitError{exitUsage, err.Error(), "use the mapping of before, or run \"rstream source reset NAME\""}
	case errors.As(err, &stream) && stream.IsRstream:
		return &exitError{exitFailed, err.Error(), "follow it with \"rstream tail TOPIC -s URL\"; a source for a relay needs --kind rstream"}
	case errors.As(err, &unreachable) && wantsProxyAuth(unreachable.Err):
		return &exitError{exitUnreachable, err.Error(), proxyAuthHint}
	case errors.As(err, &status) && status.Status == http.StatusProxyAuthRequired:
		return &exitError{exitFailed, err.Error(), proxyAuthHint}
	case errors.As(err, &unreachable):
		return &exitError{exitUnreachable, err.Error(), cmp.Or(hintOfTLS(err, unreachable.URL), "check the name and the network")}
	case errors.As(err, &stream):
		return &exitError{exitFailed, err.Error(), "\"rstream doctor URL\" shows what answers there"}
	case errors.As(err, &status) && (status.Status == 401 || status.Status == 403):
		return &exitError{exitNotAllowed, err.Error(), "name a file with a token in --token-file"}
	}
	return err
}

// printKind says of which kind a source is taken to be.
func (o *output) printKind(k *source.Kind) error {
	if !o.isForPerson() {
		return nil
	}
	return errors.Join(o.printf("kind %s: the cursor is %s, and is sent as %s\n", k.Name, k.Knobs.Cursor, k.Knobs.Resume), o.flush())
}

// A trialLine is a frame of a stream, as source try prints it.
type trialLine struct {
	Type   string     `json:"type"` // event, or frame if it is none
	ID     string     `json:"id,omitempty"`
	Cursor string     `json:"cursor,omitempty"`
	Event  string     `json:"event,omitempty"` // its type
	Data   string     `json:"data"`
	Stored *draftLine `json:"stored,omitempty"`
	Left   bool       `json:"left_out,omitempty"`
	Error  string     `json:"error,omitempty"`
}

// A draftLine is the append that a frame would become.
type draftLine struct {
	User  string     `json:"user"`
	Path  string     `json:"path"`
	Type  event.Type `json:"type"`
	Key   string     `json:"key"`
	Value rawValue   `json:"value"`
}

// A rawValue is a value that is JSON already.
type rawValue []byte

// MarshalJSON returns the value.
func (v rawValue) MarshalJSON() ([]byte, error) { return v, nil }

// printTrial prints a frame and what would be stored of it.
func (o *output) printTrial(t *source.Trial) error {
	if o.isForPerson() {
		return o.printTrialText(t)
	}
	line := trialLine{Type: "frame", ID: t.ID, Cursor: t.Cursor, Event: t.Type, Data: string(t.Data), Left: t.Event && !t.Taken && t.Err == nil}
	if t.Event {
		line.Type = "event"
	}
	if t.Taken {
		line.Stored = &draftLine{t.Draft.User, t.Draft.Path, t.Draft.Type, t.Draft.Key, t.Draft.Value}
	}
	if t.Err != nil {
		line.Error = t.Err.Error()
	}
	return o.writeJSON(line)
}

func (o *output) printTrialText(t *source.Trial) error {
	what := "no event"
	if t.Event {
		what = "event"
	}
	if t.Type != "" {
		what += " of type " + t.Type
	}
	switch {
	case t.ID != "":
		what += ", id " + t.ID
	case t.Event:
		what += " without an id"
	}
	if t.Cursor != "" && t.Cursor != t.ID {
		what += ", cursor " + t.Cursor
	}
	lines := []column{{text: visible(what)}}
	if err := o.printLine(lines...); err != nil || !t.Event {
		return err
	}
	switch {
	case t.Err != nil:
		return o.printLine(column{text: "  refused: " + visible(t.Err.Error())})
	case !t.Taken:
		return o.printLine(column{text: "  left out"})
	}
	return o.printLine(column{text: "  " + visible(t.Draft.User), style: styleUser}, column{text: "/" + visible(t.Draft.Path), joined: true},
		column{text: visible(string(t.Draft.Value))})
}

// printLine prints columns as one line of the screen.
func (o *output) printLine(columns ...column) error {
	_, err := o.w.WriteString(o.screenLine(columns...) + "\n")
	return o.nameOutput(err)
}
