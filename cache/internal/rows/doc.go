// Package rows reads and writes the tables that several packages of a log's file share:
// storages, events and their postings, windows, and the one row of the log.
//
// A storage has a number, which [Tables] assigns and remembers. An event is a line under
// its id. A posting has the offsets of a storage's events in one block; the open block of
// a server has none yet, so its [OpenEvent]s are scanned. A [Window] is a window as
// stored in the file, with the owner of its lease.
//
// Every function works in its caller's transaction and begins none. Rows are validated: a
// line stored under another id, or a malformed posting or window, is dbfile.ErrCorrupt.
// The package does not decide what becomes of a window, nor when an event may be removed.
package rows
