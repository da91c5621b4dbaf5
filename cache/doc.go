// Package cache is the SQLite file of one log: its events, the windows that say
// which stretches of which topics are held, the cursors of named readers.
//
// A file belongs to one log and has a [Role]. A server's file is the log itself:
// its one window, "*" from the horizon to the head, is committed, and [DB.Append]
// is the only giver of ids. A client's file is a copy that is filled stretch by
// stretch: a [Lease] is the right to fill one window, and [Lease.Apply] stores
// events and moves the window in one transaction. Everything is read the same way
// from both: [DB.Read] gives what the windows say is held and nothing else, so an
// event that arrived by accident is never shown as part of a whole.
//
// The package promises that what it has acknowledged survives a kill and a power
// cut, that no event is stored twice, that no read transaction outlives a call,
// and that several processes may use one client file at once. It knows nothing of
// networks.
package cache
