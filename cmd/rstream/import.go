package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/rstream-dev/rstream/cache"
	"github.com/rstream-dev/rstream/client"
	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/internal/tempfile"
	"github.com/rstream-dev/rstream/internal/wire"
)

type importOptions struct{ log string }

func newImportCommand(a *app) *cobra.Command {
	var o importOptions
	cmd := &cobra.Command{
		Annotations: map[string]string{silentAnnotation: silentIfQuiet},

		Use:     "import FILE",
		GroupID: groupTools,
		Short:   "Import events; the next sync verifies them",
		Long: `Read events written by "rstream export" into the local copy; FILE - is standard input.
They stay invisible until the next sync has compared them with the server: events that
agree are kept as if they had been fetched, and only the rest is fetched. Events of
another log are stored by hash, and reused if the server's log has them too.

A copy that does not exist is created: for the log of --server if that flag is on the
command line, otherwise for the log named in the file. To move to another server with
the same events, export from the old one, import for the new one, and sync.

The file may be compressed with gzip or zstd. Every line is checked; if one is invalid,
nothing is imported.`,
		Example: `  rstream import alice.jsonl
  rstream import all.jsonl.gz
  rstream export --all --server OLD | rstream import - --server NEW
  rstream import old.jsonl --log 5ZC8Y0M7Q2KJ4T1R`,
		Args: argCount(1, 1, "one file, or - for standard input"),
		RunE: func(cmd *cobra.Command, args []string) error { return runImport(cmd.Context(), a, o, args[0]) },
	}
	addProgress(a, cmd)
	cmd.Flags().StringVar(&o.log, "log", "", "log `ID` of events without a header line, as printed by \"rstream log\"")
	return cmd
}

func runImport(ctx context.Context, a *app, o importOptions, path string) error {
	if o.log != "" {
		if err := checkLogID(o.log); err != nil {
			return err
		}
	}
	a.out.outlive()
	f, name, done, err := a.openTwice(ctx, path)
	if err != nil {
		return err
	}
	defer done()
	t := importTarget{a: a}
	defer t.closeCopy()
	im := importing{name: name, given: o.log}
	defer a.progress.end() // before t.closeCopy
	if info, err := f.Stat(); err == nil {
		a.progress.report(stage{verb: "checking", object: name, unit: inBytes}, 0, info.Size())
	}
	if err := im.readEvents(f, a.progress.add, func(evs []event.Event, log string) error { return t.checkForeign(ctx, evs, log) }); err != nil {
		return err
	}
	if im.first == "" {
		return &exitError{status: exitFailed, text: name + ": the file is empty", hint: "nothing was imported"}
	}
	if err := t.openTarget(ctx, im.first); err != nil {
		return err
	}
	a.progress.report(stage{verb: "importing", object: name}, 0, int64(im.events))
	add := func(evs []event.Event, log string) error {
		err := im.addEvents(ctx, t.db, evs, log)
		a.progress.add(int64(len(evs)))
		return err
	}
	if err := im.rereadFile(f, add); err != nil {
		return err
	}
	a.recordDone("the events were imported")
	return im.reportFile(a)
}

// An importTarget is the copy that receives the events: the one named by --cache; else
// that of the server's log, if the log is known or the server was named; else that of
// the file's own log.
type importTarget struct {
	a         *app
	path, log string
	learned   bool      // the log was asked from the server
	db        *cache.DB // nil until it is needed, and while there is no file
}

func (t *importTarget) closeCopy() {
	if t.db != nil {
		t.db.Close()
	}
}

// findCopy determines the copy and opens it if it exists.
func (t *importTarget) findCopy(ctx context.Context, fileLog string) (err error) {
	if t.log != "" {
		return nil
	}
	if t.path, t.log, err = t.a.cacheFile(ctx); err != nil {
		return err
	}
	if t.log == "" && t.a.named {
		info, err := client.Probe(ctx, t.a.clientConfig())
		if err != nil {
			return fmt.Errorf("ask which log to import for: %w", err)
		}
		t.log, t.learned = info.Log, true
	}
	if t.log == "" {
		t.log = fileLog
	}
	if t.path == "" {
		if t.path, err = cacheFileOf(t.log); err != nil {
			return err
		}
	}
	if info, err := os.Stat(t.path); err != nil || info.Size() == 0 {
		return nil // if there is more wrong, cache.Open reports it
	}
	t.db, err = t.a.openDB(ctx, t.path, cache.Config{Role: cache.Client, Log: t.log})
	return err
}

// checkForeign rejects events of the copy's log that contradict the log.
func (t *importTarget) checkForeign(ctx context.Context, evs []event.Event, log string) error {
	if err := t.findCopy(ctx, log); err != nil || t.db == nil || t.log != log {
		return err
	}
	err := t.db.Imports().CheckCandidates(ctx, evs)
	var conflict *cache.ConflictError
	if errors.As(err, &conflict) || errors.Is(err, cache.ErrNotInLog) {
		return &exitError{exitFailed, err.Error(), "nothing was imported: the file is modified, or of another log"}
	}
	return err
}

