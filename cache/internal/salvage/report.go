package salvage

import (
	"database/sql/driver"
	"fmt"
	"strings"

	"github.com/rstream-dev/rstream/cache/internal/dbfile"
	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/window"
)

// readStretches finds pages that the index of pages names and that were not read whole.
// On a copy, nobody knows which ids of their span they have.
func (f *File) readStretches() error {
	return f.trees.each(inStretches, func(r *row, _ place) error {
		if !r.matches(isNumber, isNumber, isNumber) {
			f.trees.cut[inStretches] = true
			return nil
		}
		span := window.Span{From: event.ID(r.values[0].number) - 1, To: event.ID(r.values[1].number)}
		if !f.keys[r.values[2].number] && !span.Empty() {
			f.Doubtful = append(f.Doubtful, span)
		}
		return nil
	})
}

// readWindows reads which log it is, and what a server's file should have without a hole.
func (f *File) readWindows() error {
	dense, err := f.readLogRow()
	if err != nil {
		return err
	}
	err = f.trees.each(inWindows, func(r *row, _ place) error {
		v := r.values
		if len(v) > 5 && v[1].kind == isText && v[2].kind == isText && string(v[2].bytes) == "committed" && v[3].kind == isNumber && v[5].kind == isNumber {
			dense = append(dense, window.Span{From: event.ID(v[3].number), To: event.ID(v[5].number)})
		}
		return nil
	})
	if err != nil {
		return err
	}
	part := false // a mirror of some topics, which lacks the ids of others
	err = f.trees.each(inFollowed, func(*row, place) error { part = true; return nil })
	f.Missing = window.Union(f.Missing...)
	if len(dense) > 0 && !part && (f.Role == "server" || f.Role == "backup") {
		for _, span := range dense {
			f.Missing = window.Union(append(f.Missing, f.holes(span)...)...)
		}
		// Every id is known to be there or to be missing.
		f.Doubtful = nil
	}
	return err
}

// The places of columns in the row of a log. Earlier versions have no horizon and no sum.
const (
	logID      = 1
	logRole    = 2
	logNext    = 5
	logHorizon = 20
	logRowSum  = 21
)

// readLogRow reads the row of the log or, if that is damaged, its copy: which log it is and,
// of a server's file, its window.
func (f *File) readLogRow() (dense window.Spans, err error) {
	for _, of := range []owner{inLogs, inLogCopies} {
		read := false
		err := f.trees.each(of, func(r *row, _ place) error {
			v := r.values
			if len(v) <= logNext || v[logID].kind != isText || v[logRole].kind != isText || !event.ValidLogID(string(v[logID].bytes)) {
				return nil
			}
			if len(v) > logRowSum && !isSummed(v[logID:logRowSum], v[logRowSum]) {
				return nil
			}
			read = true
			f.Log, f.Role = string(v[logID].bytes), string(v[logRole].bytes)
			if len(v) <= logRowSum {
				return nil
			}
			last := event.ID(v[logNext].number - 1)
			if of == inLogCopies { // it is from when the last block was sealed
				last = max(last, f.Last())
				f.Notes = append(f.Notes, fmt.Sprintf("the row of its log is damaged: nobody knows which events after %s are missing", last))
			}
			dense = window.Spans{{From: event.ID(v[logHorizon].number), To: last}}
			return nil
		})
		if err != nil || read {
			return dense, err
		}
	}
	return nil, nil
}

// isSummed reports whether values have a checksum.
func isSummed(values []value, sum value) bool {
	list := make([]driver.Value, len(values))
	for i, v := range values {
		switch v.kind {
		case isNull:
		case isNumber:
			list[i] = v.number
		case isText:
			list[i] = string(v.bytes)
		default:
			list[i] = v.bytes
		}
	}
	return sum.kind == isNumber && dbfile.RowSum(list...) == sum.number
}

// holes returns the ids of a span that were not found.
func (f *File) holes(span window.Span) (holes window.Spans) {
	at := span.From
	for i := range f.refs {
		id := f.refs[i].id
		if id <= at {
			continue
		}
		if id > span.To {
			break
		}
		if id > at+1 {
			holes = append(holes, window.Span{From: at, To: id - 1})
		}
		at = id
	}
	if at < span.To {
		holes = append(holes, window.Span{From: at, To: span.To})
	}
	return holes
}

// readStorages finds the names of storages with missing events.
func (f *File) readStorages() error {
	if len(f.lost) == 0 {
		return nil
	}
	return f.trees.each(inStorages, func(r *row, _ place) error {
		if f.lost[r.id] && r.matches(isNull, isText, isText) {
			f.Storages = append(f.Storages, event.Storage{User: string(r.values[1].bytes), Path: string(r.values[2].bytes)})
		}
		return nil
	})
}

// addNotes describes the damage.
func (f *File) addNotes() {
	f.Doubtful = window.Union(f.Doubtful...)
	if f.im.size < f.im.told && f.im.last < f.im.told {
		f.Notes = append(f.Notes, fmt.Sprintf("the file is cut: it has %d of its %d pages of %d bytes", f.im.size, f.im.told, f.im.pageSize))
	}
	if !f.im.whole {
		f.Notes = append(f.Notes, "its write-ahead log is damaged before its end")
	}
	if names := f.trees.cutTrees(); len(names) > 0 {
		f.Notes = append(f.Notes, "pages of these tables and indexes cannot be read: "+strings.Join(names, ", "))
	}
	if f.trees.cut[inSchema] || len(f.trees.there) == 0 {
		f.Notes = append(f.Notes, "the list of its tables cannot be read: nobody knows which events are missing")
	} else if f.trees.free == nil {
		f.Notes = append(f.Notes, "the list of its free pages cannot be read: events that were dropped before may be among those found")
	}
	if f.Log == "" {
		f.Notes = append(f.Notes, "the id of its log cannot be read")
	}
}
