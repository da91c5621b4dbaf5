// Package retention lets go of what a log need not keep: history that is too old or too
// large, and values that have had their time.
//
// A [Policy] says what to keep. A [Retainer] makes rounds beside the appends, in short
// transactions with rests between them: it raises the horizon, durably, before it drops
// what lies below, and gives the space back. Of each storage the last event stays below
// the horizon, if it is a PUT, so states at the horizon and above do not change. Its
// clock never runs ahead of the wall clock, nor of the time that has passed while the log
// was served: a wall clock that jumps ahead and comes back destroys nothing.
//
// Wherever a round is cut, a log is whole, and the next round goes on. No hash is
// forgotten: those of a block are in the index of package seen before its lines go.
//
// The package gives no ids. Values that have had their time are handed as [Expiry] to the
// committer, which ends those that are still the last of their storage.
package retention
