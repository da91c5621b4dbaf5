package dbfile

import (
	"bytes"
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"testing"
)

// Rows are visited in order, with the bytes that they have, until the visitor ends the query.
func TestVisitRows(t *testing.T) {
	conn, _ := openKeeping(t)
	tx, err := conn.BeginTx(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer tx.Rollback()
	const query = `SELECT 1 FROM t WHERE n >= ?2 AND visit_row(?1, n, CAST(text AS BLOB)) ORDER BY n LIMIT 1`
	visit := func(ctx context.Context, from, most int) (got []byte, err error) {
		seen := 0
		err = VisitRows(ctx, tx, query, []any{from}, func(columns []driver.Value) bool {
			if n, ok := columns[0].(int64); !ok || n != int64(from+seen) {
				t.Errorf("row %d is number %v", from+seen, columns[0])
			}
			got = append(got, columns[1].([]byte)...)
			seen++
			return seen < most
		})
		return got, err
	}
	for _, c := range []struct {
		from, most int
		want       string
	}{{1, 9, "abc"}, {2, 9, "bc"}, {1, 2, "ab"}, {3, 1, "c"}, {4, 1, ""}} {
		if got, err := visit(t.Context(), c.from, c.most); err != nil || !bytes.Equal(got, []byte(c.want)) {
			t.Errorf("rows from %d, at most %d: %q, %v, want %q", c.from, c.most, got, err, c.want)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := visit(ctx, 1, 9); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	visitors.Range(func(number, _ any) bool {
		t.Errorf("visitor %v is still there", number)
		return true
	})
	if err := tx.QueryRowContext(t.Context(), query, -1, 1).Scan(new(int)); err == nil || errors.Is(err, sql.ErrNoRows) {
		t.Errorf("without a visitor: %v", err)
	}
}
