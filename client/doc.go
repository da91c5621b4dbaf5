// Package client keeps a local copy of a remote event stream.
//
// A [Client] makes requests to servers of one log. Everything that it receives, as a
// page or as a stream, takes one path: a transaction of the cache stores the events and
// moves their window, then the hub publishes them, then callers receive them.
// [Client.Sync] fetches a bounded range of a topic. [Client.Tail] returns the events of a
// topic from a position on and then follows it live. [Client.Put] appends events.
//
// Each Client has one live cursor, however many tails it has: topics join and leave it
// while it runs. After a disconnection it resumes from the position that is durably
// stored.
//
// A program that resumes after a restart stores the Position of each [Batch] that it has
// handled, in its own data or in a [cache.Cursor], and begins its next tail there:
//
//	Since: event.At(event.CursorOf(position, db.Log()))
//
// Events that it handled after the last stored position come again: at most one batch,
// which is a thousand events of history, or the live events since the batch before.
//
// A program can start while no server can be reached. [New] makes no request, and
// [cache.Open] with the zero [cache.Config] opens an existing copy, whatever its log.
// Reading the copy and appending to its [cache.Outbox] need no server. Only creating a copy
// needs one: [Probe] returns the id of its log.
//
// The package promises that held events are not requested again, that every event is
// checked against its hash before it is stored, and that a reader gets each event of its
// topics once and in order. It prints nothing and knows no flags.
package client
