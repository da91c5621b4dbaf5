// Package snapshot computes the state of a topic at any position, and keeps snapshots
// that make this fast.
//
// The state at a position contains, for each storage, the last event up to there, if that
// is a PUT. A [Store] folds it: it starts with the nearest kept snapshot at or before the
// position and overlays the last events since, in chunks, each in a transaction of its
// own. Snapshots are either sealed here, as names and ids, or fetched from a server, with
// their lines. A [Writer] writes both; they become visible with Finish. The process
// remembers the events that it stored last, so that sealing need not read them again.
//
// A state is known where all history is held, or all of it since a kept snapshot;
// elsewhere the answer is a *window.NotHeldError. No transaction is open while a caller's
// function runs, and memory use does not grow with the state.
//
// The package does not decide when states are sealed, nor which snapshots retention
// removes.
package snapshot
