// Package board says who reads what at this moment, to those who look.
//
// A [Connection] is an open stream of a reader, and a node is a process that serves such
// streams. A [Registry] has the connections of this process. A [Board] has those of its
// node, and the last changes of them: a connection opened, closed, or is behind by another
// number of events. A [Viewer] looks at a board. It gets the state, then each change once
// and in order. If it resumes at a [Cursor] that the board no longer knows, or falls too
// far behind, it gets the state again.
//
// While nobody looks, a board has no state and no changes, and a registry only links and
// unlinks its entries: no connection is described, no position is read, and no timer runs.
// The first viewer makes the board watch its registry. Some time after the last one has
// left, the board forgets all, so that a viewer that reconnects costs no second start.
// Nothing waits for a viewer and nothing is queued for one: the changes are kept once,
// whatever the number of viewers.
//
// The board keeps nothing on disk, and no history: a connection that has closed is gone. The
// package does not deal with rights, except that a viewer brings a function that hides
// connections from it, nor with HTTP or encodings of streams.
package board
