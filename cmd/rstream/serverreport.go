package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/rstream-dev/rstream/cache"
	"github.com/rstream-dev/rstream/client"
	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/internal/wire"
)

// A serverReport is what status prints about one of several servers: its own answer, and what
// the copy has noted.
type serverReport struct {
	URL       string    `json:"url"`
	Reachable bool      `json:"reachable"`
	Error     string    `json:"error,omitempty"`
	Log       string    `json:"log,omitempty"`
	Head      *event.ID `json:"head,omitempty"`
	Lag       *uint64   `json:"lag,omitempty"` // ids from there to the newest head of the servers; not known if their logs differ

	Requests  int64 `json:"requests"`  // of this copy's commands so far
	Received  int64 `json:"received"`  // bytes
	Speed     int64 `json:"speed"`     // bytes a second when it was last read from, 0 if not known
	Overtaken int64 `json:"overtaken"` // responses that another server continued

	Problem     string      `json:"problem,omitempty"` // why another server was asked instead, last
	ProblemTime *event.Time `json:"problem_time,omitempty"`
	AsideUntil  *event.Time `json:"aside_until,omitempty"` // it sent a wrong answer, and was not to be asked until then
}

// newServerReports returns the reports of several servers from their answers.
func newServerReports(infos []client.ServerInfo) []serverReport {
	reports := make([]serverReport, len(infos))
	for i := range infos {
		r := &reports[i]
		r.URL = wire.RedactURL(infos[i].URL)
		if err := infos[i].Err; err != nil {
			r.Error, r.Reachable = probeProblem(err)
			continue
		}
		r.Reachable, r.Log, r.Head = true, infos[i].Log, &infos[i].Head.ID
	}
	addLags(reports)
	return reports
}

// probeProblem says why a server has not described itself, and whether it has answered.
func probeProblem(err error) (text string, answered bool) {
	var unreachable *client.UnreachableError
	switch {
	case errors.As(err, &unreachable):
		return unreachable.Err.Error(), false
	case errors.Is(err, context.DeadlineExceeded):
		return "no answer", false
	}
	return err.Error(), true
}

// addLags adds how far each server is behind the newest head, unless they serve several logs.
func addLags(reports []serverReport) {
	var newest event.ID
	var log string
	for i := range reports {
		s := &reports[i]
		if s.Head == nil {
			continue
		}
		if log != "" && s.Log != log {
			return
		}
		newest, log = max(newest, *s.Head), s.Log
	}
	for i := range reports {
		if s := &reports[i]; s.Head != nil {
			lag := uint64(newest - *s.Head)
			s.Lag = &lag
		}
	}
}

// addServerNotes adds what the copy has noted about the servers.
func (r *statusReport) addServerNotes(ctx context.Context, a *app, db *cache.DB) error {
	notes, err := db.ServerNotes(ctx)
	if err != nil {
		return err
	}
	for i, server := range a.servers {
		n := slices.IndexFunc(notes, func(n cache.ServerNote) bool { return n.URL == wire.WithoutUser(server) })
		if n < 0 {
			continue
		}
		s, note := &r.Servers[i], &notes[n]
		s.Requests, s.Received, s.Speed, s.Overtaken = note.Requests, note.Received, note.Speed, note.Overtaken
		if s.Problem = note.Problem; s.Problem != "" {
			s.ProblemTime = &note.ProblemTime
		}
		if note.AsideUntil != 0 {
			s.AsideUntil = &note.AsideUntil
		}
	}
	return nil
}

// printServers prints the log, or why it is not one, and a row for each server.
func (r *statusReport) printServers(row func(name, format string, args ...any)) {
	switch {
	case r.Head != nil:
		row("log", "%s, head %s%s", r.ServerLog, *r.Head, afterComma(r.HeadTime))
	case r.Reachable:
		row("log", "%s", r.Error)
	}
	for i := range r.Servers {
		s := &r.Servers[i]
		row("server", "%s", s.reportText())
		if s.Problem != "" {
			row("", "%s", s.problemText())
		}
	}
}

func (s *serverReport) reportText() string {
	text := s.URL
	switch {
	case !s.Reachable:
		text += ", not reachable: " + s.Error
	case s.Error != "":
		text += ", " + s.Error
	case s.Lag == nil:
		text += fmt.Sprintf(", log %s, head %s", s.Log, *s.Head)
	case *s.Lag > 0:
		text += fmt.Sprintf(", head %s, %s behind", *s.Head, count(*s.Lag, "event"))
	default:
		text += fmt.Sprintf(", head %s", *s.Head)
	}
	if s.Speed > 0 {
		text += fmt.Sprintf(", %s/s", formatSize(s.Speed))
	}
	return text
}

func (s *serverReport) problemText() string {
	text := fmt.Sprintf("left at %s: %s", localTime(*s.ProblemTime), s.Problem)
	if s.AsideUntil != nil && s.AsideUntil.Time().After(time.Now()) {
		text = fmt.Sprintf("set aside until %s: %s", localTime(*s.AsideUntil), s.Problem)
	}
	return text
}
