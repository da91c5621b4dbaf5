// Package dbfile opens the SQLite file of a log and runs transactions in it.
//
// A [File] is an open file: its path, its [Role] and the log it belongs to. [File.View]
// runs a reading transaction and [File.Update] a writing one, with statements that stay
// prepared. Each opening of a file
// has a name, which rows use for the holder of a lease; [File.Stale] reports whether that
// holder is gone.
//
// [Open] refuses a file that is not an rstream file, comes from a later version, has
// another role or belongs to another log, and changes no byte of it. A file that may not
// be written is read without writing. SQLite's errors are mapped to the errors of this
// package, so that callers need not know SQLite's.
//
// The migrations are here for their order only; the meaning of the tables belongs to the
// packages that use them.
package dbfile
