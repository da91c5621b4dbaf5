package pagetest

import (
	"database/sql"
	"encoding/binary"
)

// A Spot is a byte of a file that a table or an index uses. It is in a column, or in SQLite's
// own structure.
type Spot struct {
	Table  string
	At     int
	Column bool
}

// Spots returns the used bytes of the leaves and overflow pages of a table or an index. b is
// the file, which has no write-ahead log.
func Spots(pool *sql.DB, b []byte, table string) (spots []Spot, err error) {
	rows, err := pool.Query(`SELECT pageno, pagetype FROM dbstat WHERE name = ? AND pagetype <> 'internal'`, table)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	size := int(binary.BigEndian.Uint16(b[16:])) // of its pages, if it is not 65,536
	for rows.Next() {
		var n int
		var kind string
		if err := rows.Scan(&n, &kind); err != nil {
			return nil, err
		}
		start := (n - 1) * size
		page := b[start:][:size]
		if kind == "overflow" {
			for i := range page {
				spots = append(spots, Spot{table, start + i, i >= 4})
			}
			continue
		}
		cells, content := int(binary.BigEndian.Uint16(page[3:])), int(binary.BigEndian.Uint16(page[5:]))
		if cells == 0 {
			continue
		}
		columns := columnBytes(page, cells)
		for i := range page {
			if i < 8+2*cells || i >= content {
				spots = append(spots, Spot{table, start + i, columns[i]})
			}
		}
	}
	return spots, rows.Err()
}

// columnBytes returns which bytes of a leaf are of columns.
func columnBytes(page []byte, cells int) []bool {
	columns := make([]bool, len(page))
	varint := func(at int) (v, end int) {
		for ; page[at] >= 0x80; at++ {
			v = v<<7 | int(page[at]&0x7f)
		}
		return v<<7 | int(page[at]), at + 1
	}
	for i := range cells {
		at := int(binary.BigEndian.Uint16(page[8+2*i:]))
		size, at := varint(at)
		if page[0] == 0x0D {
			_, at = varint(at)
		}
		header, _ := varint(at)
		for j := at + header; j < min(at+size, len(page)); j++ {
			columns[j] = true
		}
	}
	return columns
}
