package cache

import (
	"context"
	"fmt"

	"github.com/rstream-dev/rstream/cache/internal/salvage"
	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/window"
)

// A Salvage is the events that can be read of a damaged file, with the ranges of the
// others.
type Salvage struct {
	// Log is the id of the log and Role the role of the file; empty if they cannot be read.
	Log  string
	Role Role
	// Events is how many events can be read, and Last the last of them.
	Events int
	Last   event.ID
	// Missing has the ranges of events that the file should have and that cannot be read;
	// Doubtful those of which a copy cannot say. Storages are those of missing events, as
	// far as they are known.
	Missing, Doubtful window.Spans
	Storages          []event.Storage
	// Notes says in sentences what is damaged.
	Notes []string

	path string
	file *salvage.File
}

// OpenSalvage finds the events in the bytes of a file at path that SQLite refuses, in whole
// or in part. It opens the file, and the write-ahead log next to it, for reading only, and
// takes no locks: nobody should write the file meanwhile. It calls progress while it
// searches, unless progress is nil. If ctx ends, OpenSalvage and Each return its cause.
func OpenSalvage(ctx context.Context, path string, progress func(Progress)) (*Salvage, error) {
	searched := func(done, total int64) {
		if progress != nil {
			progress(Progress{Step: StepSearch, Done: done, Total: total})
		}
	}
	f, err := salvage.Open(ctx, path, searched)
	if err != nil {
		return nil, fmt.Errorf("salvage %s: %w", path, err)
	}
	return &Salvage{Log: f.Log, Role: Role(f.Role), Events: f.Count(), Last: f.Last(), Missing: f.Missing, Doubtful: f.Doubtful,
		Storages: f.Storages, Notes: f.Notes, path: path, file: f}, nil
}

// Each calls fn with the lines of the events, in the order of their ids. Each line has the
// right hash. If the file was written since OpenSalvage, Each returns ErrChanged, even if
// it has called fn with all lines.
func (s *Salvage) Each(fn func(line []byte) error) error {
	err := s.file.Each(fn)
	if s.file.Changed() {
		err = ErrChanged
	}
	if err != nil {
		return fmt.Errorf("salvage %s: %w", s.path, err)
	}
	return nil
}

// Close closes the file.
func (s *Salvage) Close() error { return s.file.Close() }
