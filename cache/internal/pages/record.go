package pages

import (
	"github.com/rstream-dev/rstream/cache/internal/dbfile"
	"github.com/rstream-dev/rstream/event"
)

// maxRecord is the longest record that SQLite keeps in one page of a new file. Of one that is
// a byte longer it keeps a part there and the rest in pages of its own.
const maxRecord = dbfile.PageSize - recordRoom

// recordRoom is what SQLite needs of a page beside a record.
const recordRoom = 35

// oldMaxRecord is maxRecord of the files up to schema 9.
const oldMaxRecord = 4096 - recordRoom

// maxRecord is the longest record that pages of the file get.
func (t *Tables) maxRecord() int { return min(maxRecord, t.file.PageSize()-recordRoom) }

// recordSize returns the length of a page's record, as SQLite's file format has it: a
// header with its own length and a type for each column, then the columns.
func recordSize(first, last event.ID, count, index, lines int) int {
	header := 1 + 1 + 3 + typeSize(index) + typeSize(lines) // the key is a null, as it is the rowid
	return header + intSize(uint64(first)) + intSize(uint64(last)) + intSize(uint64(count)) + index + lines
}

// typeSize returns how many bytes the type of a blob of n bytes takes.
func typeSize(n int) int {
	size := 1
	for t := 2*n + 12; t >= 1<<7; t >>= 7 {
		size++
	}
	return size
}

// intSize returns how many bytes an integer takes that is not negative.
func intSize(v uint64) int {
	switch {
	case v <= 1:
		return 0
	case v < 1<<7:
		return 1
	case v < 1<<15:
		return 2
	case v < 1<<23:
		return 3
	case v < 1<<31:
		return 4
	case v < 1<<47:
		return 6
	}
	return 8
}
