package cache

import (
	"context"

	"github.com/rstream-dev/rstream/cache/internal/snapshot"
	"github.com/rstream-dev/rstream/event"
)

// State calls fn with the state of topic at position at: for each storage the last event
// up to there, if that is a PUT. The events are sorted by user and path. No transaction
// is open while fn runs, memory use does not grow with the state, and events after at do
// not change it.
//
// The state is known where all history up to at is held, or all of it since a kept
// snapshot; events that a server dropped below its horizon do not matter. Elsewhere State
// returns a *window.NotHeldError. At the beginning the state is empty.
func (db *DB) State(ctx context.Context, topic event.Topic, at event.ID, fn func(*event.Event) error) error {
	return unlessStopped(db.snapshots.State(ctx, topic, at, fn))
}

// StateAfter is State for the storages that follow after.
func (db *DB) StateAfter(ctx context.Context, topic event.Topic, at event.ID, after event.Storage, fn func(*event.Event) error) error {
	return unlessStopped(db.snapshots.StateAfter(ctx, topic, at, after, fn))
}

// Snapshots are the kept states of topics at some positions, so that a state need not be
// folded from all events before it.
type Snapshots struct{ db *DB }

// Snapshots returns the kept states of a file.
func (db *DB) Snapshots() Snapshots { return Snapshots{db} }

// StateFrom returns the position from which the state of topic at position at is folded:
// that of a kept snapshot, or the beginning. If the state is not known, it returns
// State's error.
func (sn Snapshots) StateFrom(ctx context.Context, topic event.Topic, at event.ID) (from event.ID, err error) {
	return sn.db.snapshots.StateFrom(ctx, topic, at)
}

// StateTime returns a position at which topic has its state of time t, judging by stored
// events and known bounds of windows. ok is false if an event of the topic may be missing
// there.
func (sn Snapshots) StateTime(ctx context.Context, topic event.Topic, t event.Time) (at event.ID, ok bool, err error) {
	return sn.db.snapshots.StateTime(ctx, topic, t)
}

// LastState returns the latest position at which the state of topic is known.
func (sn Snapshots) LastState(ctx context.Context, topic event.Topic) (at event.ID, err error) {
	return sn.db.snapshots.LastState(ctx, topic)
}

// SealStates seals the missing states of topic at sealed blocks, up to the end of the
// events held, so that the state at any moment can be folded from few events. Each
// snapshot comes after at least as many stored events as it has members, so that
// snapshots take little room, however large the state becomes or however quiet the topic
// is. A topic of a few storages needs none.
func (sn Snapshots) SealStates(ctx context.Context, topic event.Topic) error {
	return sn.db.snapshots.Build(ctx, topic)
}

// KeepStates seals the states of a log as it grows, alongside the appends and in small
// steps, until ctx ends. Work that another writer or a full disk prevents is done when
// the next block is sealed.
func (sn Snapshots) KeepStates(ctx context.Context) error {
	return sn.db.snapshots.Run(ctx)
}

// DamagedStates reads all kept states and returns how many are damaged. If drop is set,
// it drops them: each is made again from held events, or fetched again, when it is
// needed.
func (sn Snapshots) DamagedStates(ctx context.Context, drop bool) (damaged int, err error) {
	return sn.db.snapshots.Scrub(ctx, drop)
}

// A SnapshotWriter writes a snapshot member by member. It becomes visible with Finish.
type SnapshotWriter struct{ w *snapshot.Writer }

// KeepSnapshot starts to keep the state of topic at position at, whose events the caller
// has fetched. If another process is doing the same, busy is true and the caller tries
// again later.
func (sn Snapshots) KeepSnapshot(ctx context.Context, topic event.Topic, at event.ID) (w *SnapshotWriter, busy bool, err error) {
	kept, busy, err := sn.db.snapshots.NewWriter(ctx, topic, at)
	if err != nil || busy {
		return nil, busy, err
	}
	return &SnapshotWriter{kept}, false, nil
}

// Add adds the next member. Members must be sorted by user and path.
func (w *SnapshotWriter) Add(ctx context.Context, ev *event.Event) error { return w.w.Add(ctx, ev) }

// Marked sets the mark of the snapshot's position, which Finish keeps.
func (w *SnapshotWriter) Marked(mark event.Mark) { w.w.Marked(mark) }

// Finish makes the snapshot available to states. It returns ErrLost if the events it
// depends on were removed in the meantime.
func (w *SnapshotWriter) Finish(ctx context.Context) error { return w.w.Finish(ctx) }

// Abort deletes the unfinished snapshot.
func (w *SnapshotWriter) Abort(ctx context.Context) error { return w.w.Abort(ctx) }
