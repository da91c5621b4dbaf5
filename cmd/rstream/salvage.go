package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/rstream-dev/rstream/cache"
	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/window"
)

func newSalvageCommand(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Annotations: map[string]string{silentAnnotation: silentIfFile},

		Use:     "salvage FILE OUT",
		GroupID: groupTools,
		Short:   "Read events out of a damaged file",
		Long: `Write all events that can be read of FILE, a server's log, a copy or a backup, to OUT as
JSON lines for "rstream put --from" and "rstream import". salvage reads FILE's bytes and
needs no table, index or header of it to be whole. It never changes FILE. Stop the
programs that use FILE first, and keep its -wal file next to it: the newest events are
there.

Each line is written once, in the order of ids, and only if its checksums are right.
Standard error says which events are missing, as far as the rest of the file tells, and
of which ranges nothing is known; then the status is 3. Lines of files of earlier
versions are checked by their hashes, which do not cover their times.

OUT is compressed if its name ends in .gz or .zst. It appears under its name when it is
complete; - is standard output.`,
		Example: `  rstream salvage rstream.db found.jsonl
  rstream serve --db new.db
  rstream put --from found.jsonl`,
		Args: argCount(2, 2, "the FILE to read and the file to write, or -"),
		RunE: func(cmd *cobra.Command, args []string) error { return runSalvage(cmd.Context(), a, args[0], args[1]) },
	}
	addProgress(a, cmd)
	return cmd
}

func runSalvage(ctx context.Context, a *app, from, to string) error {
	if err := checkSuffix(to); err != nil {
		return err
	}
	if err := mustExist(from, "name the damaged file"); err != nil {
		return err
	}
	defer a.progress.end()
	s, err := cache.OpenSalvage(ctx, from, a.fileProgress(from))
	if err != nil {
		return err
	}
	defer s.Close()
	for _, text := range s.Notes {
		a.note("%s: %s", from, text)
	}
	if s.Events == 0 {
		return &exitError{exitFailed, fmt.Sprintf("salvage %s: no event was found", from), "nothing was written"}
	}
	a.progress.report(stage{verb: "writing"}, 0, int64(s.Events))
	if to == "-" {
		err = writeSalvage(ctx, s, a.out, a.progress.add)
	} else {
		err = writeSalvageTo(ctx, s, to, a.progress.add)
	}
	a.progress.end()
	if errors.Is(err, cache.ErrChanged) {
		return &exitError{exitFailed, err.Error(), "stop the programs that use the file; or salvage a copy of it and its -wal file"}
	}
	if err != nil {
		return err
	}
	name := to
	if to == "-" {
		name = "standard output"
	}
	a.note("%s written to %s", count(s.Events, "event"), name)
	return reportSalvage(a, from, s)
}

func writeSalvageTo(ctx context.Context, s *cache.Salvage, to string, written func(events int64)) error {
	f, err := createOutFile(ctx, to)
	if err != nil && ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if err != nil {
		return &exitError{exitFailed, err.Error(), "name another file to write"}
	}
	defer f.discardFile()
	out := &output{name: to, w: bufio.NewWriterSize(f, 64<<10), form: formJSON}
	if err := writeSalvage(ctx, s, out, written); err != nil {
		return err
	}
	return out.nameOutput(f.publishFile())
}

// writeSalvage writes the events, after a header for import if their log is known. It
// claims for no range that it is complete.
func writeSalvage(ctx context.Context, s *cache.Salvage, out *output, written func(events int64)) error {
	if s.Log != "" {
		head := exportLine{Type: "export", Log: s.Log, Topic: event.All, To: s.Last, Count: uint64(s.Events), Windows: []exportWindow{}}
		if err := out.writeJSON(head); err != nil {
			return err
		}
	}
	err := s.Each(func(line []byte) error {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		written(1)
		return out.writeLine(line)
	})
	if err != nil {
		return err
	}
	return out.flush()
}

// maxRanges is how many ranges a note names.
const maxRanges = 20

// reportSalvage returns an error if events are missing, or may be.
func reportSalvage(a *app, from string, s *cache.Salvage) error {
	if len(s.Missing) > 0 {
		a.note("missing: %s", rangesText(s.Missing))
	}
	if len(s.Storages) > 0 {
		names := make([]string, 0, maxRanges)
		for _, st := range s.Storages[:min(maxRanges, len(s.Storages))] {
			names = append(names, st.User+"/"+st.Path)
		}
		a.note("missing events are of %s%s", strings.Join(names, ", "), andMore(len(s.Storages)))
	}
	if len(s.Doubtful) > 0 {
		a.note("not known, since a page is damaged there: %s", rangesText(s.Doubtful))
	}
	switch missing := s.Missing.Count(); {
	case missing > 0:
		return &exitError{exitGap, fmt.Sprintf("salvage %s: %s missing", from, count(missing, "event")), "a copy or a backup of the log may still have them"}
	case len(s.Doubtful) > 0 || len(s.Notes) > 0:
		return &exitError{exitGap, fmt.Sprintf("salvage %s: events may be missing", from), "a copy or a backup of the log may still have them"}
	}
	return nil
}

// rangesText names some ranges by their first and last events.
func rangesText(spans window.Spans) string {
	var b strings.Builder
	for i, s := range spans[:min(maxRanges, len(spans))] {
		if i > 0 {
			b.WriteString(", ")
		}
		if s.From+1 == s.To {
			fmt.Fprintf(&b, "event %s", s.To)
		} else {
			fmt.Fprintf(&b, "events %s to %s", s.From+1, s.To)
		}
	}
	return b.String() + andMore(len(spans))
}

func andMore(n int) string {
	if n <= maxRanges {
		return ""
	}
	return fmt.Sprintf(" and %d more", n-maxRanges)
}
