// Package snapshot folds the state of a topic at any position, and keeps snapshots from
// which it can be folded quickly.
//
// A state has, for each storage, its last event up to a position, if that is a PUT. A
// [Store] begins with the nearest kept snapshot at or before the position and puts over it
// the last events since, in pieces, each in a transaction of its own. Snapshots are sealed
// here, as names and ids, or fetched from a server, with their lines; a [Writer] writes
// either, and nobody sees it until Finish. The events that this process has stored last
// are remembered, so that sealing does not read them again.
//
// A state is known where all history is held, or all of it since a kept snapshot; anywhere
// else the answer is a *window.NotHeldError. Nothing is open while a caller's function
// runs, and memory does not grow with the state.
//
// When states are sealed, and which snapshots retention removes, is decided by others.
package snapshot
