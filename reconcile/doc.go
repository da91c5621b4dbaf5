// Package reconcile finds the events that two sides lack of each other, with few
// bytes, and without ever trusting a guess.
//
// A [Set] is what one side holds of a range of the responder's log: [Item] values in
// order, with ids if both sides have the events from the same log, else only with
// hashes. A [Sum] is the count of a set and an ordered SHA-256 over it, and only equal
// Sums prove that two sets are equal. Everything else is a guess that saves bytes: a
// [Filter], a sketch of the difference, a list of short hashes.
//
// [Negotiate] is the requester. It sends its Sum first, which ends most negotiations
// after about a hundred bytes. Then it uses the [Strategy] that the plan finds
// cheapest, and corrects the errors of filters, at most three times and within eight
// rounds. Last it compares block by block, which always ends. It is the only function
// here that does I/O, through a [Peer].
//
// [Answer] is the responder, a pure function of its own set and one [Request]. It keeps
// nothing between requests, so a server may answer each from another process.
//
// If ids are not shared, a [StubRequest] first asks for the places of events: its
// response has the id, the time and a few bytes of a hash of each, so that a side that
// has the events from another log can continue with ids.
//
// An error never loses an event. One that is not in a filter is certainly missing. One
// that is in a filter by mistake is only found later, since the sums still differ.
//
// All short hashes are keyed with a salt, which is in the frame and new for each, so
// that authors cannot choose events that collide in a later filter.
//
// Frames are untrusted. Each is checked against [Limits] before memory or time is spent
// on it, and refused with a [FrameError]. docs/protocol.md specifies their bytes.
//
// The package keeps no state, starts no goroutines and reads no clock.
package reconcile
