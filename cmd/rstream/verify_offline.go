package main

import (
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/rstream-dev/rstream/cache"
	"github.com/rstream-dev/rstream/event"
)

// checkFlags refuses flags that cannot be combined.
func (o *verifyOptions) checkFlags(cmd *cobra.Command, args []string) error {
	switch {
	case !o.offline && o.db != "":
		return usagef("--db needs --offline: only a copy is compared with the server")
	case !o.offline:
		return nil
	case o.repair:
		return usagef("--offline and --repair cannot be combined")
	case len(args) > 0 || o.all:
		return usagef("--offline checks the whole file: it takes no topics")
	case o.db != "" && cacheNamed(cmd):
		return usagef("--db and --cache cannot be combined")
	}
	return nil
}

func runVerifyOffline(ctx context.Context, a *app, o verifyOptions) error {
	var db *cache.DB
	var err error
	if o.db != "" {
		db, err = a.openFile(ctx, o.db, noLog)
	} else {
		db, err = a.openOffline(ctx)
	}
	if err != nil {
		return err
	}
	defer db.Close()
	defer a.progress.end() // before db.Close
	faults := 0
	sound, err := db.CheckContents(ctx, func(f cache.Fault) error {
		faults++
		return a.printFault(db.Path(), &f)
	})
	if err != nil {
		return err
	}
	if err := a.printChecked(db, sound, faults); err != nil {
		return err
	}
	if faults == 0 {
		return nil
	}
	hint := salvageHint
	if db.Role() == cache.Client {
		hint = "\"rstream verify --repair\" fetches damaged events again; if it cannot, " + copyHint
	}
	return &exitError{exitFailed, fmt.Sprintf("%s is damaged: %s found", db.Path(), count(faults, "fault")), hint}
}

// A faultLine is a damaged part of a file. A checkedLine is the result of checking it.
type faultLine struct {
	Type     string    `json:"type"`
	Kind     string    `json:"kind"`
	From     *event.ID `json:"from,omitempty"` // the affected events come after it
	To       *event.ID `json:"to,omitempty"`
	Storages []string  `json:"storages,omitempty"`
	Reason   string    `json:"reason"`
}

type checkedLine struct {
	Type     string     `json:"type"`
	File     string     `json:"file"`
	Log      string     `json:"log"`
	Role     cache.Role `json:"role"`
	Pages    int        `json:"pages"`
	Events   int        `json:"events"`
	Postings int        `json:"postings"`
	States   int        `json:"states"`
	Digests  int        `json:"digests"`
	Faults   int        `json:"faults"`
}

func (a *app) printFault(file string, f *cache.Fault) error {
	line := faultLine{Type: "fault", Kind: string(f.Kind), Reason: strings.TrimPrefix(f.Text, file+": ")}
	for _, st := range f.Storages {
		line.Storages = append(line.Storages, st.User+"/"+st.Path)
	}
	if !f.Span.Empty() {
		line.From, line.To = &f.Span.From, &f.Span.To
	}
	if !a.out.isForPerson() {
		return a.out.writeJSON(line)
	}
	where := ""
	if line.From != nil {
		where = fmt.Sprintf(" %s to %s:", *line.From+1, *line.To)
	}
	of := ""
	if n := len(line.Storages); n > 0 {
		of = " (of " + strings.Join(line.Storages[:min(n, maxRanges)], ", ") + andMore(n) + ")"
	}
	return a.out.printf("%s:%s %s%s\n", line.Kind, where, line.Reason, of)
}

func (a *app) printChecked(db *cache.DB, s cache.Soundness, faults int) error {
	if a.quiet {
		return nil
	}
	if !a.out.isForPerson() {
		return a.out.writeJSON(checkedLine{"checked", db.Path(), db.Log(), db.Role(), s.Pages, s.Events, s.Postings, s.States, s.Digests, faults})
	}
	verdict := "sound"
	if faults > 0 {
		verdict = count(faults, "fault")
	}
	return a.out.printf("%s: %s in %s, %s, %s, %s: %s\n", db.Path(), count(s.Events, "event"), count(s.Pages, "page"),
		count(s.Postings, "posting"), count(s.States, "kept state"), count(s.Digests, "kept digest"), verdict)
}
