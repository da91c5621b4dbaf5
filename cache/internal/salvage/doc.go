// Package salvage reads events out of the bytes of a file that SQLite refuses, in whole or
// in part.
//
// A file is a row of pages of 8,192 bytes, or of 4,096 if an earlier version created it, some
// of which its write-ahead log replaces. The package looks at each of them for rows with
// events, whether or not a table still leads there, except for those that are known to be
// free. An event is taken if its line has the right hash and, in a page of events, a checksum
// that covers its id and time. Rows of earlier versions have none: there the id must be that
// of the row, and the time is as good as the disk.
//
// The package opens files for reading only, takes no locks and writes nothing. It can use
// no more of a file than was committed; but a line that was dropped a short time ago may
// come back if a list of free pages is damaged.
package salvage
