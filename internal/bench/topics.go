package bench

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/rstream-dev/rstream/cache"
	"github.com/rstream-dev/rstream/client"
	"github.com/rstream-dev/rstream/event"
)

const (
	manyTopics  = 50
	topicEvents = 50 // the fewest events of a topic; a small run has fewer topics

	sparseShare  = 20
	sparseEvents = 4 // the run's events for each event of the sparse topics
)

const topicsHelp = `Fetch 14, 50 and 100 topics one after another into a new copy. The limit is a copy of one
topic that has the same events. In "sparse", the 50 topics are one event in twenty of the
log; in "at once", one "rstream sync" fetches 50 topics.

A sync has a cost that does not depend on the number of events, and pays it for each topic.
The goals are meant for --events 300000.`

// A topicLog is a log of one user whose events take turns in several topics.
type topicLog struct {
	in     Input
	topics int
	share  int // one event in share belongs to the user, the others to another user
	events int // of the user
}

// draft returns append i.
func (l topicLog) draft(i int) event.Draft {
	const storagesOfTopic = 20
	d := l.in.Draft(i)
	if i%l.share != 0 {
		d.User += "-other"
		return d
	}
	i /= l.share
	d.Path = fmt.Sprintf("t%d/%d", i%l.topics, i/l.topics%storagesOfTopic)
	return d
}

// names returns the topics that together have all events of the user.
func (l topicLog) names() []string {
	names := make([]string, l.topics)
	for i := range names {
		names[i] = fmt.Sprintf("%s/t%d/", l.in.User, i)
	}
	return names
}

// benchTopics measures copies of many topics against a copy of one topic with the same events.
func (r *runner) benchTopics(ctx context.Context) error {
	for _, c := range []struct {
		name string
		log  topicLog
		goal goal
		copy func(r *runner, ctx context.Context, server string, topics []string, want int) (time.Duration, error)
	}{
		{"topics 14", topicLog{topics: 14, share: 1, events: r.cfg.Events}, goalTopics, (*runner).copyInTurn},
		{"topics 50", topicLog{topics: manyTopics, share: 1, events: r.cfg.Events}, goalTopics, (*runner).copyInTurn},
		{"topics 100", topicLog{topics: 100, share: 1, events: r.cfg.Events}, goalTopics, (*runner).copyInTurn},
		{"topics 50 sparse", topicLog{topics: manyTopics, share: sparseShare, events: max(r.cfg.Events/sparseEvents, 1)}, goalTopicsSparse, (*runner).copyInTurn},
		{"topics 50 at once", topicLog{topics: manyTopics, share: 1, events: r.cfg.Events}, goalTopicsAtOnce, (*runner).copyAtOnce},
	} {
		c.log.in, c.log.topics = newInput(), min(c.log.topics, max(c.log.events/topicEvents, 1))
		if err := r.compareCopies(ctx, c.name, c.log, c.goal, func(server string, topics []string) (time.Duration, error) {
			return c.copy(r, ctx, server, topics, c.log.events)
		}); err != nil {
			return fmt.Errorf("%s: %w", c.name, err)
		}
	}
	return nil
}

// compareCopies serves a log and copies its topics, and the one topic that has them all.
func (r *runner) compareCopies(ctx context.Context, name string, l topicLog, g goal, copyTopics func(server string, topics []string) (time.Duration, error)) (err error) {
	file := filepath.Join(r.dir, "topics.db")
	defer func() { err = errors.Join(err, removeDB(file)) }()
	if err := r.fillFile(ctx, file, cache.Config{}, 0, l.events*l.share, l.draft); err != nil {
		return err
	}
	p, err := r.startServe(ctx, filepath.Base(file))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, p.stop()) }()
	// Copies take long: take one turn, with the limit before and after it.
	var took [3]time.Duration
	for i, topics := range [...][]string{{l.in.User}, l.names(), {l.in.User}} {
		r.reportProgress(name, float64(i)/float64(len(took)))
		if took[i], err = copyTopics(p.url, topics); err != nil {
			return err
		}
	}
	n := float64(l.events)
	r.addCompared(name, microseconds(took[1])/n, "µs/event", baseline{"one topic", microseconds(took[0]+took[2]) / 2 / n}, g)
	return nil
}

func microseconds(d time.Duration) float64 { return float64(d.Nanoseconds()) / 1000 }

// copyInTurn syncs one topic after another into a new copy, which must then have want
// events.
func (r *runner) copyInTurn(ctx context.Context, server string, topics []string, want int) (took time.Duration, err error) {
	file := filepath.Join(r.dir, "turns.db")
	defer func() { err = errors.Join(err, removeDB(file)) }()
	c, db, err := openCopy(ctx, server, file)
	if err != nil {
		return 0, err
	}
	defer func() {
		c.Close()
		err = errors.Join(err, db.Close())
	}()
	added := 0
	start := time.Now()
	for _, name := range topics {
		topic, err := event.ParseTopic(name)
		if err != nil {
			return 0, err
		}
		synced, err := c.Sync(ctx, topic, client.SyncOptions{})
		if err != nil {
			return 0, err
		}
		added += synced.Added
	}
	took = time.Since(start)
	if added != want {
		return 0, fmt.Errorf("received %d of %d events", added, want)
	}
	return took, nil
}

// copyAtOnce syncs all topics into a new copy with one "rstream sync".
func (r *runner) copyAtOnce(ctx context.Context, server string, topics []string, want int) (took time.Duration, err error) {
	file := filepath.Join(r.dir, "once.db")
	defer func() { err = errors.Join(err, removeDB(file)) }()
	args := append([]string{"sync", "--quiet", "--server", server, "--cache", file}, topics...)
	t, err := runProgram(ctx, nil, args...)
	if err != nil {
		return 0, err
	}
	db, err := cache.Open(ctx, file, cache.Config{})
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	held, err := db.Count(ctx)
	if err == nil && held.Events != int64(want) {
		err = fmt.Errorf("received %d of %d events", held.Events, want)
	}
	return t.elapsed, err
}

// removeDB removes a database with the files next to it.
func removeDB(file string) error {
	for _, suffix := range []string{"", "-wal", "-shm"} {
		if err := os.Remove(file + suffix); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	return nil
}
