package main

import (
	"context"
	"path/filepath"
	"slices"

	"github.com/rstream-dev/rstream/cache"
	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/internal/wire"
	"github.com/rstream-dev/rstream/window"
)

// moveCommand returns the command that moves events from the copy in a file.
func moveCommand(file, into string) string {
	return "\"rstream export " + topicsOf(file) + " --cache " + shellWord(file) + " | rstream import - " + into + "\" and sync"
}

// topicsOf returns the topics of the copy in a file as arguments of export. On an error
// it returns --all, and export will report the error.
func topicsOf(file string) string {
	const all = "--all"
	db, err := cache.Open(context.Background(), file, cache.Config{NoUpgrade: true})
	if err != nil {
		return all
	}
	defer db.Close()
	topics, err := heldTopics(context.Background(), db)
	if err != nil || len(topics) == 0 || slices.Equal(topics, []event.Topic{event.All}) {
		return all
	}
	return shellTopics(topics)
}

// suggestImport says how to import from copies of other logs, if this server also has
// some of their events. It runs once, when a copy is created, and ignores errors.
func (s *session) suggestImport(ctx context.Context) {
	dir, err := dataDir()
	if err != nil || s.app.quiet {
		return
	}
	files, err := filepath.Glob(filepath.Join(dir, "*.db"))
	if err != nil {
		return
	}
	into := "--server " + shellWord(wire.RedactURL(s.app.servers[0]))
	if s.app.cache != "" {
		into = "--cache " + shellWord(s.app.cache) + " " + into
	}
	for _, file := range files {
		if n, err := s.countKnown(ctx, file); err == nil && n > 0 {
			s.app.note("%s is of another log and holds events of this one; to fetch less: %s", file, moveCommand(file, into))
		}
	}
}

// sampled is how many events to look up from the beginning and from the end of another
// copy.
const sampled = 10

// countKnown returns how many events of a sample from another copy the server has.
func (s *session) countKnown(ctx context.Context, file string) (int, error) {
	db, err := cache.Open(ctx, file, cache.Config{NoUpgrade: true})
	if err != nil {
		return 0, err
	}
	defer db.Close()
	if db.Log() == s.db.Log() {
		return 0, nil
	}
	windows, err := db.Windows(ctx)
	if err != nil || len(windows) == 0 {
		return 0, err
	}
	widest := slices.MaxFunc(windows, func(a, b window.Window) int {
		return int(a.Held().To-a.Held().From) - int(b.Held().To-b.Held().From)
	})
	hashes, err := sampleHashes(ctx, db, widest)
	if err != nil || len(hashes) == 0 {
		return 0, err
	}
	return s.Known(ctx, hashes)
}

// sampleHashes returns the hashes of the first and last events of a window.
func sampleHashes(ctx context.Context, db *cache.DB, w window.Window) (hashes []event.Hash, err error) {
	topics, span := []event.Topic{w.Topic}, w.Held()
	last, err := db.BeforeLast(ctx, topics, sampled, span.From, span.To)
	if err != nil {
		return nil, err
	}
	for _, from := range []event.ID{span.From, last} {
		evs, _, err := db.Read(ctx, topics, from, span.To, sampled)
		if err != nil {
			return nil, err
		}
		for i := range evs {
			hashes = append(hashes, evs[i].Hash)
		}
	}
	return hashes, nil
}
