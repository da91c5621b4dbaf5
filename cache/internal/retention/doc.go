// Package retention removes what a log need not keep: history that is too old or too
// large, and values that have expired.
//
// A [Policy] says what to keep. A [Retainer] makes rounds alongside the appends, in short
// transactions with pauses between them: it raises the horizon, durably, then drops the
// events below it and returns the space. The last event of each storage stays below the
// horizon, if it is a PUT, so that states at the horizon and above do not change. Its
// clock never runs ahead of the wall clock, nor of the time that has passed while the log
// was served: a wall clock that jumps ahead and back destroys nothing.
//
// Wherever a round is interrupted, the log is consistent, and the next round continues.
// No hash is forgotten: the hashes of a block enter the index of package seen before its
// lines are dropped.
//
// The package assigns no ids. It passes expired values as [Expiry] to the committer,
// which deletes those that are still the last of their storage.
package retention
