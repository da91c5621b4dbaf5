// Package dbfile opens the SQLite file of a log and runs transactions in it.
//
// A [File] is an open file: its path, its [Role], the log that it belongs to.
// [File.View] runs a reading transaction and [File.Update] a writing one, with
// statements that stay prepared; a [BulkWriter] inserts many rows with one
// statement. An opening has a name, by which rows say who holds a lease, and
// [File.Stale] finds out whether that process is gone.
//
// Open refuses a file that is not an rstream file, is from a later version,
// has another role or belongs to another log, before it changes a byte of it.
// A file that may not be written is read without being written. SQLite's errors
// come out as the errors of this package, so nobody else needs to know SQLite's.
//
// The schema lies here, in the migrations, but only for their order: what the tables
// mean is the business of the packages that use them.
package dbfile
