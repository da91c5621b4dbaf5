// Package report tells a board on another server who reads from this process, while somebody
// looks at that board.
//
// A [Reporter] keeps one stream of the board open, on which the board announces each look. It
// sends nothing over it. While somebody looks it describes all connections of a
// [board.Registry] once, and from then on sends their changes, in requests of their own. It
// stops when the board says that nobody looks any more, or has not said for a while that
// somebody still does: an announcement holds for [board.FreshFor] by the clock of this process,
// however long ago it was sent. With an announcement, the reporter sends something every
// [board.RenewEvery] at least, so that the board can tell a quiet node from a dead one.
//
// A report that fails is sent again as it is, since the board may have taken it. A board that
// has missed a report says so, and gets all connections again. So the reporter need not know
// what a lost answer said, and keeps no queue: what it has not sent yet is in the ring of its
// board.Board, or, if that is not enough, in the state.
//
// A process has one Reporter for each board. The package does not decide which connections a
// viewer sees; the board does.
package report
