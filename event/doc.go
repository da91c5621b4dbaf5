// Package event defines the entries of a log and the values that identify, order and
// select them.
//
// An [Event] is one immutable entry of a log. Its [ID] is its place there; read as a
// position, an ID means "just after that event", and [Beginning] is the position before
// the first. An author writes a [Draft]; the log assigns an ID and a [Time]. The [Hash]
// identifies the draft and can be computed offline. A [Storage] is a user's path, and a
// [Topic] a set of storages that a reader selects. A [Moment] is a point in a log as a
// person writes it, and a [Cursor] is a position together with the log that it belongs to.
//
// Every event has exactly one line: the same bytes on the wire, in the file and on
// standard output. Any line that the package parses, it prints back byte for byte, and no
// name or value that it accepts can break a line, a URL or a stream.
//
// The package does no I/O, starts no goroutines and reads no clock.
package event
