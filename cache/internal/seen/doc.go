// Package seen is the index of every hash that a log has ever taken, so that a repeated
// append is recognized for ever, even after its event was dropped.
//
// The hashes of the last events are in their lines. Those of a number of sealed blocks
// become a sorted run; the runs of one level are merged into one of the next, a little
// with each append. A filter of each run and the first hashes of its pages are in memory,
// so that looking up a new hash reads nothing and a known one reads one page.
//
// An [Index] belongs to the process that assigns ids and works in its writing
// transactions; [LookUp] needs only a transaction, even in a file that another process
// serves. Wherever a merge is interrupted, each hash is in exactly one of the runs.
// Authors choose the hashes and may make them alike, which makes lookups slow but never
// wrong.
//
// The package does not interpret events, and it never removes a hash.
package seen
