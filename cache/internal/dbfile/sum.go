package dbfile

import (
	"database/sql/driver"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"math"
	"slices"
	"strings"

	sqlite "modernc.org/sqlite"
)

// Events and postings have checksums of their own. A small row without one could hide
// events, move a reader or give an id twice if one of its bits flips, and nothing would
// tell: so it has a checksum, too, in its column sum. SQLite computes it with the function
// row_sum, which only programs that write such rows need.

func init() {
	sqlite.MustRegisterFunction("row_sum", &sqlite.FunctionImpl{
		NArgs: -1, Deterministic: true, VolatileArgs: true,
		Scalar: func(_ *sqlite.FunctionContext, args []driver.Value) (driver.Value, error) {
			return RowSum(args...), nil
		},
	})
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// sumBase makes all checksums take six bytes of a row, whose length then never changes.
const sumBase = 1 << 40

// RowSum returns the checksum of a row's values, each of which is a number, a text, bytes or
// nil.
func RowSum(values ...driver.Value) int64 {
	var room [256]byte
	b := room[:0]
	for _, v := range values {
		switch v := v.(type) {
		case nil:
			b = append(b, 'n')
		case int64:
			b = binary.BigEndian.AppendUint64(append(b, 'i'), uint64(v))
		case float64: // no column has one, unless it is damaged
			b = binary.BigEndian.AppendUint64(append(b, 'f'), math.Float64bits(v))
		case string:
			b = append(binary.AppendUvarint(append(b, 's'), uint64(len(v))), v...)
		case []byte:
			b = append(binary.AppendUvarint(append(b, 'b'), uint64(len(v))), v...)
		default:
			b = fmt.Append(b, "?", v)
		}
	}
	return sumBase + int64(crc32.Checksum(b, castagnoli))
}

// A SummedTable is a table whose rows have checksums.
type SummedTable struct {
	name    string
	columns []string // those that the checksum covers, in its order
}

// LogTable is the table of the one row of a log.
var LogTable = SummedTable{"log", strings.Fields(`id role parent parent_head next time indexed removals fetched received saved
	hashed salt dropped horizon_time tick horizon_mark seen seen_mark horizon`)}

// sum returns the SQL of the checksum of columns, some of which have other values.
func (t *SummedTable) sum(values map[string]string) string {
	list := slices.Clone(t.columns)
	for i, column := range list {
		if v, ok := values[column]; ok {
			list[i] = v
		}
	}
	return "row_sum(" + strings.Join(list, ", ") + ")"
}

// Sound returns the SQL of the condition that a row's checksum agrees.
func (t *SummedTable) Sound() string { return t.name + ".sum = " + t.sum(nil) }

// Update returns the statement that sets columns to expressions, which alternate in set, in
// rows whose checksum agrees: a damaged row must not become sound. Further conditions can
// be appended.
func (t *SummedTable) Update(set ...string) string {
	values := map[string]string{}
	var parts []string
	for i := 0; i < len(set); i += 2 {
		values[set[i]] = set[i+1]
		parts = append(parts, set[i]+" = "+set[i+1])
	}
	return "UPDATE " + t.name + " SET " + strings.Join(parts, ", ") + ", sum = " + t.sum(values) + " WHERE " + t.Sound()
}

// Insert returns the statement that inserts a row of the covered columns, in their order,
// and of others after them.
func (t *SummedTable) Insert(others ...string) string {
	columns := append(slices.Clone(t.columns), others...)
	values := map[string]string{}
	params := make([]string, len(columns))
	for i, column := range columns {
		params[i] = fmt.Sprint("?", i+1)
		values[column] = params[i]
	}
	return "INSERT INTO " + t.name + " (" + strings.Join(columns, ", ") + ", sum) VALUES (" + strings.Join(params, ", ") + ", " + t.sum(values) + ")"
}

// The tables whose rows have checksums, apart from LogTable.
var (
	WindowTable   = SummedTable{"window", strings.Fields(`topic state start reached stop moment proven`)}
	CursorTable   = SummedTable{"cursor", strings.Fields(`name topics position state`)}
	SnapshotTable = SummedTable{"snapshot", strings.Fields(`topic at form count whole`)}
	BoundTable    = SummedTable{"bound", strings.Fields(`at time`)}
	DoubtTable    = SummedTable{"doubt", strings.Fields(`topic start stop`)}
)

// SummedTables are the tables whose rows have checksums and that each file has.
var SummedTables = []SummedTable{LogTable, {"log_copy", LogTable.columns}, WindowTable, CursorTable, SnapshotTable, BoundTable, DoubtTable}

// LaterTables are the tables whose rows have checksums and that a file gets when it needs them,
// by the package that writes them. That of a mirror of all topics has no rows, and no checksums.
var LaterTables = []SummedTable{
	MirrorTable,
	{"consumer1", strings.Fields(`name oldest`)},
	{"consumer1_blocked", strings.Fields(`name user path first tries retry error`)},
	{"source1_state", strings.Fields(`name state`)},
	{"source1_seen", strings.Fields(`name until seen`)},
	{"source1_origin", strings.Fields(`last first name log theirs`)},
}

// Name returns the table's name.
func (t *SummedTable) Name() string { return t.name }