// openTarget opens the copy, and creates it if it does not exist.
func (t *importTarget) openTarget(ctx context.Context, fileLog string) error {
	if err := t.findCopy(ctx, fileLog); err != nil || t.db != nil {
		return err
	}
	if err := t.makeRoom(); err != nil {
		return err
	}
	db, err := t.a.openDB(ctx, t.path, cache.Config{Role: cache.Client, Log: t.log})
	if err == nil {
		t.db = db
	}
	return err
}

// makeRoom makes the folder of a copy that was not named, and remembers which log the
// server serves.
func (t *importTarget) makeRoom() (err error) {
	switch {
	case t.learned:
		_, err = t.a.newCacheFile(t.a.cache, t.log)
	case t.a.cache == "":
		_, err = newDataFile(t.log)
	}
	return err
}

// openTwice opens a file that can be read more than once: input from a pipe is copied
// to a temporary file first.
func (a *app) openTwice(ctx context.Context, path string) (f *os.File, name string, done func(), err error) {
	var in io.Reader = a.in
	name = "standard input"
	done = func() {}
	if path != "-" {
		file, err := openInput(ctx, path)
		if err != nil {
			return nil, "", nil, err
		}
		in, name, done = file, path, func() { file.Close() }
	}
	if file, ok := in.(*os.File); ok {
		if info, err := file.Stat(); err == nil && info.Mode().IsRegular() {
			return file, name, done, nil
		}
	}
	defer done() // after the copy
	tmp, err := tempfile.Create("", "rstream-import-")
	if err != nil {
		return nil, "", nil, err
	}
	if !isTerminal(in) {
		a.progress.report(stage{verb: "reading", object: name, unit: inBytes}, 0, 0)
	}
	if err := copyAll(ctx, tmp, &countingReader{r: in, count: a.progress.add}); err != nil {
		tmp.Close()
		return nil, "", nil, fmt.Errorf("read %s: %w", name, err)
	}
	return tmp, name, func() { tmp.Close() }, nil
}

