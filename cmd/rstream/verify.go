package main

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/rstream-dev/rstream/cache"
	"github.com/rstream-dev/rstream/client"
	"github.com/rstream-dev/rstream/event"
)

type verifyOptions struct {
	topicFlags
	repair  bool
	offline bool
	db      string
}

func newVerifyCommand(a *app) *cobra.Command {
	var o verifyOptions
	cmd := &cobra.Command{
		Annotations: map[string]string{silentAnnotation: silentIfQuiet},

		Use:     "verify [TOPIC...]",
		GroupID: groupInspect,
		Short:   "Compare the local copy with the server",
		Long: `Read every held event of the topics, or of the whole copy, and compare it block by block
with the server. The status is 0 only if all blocks are equal, down to the server's
horizon. It is 3 if nothing of a topic that was named is held. Differences are recorded:
until a sync or verify finds the blocks equal, every command that reads them says so and
exits with status 3.

--repair fetches only the differing blocks again, then compares once more. Stored states
are checked too; --repair drops damaged ones, and they are rebuilt when needed.

--offline asks no server. It checks all of a file: SQLite's structure, the checksums and
hashes of all events, lists of events, kept states and digests, and on a server's file
that no event is missing. It names the damaged parts, with the events and storages that
are affected, and exits with status 1. --db names a server's file or a backup, which
may be served meanwhile.`,
		Example: `  rstream verify
  rstream verify nc --repair
  rstream verify --offline --db rstream.db`,
		ValidArgsFunction: a.completeTopics,
		RunE: func(cmd *cobra.Command, args []string) error {
			args, err := a.chooseURL(cmd, args)
			if err != nil {
				return err
			}
			if a.source != nil {
				o.offline, o.db = true, "" // its server cannot be asked again
			}
			if err := o.checkFlags(cmd, args); err != nil {
				return err
			}
			if o.offline {
				return runVerifyOffline(cmd.Context(), a, o)
			}
			topics, err := o.parseTopicArgs(args)
			if err != nil {
				return err
			}
			return runVerify(cmd.Context(), a, o, topics)
		},
	}
	cmd.Flags().SortFlags = false
	cmd.Flags().BoolVar(&o.repair, "repair", false, "fetch differing blocks again")
	cmd.Flags().BoolVar(&o.offline, "offline", false, "check a file without a server")
	cmd.Flags().StringVar(&o.db, "db", "", "with --offline, check this `FILE`, a server's log or a backup")
	addProgress(a, cmd)
	o.topicFlags.addTopicFlags(cmd)
	return cmd
}

func runVerify(ctx context.Context, a *app, o verifyOptions, topics []event.Topic) error {
	a.out.outlive()
	cfg := a.clientConfig()
	shown := syncPicture{a: a}
	cfg.OnProgress = shown.reportCompared
	s, err := a.openSessionWith(ctx, cfg)
	if err != nil {
		return err
	}
	defer s.Close()
	shown.db = s.db
	defer a.progress.end() // before s.Close
	if err := s.db.Check(ctx); err != nil {
		return err
	}
	damaged, err := a.verifyStates(ctx, s.db, o.repair)
	if err != nil {
		return err
	}
	if len(topics) == 0 {
		if topics, err = heldTopics(ctx, s.db); err != nil {
			return err
		}
		if len(topics) == 0 {
			a.note("nothing is held in %s: nothing was compared", s.db.Path())
		}
	}
	err = a.verifyTopics(ctx, s, topics, o.repair)
	if err == nil && o.repair {
		a.recordDone("the repair is complete")
	}
	if err != nil || damaged == 0 || o.repair {
		return err
	}
	verb := "is"
	if damaged > 1 {
		verb = "are"
	}
	return &exitError{exitFailed, fmt.Sprintf("%s %s damaged", count(damaged, "kept state"), verb), "\"rstream verify --repair\" drops the damaged parts"}
}

// verifyStates checks the kept states and reports damaged ones.
func (a *app) verifyStates(ctx context.Context, db *cache.DB, repair bool) (damaged int, err error) {
	damaged, err = db.Snapshots().DamagedStates(ctx, repair)
	if err != nil || damaged == 0 {
		return damaged, err
	}
	if !a.out.isForPerson() {
		return damaged, a.out.writeJSON(struct {
			Type     string `json:"type"`
			Damaged  int    `json:"damaged"`
			Repaired bool   `json:"repaired"`
		}{"states", damaged, repair})
	}
	done := ""
	if repair {
		done = ", dropped"
	}
	return damaged, a.out.printf("%s: damaged%s\n", count(damaged, "kept state"), done)
}

// verifyTopics compares topics until nothing is left to repair.
func (a *app) verifyTopics(ctx context.Context, s *session, topics []event.Topic, repair bool) error {
	for round := 1; ; round++ {
		found, err := a.verifyAll(ctx, s, topics, repair, round == 1)
		switch {
		case err != nil:
			return err
		case found.different > 0:
			return &differsError{found.different}
		case found.repaired == 0 && len(found.missing) > 0:
			return notHeld(ctx, s.db, found.missing)
		case found.repaired == 0:
			return nil
		case round == maxRounds:
			return &differsError{found.repaired}
		}
	}
}

