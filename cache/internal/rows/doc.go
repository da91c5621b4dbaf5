// Package rows reads and writes the tables that several packages of a log's file share:
// storages, windows, and the one row of the log. It opens the [pages.Tables], which have the
// events.
//
// A storage has a number, which [Tables] assigns and remembers. Events and postings use the
// number; the open block of a server has no postings yet, so its [OpenEvent]s are scanned.
// A [Window] is a window as stored in the file, with the owner of its lease.
//
// Every function works in its caller's transaction and begins none. Rows are validated: a
// line stored under another id, or a malformed window, is dbfile.ErrCorrupt.
// The package does not decide what becomes of a window, nor when an event may be removed.
package rows
