package main

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rstream-dev/rstream/internal/mirror"
	"github.com/rstream-dev/rstream/internal/natslog"
)

// replicasOf returns replicas by name. One whose name ends with ! is offline.
func replicasOf(names string) (replicas []natslog.Replica) {
	for name := range strings.FieldsSeq(names) {
		bare, offline := strings.CutSuffix(name, "!")
		replicas = append(replicas, natslog.Replica{Server: bare, Offline: offline})
	}
	return replicas
}

// answersOf returns answers by name. One whose name ends with - does not sync always.
func answersOf(names string) (said []natslog.ServerSync) {
	for name := range strings.FieldsSeq(names) {
		bare, never := strings.CutSuffix(name, "-")
		said = append(said, natslog.ServerSync{Server: bare, Always: !never, Interval: 2 * time.Minute})
	}
	return said
}

// A replica that is away acknowledges nothing: the others must have said that they sync always,
// and be a majority. One that is there and does not say so is refused.
func TestDiskCheckJudges(t *testing.T) {
	type step struct{ replicas, said, want string }
	const complete = "complete"
	for name, steps := range map[string][]step{
		"all answer":                     {{"a b c", "a b c", complete}},
		"a server alone":                 {{"", "a", complete}},
		"a server alone that is late":    {{"", "a-", "sync_interval of 2m0s"}},
		"nobody answers":                 {{"", "", "no NATS server has said when it syncs"}},
		"one is late":                    {{"a b c", "a b- c", "the server b has a sync_interval"}},
		"one is lost":                    {{"a b c", "a b c", complete}, {"a b c!", "a b", ""}, {"a b c", "a b c", complete}},
		"one is lost, a moment ago":      {{"a b c", "a b c", complete}, {"a b c", "a b", ""}},
		"one was never there":            {{"a b c!", "a b", ""}, {"a b c", "a b c", complete}},
		"one comes, and does not say it": {{"a b c!", "a b", ""}, {"a b c", "a b", "the server c did not say"}},
		"one comes, and is late":         {{"a b c!", "a b", ""}, {"a b c", "a b c-", "the server c has a sync_interval"}},
		"one comes back, and is late":    {{"a b c", "a b c", complete}, {"a b c!", "a b", ""}, {"a b c", "a b c-", "the server c has"}},
		"a late one goes":                {{"a b c", "a b c-", "the server c has"}, {"a b c", "a b", "the server c did not say"}, {"a b c!", "a b", ""}},
		"a late one joins":               {{"a b c", "a b c", complete}, {"a b d", "a b d-", "the server d has"}},
		"an offline one joins":           {{"a b c", "a b c", complete}, {"a b d!", "a b c", ""}},
		"no majority was ever heard of":  {{"a b! c!", "a", "no majority of the replicas has said when it syncs; these are offline: b, c"}},
		"half of them were heard of":     {{"a b! c! d", "a d", "no majority"}},
		"all were heard of":              {{"a b c", "a b c", complete}, {"a b! c!", "a", ""}},
	} {
		var d diskCheck
		for i, s := range steps {
			all, err := d.judge(replicasOf(s.replicas), answersOf(s.said))
			got := ""
			switch {
			case err != nil:
				got = err.Error()
			case all:
				got = complete
			}
			if s.want == "" && got != "" || !strings.Contains(got, s.want) {
				t.Errorf("%s, step %d: %q, want %q", name, i, got, s.want)
			}
		}
	}
}

// The servers are asked again while one of them is away, and its answer counts as soon as it is
// back. If they cannot be asked, the last answers count for a minute.
func TestDiskCheckAsksAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		replicas, said := "a b c!", "a b"
		var problem error
		asked := 0
		d := &diskCheck{ask: func(context.Context) ([]natslog.Replica, []natslog.ServerSync, error) {
			asked++
			return replicasOf(replicas), answersOf(said), problem
		}}
		if err := d.problem(); err == nil {
			t.Error("nobody was asked, and appends are durable")
		}
		if err := d.prove(t.Context(), syncAge); err != nil || d.problem() != nil {
			t.Fatal(err, d.problem())
		}
		begun := time.Now()
		ctx, cancel := context.WithCancel(t.Context())
		go d.run(ctx, slog.New(slog.DiscardHandler))
		defer func() {
			cancel()
			synctest.Wait()
		}()
		after := func(wait time.Duration, times int, proven bool) {
			t.Helper()
			time.Sleep(wait)
			synctest.Wait()
			if asked != times || d.proven.Load() != proven {
				t.Errorf("after %s: asked %d times, want %d; proven: %t", time.Since(begun), asked, times, d.proven.Load())
			}
		}
		after(awayPause, 2, true)
		replicas, said = "a b c", "a b c-"
		after(awayPause, 3, false)
		if err := d.problem(); err == nil || !strings.Contains(err.Error(), "the server c has a sync_interval of 2m0s") {
			t.Errorf("the problem is %v", err)
		}
		said = "a b c"
		after(awayPause, 4, true)
		after(syncAge/2-awayPause, 4, true)
		after(awayPause, 5, true)
		problem = &mirror.UnreachableError{Err: errors.New("away")}
		after(syncAge-awayPause, 5+(int(syncAge/2/awayPause)), true)
		after(2*awayPause, 5+(int(syncAge/2/awayPause))+2, false)
	})
}