// maxRounds is how often a repair goes over all topics. A repair in one topic may
// uncover a difference in another.
const maxRounds = 3

// A findings is what a comparison of several topics has found.
type findings struct {
	repaired, different int           // windows
	missing             []event.Topic // nothing of them is held, although the log has events
}

// verifyAll compares topics one by one and prints the results, of all topics or only of
// those that differ.
func (a *app) verifyAll(ctx context.Context, s *session, topics []event.Topic, repair, all bool) (found findings, err error) {
	for _, t := range topics {
		a.reportComparing(t)
		v, err := s.Verify(ctx, t, repair)
		if err != nil {
			return found, s.explainOtherLog(ctx, err)
		}
		if nothingHeld(v) {
			lacks, err := s.lacksEvents(ctx, t)
			if err != nil {
				return found, err
			}
			if lacks {
				found.missing = append(found.missing, t)
			} else if all && !a.out.isForPerson() {
				a.note("nothing of %s is held: nothing was compared", t)
			}
		}
		if all || len(v.Found) > 0 {
			if err := a.printVerified(t, v, newPositionTimes(ctx, s.db)); err != nil {
				return found, err
			}
		}
		for _, f := range v.Found {
			if f.Repaired {
				found.repaired++
			} else {
				found.different++
			}
		}
	}
	return found, nil
}

// lacksEvents reports whether a copy that holds nothing of a topic lacks events: the log has some
// after the position at which the topic starts.
func (s *session) lacksEvents(ctx context.Context, t event.Topic) (bool, error) {
	start, err := s.db.FollowedSince(ctx, t)
	if err != nil {
		return false, err
	}
	info, err := s.Info(ctx)
	return info.Head.ID > start, err
}

// nothingHeld reports whether there was nothing to compare, which is not the same as
// equal.
func nothingHeld(v client.Verified) bool { return v.Compared.Count() == 0 && v.Older.Count() == 0 }

// A differsError says that the copy differs from the server.
type differsError struct{ windows int }

func (e *differsError) Error() string {
	if e.windows == 1 {
		return "1 window differs from the server"
	}
	return fmt.Sprintf("%d windows differ from the server", e.windows)
}

// A findingLine is a window that differs. A verifiedLine is the result of comparing a
// topic.
type findingLine struct {
	Type     string      `json:"type"`
	Topic    event.Topic `json:"topic"`
	From     event.ID    `json:"from"`
	To       event.ID    `json:"to"`
	Held     uint64      `json:"held"`
	Server   uint64      `json:"server"`
	Repaired bool        `json:"repaired"`

	// The times of the bounds, if they are known.
	FromTime *event.Time `json:"from_time,omitempty"`
	ToTime   *event.Time `json:"to_time,omitempty"`
}

type verifiedLine struct {
	Type      string      `json:"type"`
	Topic     event.Topic `json:"topic"`
	Windows   int         `json:"windows"`
	Events    uint64      `json:"events"`
	Different int         `json:"different"`
	Repaired  int         `json:"repaired"`
	Older     uint64      `json:"older"` // positions held that the server no longer has
}

func (a *app) printVerified(t event.Topic, v client.Verified, times *positionTimes) error {
	line := verifiedLine{"verified", t, v.Windows, v.Events, len(v.Found), 0, v.Older.Count()}
	for _, f := range v.Found {
		if f.Repaired {
			line.Repaired++
		}
		if err := a.printFinding(f, times); err != nil {
			return err
		}
	}
	if a.quiet {
		return nil
	}
	if !a.out.isForPerson() {
		return a.out.writeJSON(line)
	}
	verdict := "equal"
	if nothingHeld(v) {
		verdict = "nothing is held, nothing was compared"
	}
	if line.Different > 0 {
		verdict = fmt.Sprintf("%d different, %d repaired", line.Different, line.Repaired)
	}
	if line.Older > 0 {
		verdict += ", older history than the server has is not compared"
	}
	return a.out.printf("%s: %s, %s: %s\n", t, count(line.Windows, "window"), count(line.Events, "event"), verdict)
}

func (a *app) printFinding(f client.Finding, times *positionTimes) error {
	from, to, err := times.spanTimes(f.Span)
	if err != nil {
		return err
	}
	if !a.out.isForPerson() {
		return a.out.writeJSON(findingLine{"finding", f.Topic, f.Span.From, f.Span.To, f.Held, f.Server, f.Repaired, from, to})
	}
	done := ""
	if f.Repaired {
		done = ", repaired"
	}
	return a.out.printf("%s: %s-%s%s differs: %s here, %d on the server%s\n", f.Topic, f.Span.From, f.Span.To, spanText(from, to), count(f.Held, "event"), f.Server, done)
}