// copyAll copies in to tmp and rewinds tmp. If ctx ends first, the read continues until
// the program ends: a read from a terminal cannot be interrupted.
func copyAll(ctx context.Context, tmp *os.File, in io.Reader) error {
	done := make(chan error, 1)
	go func() {
		_, err := io.Copy(tmp, in)
		done <- err
	}()
	select {
	case err := <-done:
		if err == nil {
			_, err = tmp.Seek(0, io.SeekStart)
		}
		return err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// An importing reads a file of events more than once.
type importing struct {
	name  string
	given string // --log
	start int64  // offset of the file when it was opened
	size  int64  // bytes read the first time

	first      string // the log of the first events
	events     int
	candidates int
	foreign    int
	missing    uint64 // events announced by a header that do not follow
	topics     int    // the same for topics
}

// readEvents checks every line of f and passes the events to fn, those of one log at a
// time. It calls count with the bytes that it reads.
func (im *importing) readEvents(f *os.File, count func(int64), fn func(evs []event.Event, log string) error) (err error) {
	if im.start, err = f.Seek(0, io.SeekCurrent); err != nil {
		return err
	}
	counted := &countingReader{r: f, count: count}
	r := importReader{importing: im, lines: wire.NewLineReader(newPlainReader(counted), wire.MaxLine), fn: fn, log: im.given}
	if err := r.readImport(); err != nil {
		return err
	}
	im.size, im.events, im.missing, im.topics = counted.n, r.events, r.missing, r.topicsMissing
	return r.bad.asError(im.name, "nothing was imported")
}

// rereadFile reads the same bytes as readEvents.
func (im *importing) rereadFile(f *os.File, fn func(evs []event.Event, log string) error) error {
	if _, err := f.Seek(im.start, io.SeekStart); err != nil {
		return err
	}
	r := importReader{importing: im, lines: wire.NewLineReader(newPlainReader(io.LimitReader(f, im.size)), wire.MaxLine), fn: fn, log: im.given}
	if err := r.readImport(); err != nil {
		return err
	}
	return r.bad.asError(im.name, "the file was changed while it was read, and some of it may have been imported")
}

func (im *importing) addEvents(ctx context.Context, db *cache.DB, evs []event.Event, log string) error {
	if log != db.Log() {
		n, err := db.Imports().AddForeign(ctx, evs)
		im.foreign += n
		return err
	}
	n, err := db.Imports().AddCandidates(ctx, evs)
	im.candidates += n
	return err
}

// reportFile prints the result of an import.
func (im *importing) reportFile(a *app) error {
	known := im.events - im.candidates - im.foreign
	var err error
	switch {
	case a.quiet:
	case a.out.isForPerson():
		err = a.out.printf("%s: %s: %d to be proven, %d of another log, %d known\n",
			im.name, count(im.events, "event"), im.candidates, im.foreign, known)
	default:
		err = a.out.writeJSON(struct {
			Type       string `json:"type"`
			Events     int    `json:"events"`     // in the file
			Candidates int    `json:"candidates"` // of this log, to be proven
			Foreign    int    `json:"foreign"`    // of other logs
			Known      int    `json:"known"`      // events that the copy already had
		}{"imported", im.events, im.candidates, im.foreign, known})
	}
	var missing []string
	if im.missing > 0 {
		missing = append(missing, count(im.missing, "event"))
	}
	if im.topics > 0 {
		missing = append(missing, count(im.topics, "topic"))
	}
	if err != nil || len(missing) == 0 {
		return err
	}
	return &exitError{exitGap, fmt.Sprintf("%s is incomplete: %s missing", im.name, strings.Join(missing, " and ")),
		"the rest was imported; the next sync fetches the missing ones"}
}

// An importReader reads a file once.
type importReader struct {
	*importing
	lines *wire.LineReader
	fn    func(evs []event.Event, log string) error

	log    string // of the events that follow
	batch  []event.Event
	bytes  int
	events int
	left   uint64 // events that the last header announces
	more   int    // topics that it announces
	bad    invalidLines

	missing       uint64
	topicsMissing int
}

// readImport returns an error of fn or of reading. Errors of single lines are in bad.
func (r *importReader) readImport() error {
	for {
		line, err := r.lines.Next()
		if errors.Is(err, io.EOF) {
			r.endExport(exportStart{})
			return r.passEvents()
		}
		if errors.Is(err, wire.ErrLineTooLong) {
			r.bad.addInvalid(r.lines.Number(), wire.ErrLineTooLong) // the rest cannot be read
			return nil
		}
		if err != nil {
			return fmt.Errorf("read %s: %w", r.name, err)
		}
		if head, ok := exportHead(line); ok {
			if err := r.passEvents(); err != nil {
				return err
			}
			r.endExport(head)
			r.log, r.left, r.more = head.Log, head.Count, head.More
			r.noteLog()
		} else if err := r.takeLine(line); err != nil {
			r.bad.addInvalid(r.lines.Number(), err)
		}
		if len(r.batch) >= maxBatchLen || r.bytes >= maxBatchBytes {
			if err := r.passEvents(); err != nil {
				return err
			}
		}
	}
}

// passEvents passes the events read so far to fn.
func (r *importReader) passEvents() error {
	evs := r.batch
	r.batch, r.bytes = nil, 0
	if len(evs) == 0 || len(r.bad.numbers) > 0 {
		return nil
	}
	return r.fn(evs, r.log)
}

// endExport counts the events and topics that the last header announced and that did
// not follow. next is the next header, zero at the end of the file.
func (r *importReader) endExport(next exportStart) {
	r.missing += r.left
	if r.more > 0 && (next.Log == "" || next.More != r.more-1) {
		r.topicsMissing += r.more
	}
}

// An exportStart has the members of an exportLine that import needs.
type exportStart struct {
	Log   string `json:"log"`
	Count uint64 `json:"count"`
	More  int    `json:"more"`
}

// exportHead parses the line that precedes the events of a topic.
func exportHead(line []byte) (head exportStart, ok bool) {
	if !bytes.HasPrefix(line, []byte(`{"type":"export",`)) {
		return head, false
	}
	err := json.Unmarshal(line, &head)
	return head, err == nil && event.ValidLogID(head.Log)
}

// takeLine parses the line of an event. Lines that only describe a stream are skipped.
func (r *importReader) takeLine(line []byte) error {
	ev, err := event.ParseLine(line)
	switch {
	case err != nil && isAside(line):
		return nil
	case err != nil:
		if _, invalid := event.Members(line); invalid != nil {
			return invalid // says more than which member is missing
		}
		return lineError(err)
	case r.log == "":
		return errors.New("does not name its log; use --log ID, or \"rstream export\"")
	case !ev.Covered():
		return fmt.Errorf("event %s %w: %.60s", ev.ID, cache.ErrUnproven, ev.Extra)
	}
	r.noteLog()
	r.batch, r.bytes = append(r.batch, ev), r.bytes+len(line)
	r.events++
	if r.left > 0 {
		r.left--
	}
	return nil
}

// noteLog records the first log that the file names.
func (r *importReader) noteLog() {
	if r.first == "" {
		r.first = r.log
	}
}

// A countingReader counts the bytes read, and calls count with those of each read.
type countingReader struct {
	r     io.Reader
	count func(int64)
	n     int64
}

func (c *countingReader) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.n += int64(n)
	c.count(int64(n))
	return n, err
}
