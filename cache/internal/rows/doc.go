// Package rows reads and writes the tables that several packages of a log's file
// share: storages, events and their postings, windows, and the one row of the log.
//
// A storage has a number, which [Tables] gives and remembers. An event is a line
// under its id. A posting has the offsets of a storage's events in one block; a
// server's open block has none yet, so its [OpenEvent]s are scanned. A [Window] is a
// window as the file keeps it, with the owner of its lease.
//
// Every function works in a transaction of its caller and begins none. What is
// read is checked: a line that stands under another id, a posting or a window that
// has another form is dbfile.ErrCorrupt. What a window may become, and when an event
// may be removed, is not decided here.
package rows
