package cache

import (
	"context"

	"github.com/rstream-dev/rstream/cache/internal/snapshot"
	"github.com/rstream-dev/rstream/event"
)

// State calls fn with the events that make the state of topic at position at: for
// each storage its last event up to there, if that is a PUT. They come in the order
// of users and paths. Nothing is open while fn runs, and the memory does not grow
// with the state; what happens after at meanwhile changes nothing.
//
// The state is known where all history up to at is held, or all of it since a kept
// snapshot. What a server has dropped below its horizon leaves the state as it was.
// Elsewhere State returns a *window.NotHeldError. At the beginning there is no state.
func (db *DB) State(ctx context.Context, topic event.Topic, at event.ID, fn func(*event.Event) error) error {
	return unlessStopped(db.snapshots.State(ctx, topic, at, fn))
}

// StateAfter is State without the storages up to after.
func (db *DB) StateAfter(ctx context.Context, topic event.Topic, at event.ID, after event.Storage, fn func(*event.Event) error) error {
	return unlessStopped(db.snapshots.StateAfter(ctx, topic, at, after, fn))
}

// Snapshots are the states of topics that are kept at moments, so that a state need not
// be made of all events before it.
type Snapshots struct{ db *DB }

// Snapshots returns the kept states of a file.
func (db *DB) Snapshots() Snapshots { return Snapshots{db} }

// StateFrom returns the position from which the state of topic at position at is
// folded: of a kept snapshot, or the beginning. Where it is not known, State's error.
func (sn Snapshots) StateFrom(ctx context.Context, topic event.Topic, at event.ID) (from event.ID, err error) {
	return sn.db.snapshots.StateFrom(ctx, topic, at)
}

// StateTime returns a position at which the state of topic is that of time t, as far as
// stored events and known bounds of windows tell: ok is false if an event of the topic
// may be missing next to it.
func (sn Snapshots) StateTime(ctx context.Context, topic event.Topic, t event.Time) (at event.ID, ok bool, err error) {
	return sn.db.snapshots.StateTime(ctx, topic, t)
}

// LastState returns the newest position at which the state of topic is known.
func (sn Snapshots) LastState(ctx context.Context, topic event.Topic) (at event.ID, err error) {
	return sn.db.snapshots.LastState(ctx, topic)
}

// SealStates keeps the state of topic at sealed blocks up to what is held, as far as
// that was not done: from then on a question for any moment folds little. Each
// stands behind as many stored events as it has members, so that they take little room
// however large the state becomes, or quiet the topic. A topic of a few storages needs none.
func (sn Snapshots) SealStates(ctx context.Context, topic event.Topic) error {
	return sn.db.snapshots.Build(ctx, topic)
}

// KeepStates seals the states of a log as it grows, beside the appends and in small
// steps, until ctx ends. What another writer or a full disk keeps it from is done when
// the next block is sealed.
func (sn Snapshots) KeepStates(ctx context.Context) error {
	return sn.db.snapshots.Run(ctx)
}

// DamagedStates reads all kept states and returns how many are not what was written.
// If drop is set these are given up: each is made again of events that are held, or
// asked for again, when it is wanted.
func (sn Snapshots) DamagedStates(ctx context.Context, drop bool) (damaged int, err error) {
	return sn.db.snapshots.Scrub(ctx, drop)
}

// A SnapshotWriter keeps a snapshot as it comes. Until Finish nobody sees it.
type SnapshotWriter struct{ w *snapshot.Writer }

// KeepSnapshot begins to keep the state of topic at position at, whose events the
// caller has fetched. If another process is just doing the same, busy is true and the
// caller asks again later.
func (sn Snapshots) KeepSnapshot(ctx context.Context, topic event.Topic, at event.ID) (w *SnapshotWriter, busy bool, err error) {
	kept, busy, err := sn.db.snapshots.NewWriter(ctx, topic, at)
	if err != nil || busy {
		return nil, busy, err
	}
	return &SnapshotWriter{kept}, false, nil
}

// Add adds the next member, in the order of users and paths.
func (w *SnapshotWriter) Add(ctx context.Context, ev *event.Event) error { return w.w.Add(ctx, ev) }

// Marked tells the mark of the snapshot's position. Finish keeps it.
func (w *SnapshotWriter) Marked(mark event.Mark) { w.w.Marked(mark) }

// Finish makes the snapshot one that states are folded from. It returns dbfile.ErrLost if
// what it stands on was removed meanwhile.
func (w *SnapshotWriter) Finish(ctx context.Context) error { return w.w.Finish(ctx) }

// Abort gives the snapshot up.
func (w *SnapshotWriter) Abort(ctx context.Context) error { return w.w.Abort(ctx) }
