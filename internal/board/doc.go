// Package board says who reads what at this moment, to those who look.
//
// A [Connection] is an open stream of a reader, and a [Node] is a process that serves such
// streams. A [Registry] has the connections of this process. A [Board] has those of its own
// node and of all nodes that report to it, and the last changes of them: a connection opened,
// closed, or is behind by another number of events. A [Viewer] looks at a board. It gets the
// state, then each change once and in order. If it resumes at a [Cursor] that the board no
// longer knows, or falls too far behind, it gets the state again.
//
// While nobody looks, a board has no state and no changes, nodes report nothing, and a
// registry only links and unlinks its entries: no connection is described, no position is
// read, and no timer runs. The first viewer makes the board watch its registry, and announces
// a [Look] to each node, which has a [Lookout] on the board for that. Some time after the last
// viewer has left, the board forgets all and ends the look, so that a viewer that reconnects
// costs no second start. Nothing waits for a viewer and nothing is queued for one: the changes
// are kept once, whatever the number of viewers, and nodes report once.
//
// A [Report] has the connections of another node, all of them or those that have changed. The
// board takes it only for the look that it has announced last, only from the newest process of
// a node, and only if it follows the report before it; else it asks for all connections. A
// node that has reported nothing for a while is gone, with all of its connections. So a
// board does not show for long a reader that has left, whatever message was lost or late.
//
// The board keeps nothing on disk, and no history: a connection that has closed is gone. The
// package does not deal with rights, except that a viewer brings a function that hides
// connections from it, nor with HTTP or encodings of streams; package report sends reports.
package board
