// Package source reads event streams of servers that are not rstream's, and turns their
// events into appends to a log.
//
// A source is one such stream: a URL, a kind and a mapping. The kind is a name for [Knobs],
// which say how a server's streams carry a cursor. A frame is one block of a stream. Its
// foreign id is what the server calls the event; several frames in a row may have the same
// one, and the ordinal counts them. An id that an earlier frame has left in force is no id
// of this one.
//
// The cursor is the foreign position from which the next connection asks on. A frame that
// says none moves nothing. The overlap is the events that a server may send again, because
// it was asked to or because it does; they are known by foreign id and ordinal. If ids go
// back, as on a server that has lost its history and counts from 1, a new generation
// begins, in which the same ids are other events.
//
// A mapping says which append becomes of an event: in which storage, under which key, with
// which value. Its expressions see the event and nothing else, no clock, environment or
// other event, so that the same event always becomes the same append.
//
// A gap is a time of which events may be missing. Each event is taken once as long as the
// server sends on from the cursor; where it cannot promise that, there is a gap.
//
// [Try] stores nothing. Nothing is ever decompressed, and no event larger than a limit is
// taken. The package knows no names of sources, no settings and no other source.
package source
