// Package server answers requests about one log: appends, and reads as a JSON
// page, as NDJSON or as a Server-Sent-Events stream.
//
// A handler of reads only names topics and a range, as a [wire.Query]. One
// middleware does all the rest for all of them: it turns moments into positions,
// decides from Accept how events are written, refuses cursors that are not of this
// log, replays, subscribes, beats and ends.
//
// The package promises that a stream ends only at the end of an event, that a
// cursor sent is never ahead of what this reader was given, and that a slow reader
// costs nobody else anything. It knows nothing of files: a [Log] is what it
// serves.
package server
