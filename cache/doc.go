// Package cache is the SQLite file of one log: its events, the windows that record which
// spans of which topics are held, and the cursors of named readers.
//
// A file belongs to one log and has a [Role]. A server's file is the log itself: its one
// window, "*" from the horizon to the head, is committed, and only [DB.Append] assigns
// ids. A client's file is a copy, filled span by span: a [Lease] is the right to fill one
// window, and [Lease.Apply] stores events and advances the window in one transaction.
// Both are read the same way: [DB.Read] returns only events in held windows, so an event
// that arrived by accident is never presented as part of a complete range.
//
// Acknowledged writes survive a kill and a power failure, no event is stored twice, no
// read transaction outlives a call, and several processes may use one client file at
// once. The package does no network I/O.
package cache
