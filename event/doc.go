// Package event is the vocabulary of rstream: what a log holds and how it is
// named, written and asked for.
//
// An [Event] is one immutable entry of a log. Its [ID] is its place there; read
// as a position, an ID means "just after that event", and [Beginning] is the
// position before the first. An author writes a [Draft]; the log gives it an ID
// and a [Time]. The [Hash] names what the author wrote and can be computed by
// anyone, offline. A [Topic] is what a reader asks for, a [Moment] is a point in
// time as a person writes it, and a [Cursor] is a position together with the log
// that it belongs to.
//
// Every event has exactly one line: the same bytes on the wire, in the file and
// on standard output. The package promises that whatever it parses it prints
// back, byte for byte, and that nothing it accepts can break a line, a URL or a
// stream.
//
// The package does no I/O, starts no goroutines and reads no clock.
package event
