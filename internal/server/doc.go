// Package server implements the HTTP server of one log: appends, and reads as a JSON
// page, as NDJSON or as a Server-Sent Events stream.
//
// The handler of a read only returns topics and a range, as a [wire.Query]. One
// middleware does the rest for all reads: it resolves moments to positions, picks the
// form of the events by Accept, refuses cursors of other logs, replays history,
// subscribes, sends heartbeats and ends the stream.
//
// A stream ends only at the end of an event. A cursor that it sends is never ahead of
// the events that its reader was given. A slow reader does not slow down others. The
// package does not access files: a server serves a [Log].
package server
