// Package seen is the index of every hash that a log has ever taken, so that an append
// that comes again is known for ever, even after its event was dropped.
//
// The hashes of the last events stand in their lines. Those of a number of sealed blocks
// become a sorted run; runs of a level are merged into one of the next, a little with each
// append. In memory are a filter of each run and where its pages begin, so that a hash that
// was never taken costs no read and one that was costs one.
//
// An [Index] belongs to the process that gives ids and is used in its writing
// transactions; [LookUp] needs nothing but a transaction, also in a file that another
// process serves. Wherever a merge is cut, each hash is in one of the runs. Hashes are
// chosen by authors, who may make them alike: that makes lookups slow, never wrong.
//
// The package does not know what an event says, and removes no hash.
package seen
