// Package reconcile finds out what two sides that hold sets of events lack of
// each other, for few bytes, and without ever taking a guess for the truth.
//
// A [Set] is what one side holds of a stretch of the peer's log: [Item] values in
// order, with ids where both sides have them from the same log, hashes alone
// where they do not. A [Sum] is its count and an ordered SHA-256 over it, and
// nothing but an equal Sum proves two sets equal. Everything else is a guess that
// saves bytes: a filter ([Filter]), a sketch of the difference, a list of short
// hashes.
//
// [Negotiate] is the asking side. It tells its Sum first, which ends most
// negotiations for about a hundred bytes; then what the plan finds cheapest
// ([Strategy]); then it corrects what filters got wrong, at most three times and
// within eight rounds; and then it compares block by block, which always ends. It
// is the only function here that does I/O, through one [Peer].
//
// [Answer] is the answering side, a pure function of its own set and one
// [Request]. It keeps nothing in between, so a server may answer each request from
// another process.
//
// Where ids are not shared, a [StubRequest] asks first where events stand: its answer
// has the id, the time and a few bytes of a hash for each, so that a side that has the
// events from another log can go on with ids.
//
// What is learned is never wrong in the direction that loses: an event "not in
// the filter" is certainly lacked, and one wrongly "in the filter" is only
// delayed, since the sums still differ.
//
// All keys are made with a salt that travels in the frame, new for each: whoever
// writes events cannot choose hashes that collide in a filter of tomorrow.
//
// Frames come from strangers. Each is checked against [Limits] before memory or
// time is spent on it, and refused with a [FrameError]. Their bytes are specified
// in docs/protocol.md.
//
// The package keeps nothing, starts no goroutines and reads no clock.
package reconcile
