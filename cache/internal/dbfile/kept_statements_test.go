package dbfile

import (
	"context"
	"database/sql"
	"fmt"
	"path/filepath"
	"testing"

	sqlite "modernc.org/sqlite"
)

// openKeeping opens a new file with the only connection of a pool, and another connection
// without kept statements.
func openKeeping(t *testing.T) (conn *sql.Conn, other *sql.DB) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "kept.db")
	connector, err := sqlite.NewConnector(path)
	if err != nil {
		t.Fatal(err)
	}
	pool, other := sql.OpenDB(keepingConnector{connector}), sql.OpenDB(connector)
	if conn, err = pool.Conn(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		conn.Close()
		pool.Close()
		other.Close()
	})
	for _, query := range []string{`CREATE TABLE t (n INTEGER PRIMARY KEY, text TEXT)`, `INSERT INTO t VALUES (1, 'a'), (2, 'b'), (3, 'c')`} {
		if _, err := conn.ExecContext(t.Context(), query); err != nil {
			t.Fatal(err)
		}
	}
	return conn, other
}

// kept returns the statements that a connection keeps, and how many of them are busy.
func kept(t *testing.T, conn *sql.Conn) (all map[string]*keptStatement, busy int) {
	t.Helper()
	err := conn.Raw(func(c any) error {
		all = c.(*keepingConn).kept
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range all {
		if s.busy {
			busy++
		}
	}
	return all, busy
}

// A statement that is being read can be run once more, and is kept when its rows are closed.
func TestKeptStatementWithinItself(t *testing.T) {
	conn, _ := openKeeping(t)
	const query = `SELECT n FROM t WHERE n >= ? ORDER BY n`
	for range 2 {
		rows, err := conn.QueryContext(t.Context(), query, 1)
		if err != nil {
			t.Fatal(err)
		}
		var got []int
		for rows.Next() {
			var n, next int
			if err := rows.Scan(&n); err != nil {
				t.Fatal(err)
			}
			if err := conn.QueryRowContext(t.Context(), query, n+1).Scan(&next); err != nil && n < 3 {
				t.Fatal(err)
			}
			got = append(got, n, next)
		}
		if fmt.Sprint(got) != "[1 2 2 3 3 0]" || rows.Err() != nil {
			t.Errorf("read %v, %v", got, rows.Err())
		}
		if all, busy := kept(t, conn); all[query] == nil || busy != 0 {
			t.Errorf("%d statements are kept, and %d busy", len(all), busy)
		}
	}
}

// Only so many statements are kept: those that ran last.
func TestKeptStatementsAreBounded(t *testing.T) {
	conn, _ := openKeeping(t)
	for i := range 3 * maxKept {
		for _, query := range []string{`SELECT 0`, fmt.Sprintf(`SELECT %d`, i)} {
			var n int
			if err := conn.QueryRowContext(t.Context(), query).Scan(&n); err != nil || fmt.Sprint("SELECT ", n) != query {
				t.Fatalf("%s = %d, %v", query, n, err)
			}
		}
	}
	all, _ := kept(t, conn)
	if len(all) != maxKept || all[`SELECT 0`] == nil || all[`SELECT 1`] != nil || all[fmt.Sprintf(`SELECT %d`, 3*maxKept-1)] == nil {
		t.Errorf("%d statements are kept, want %d", len(all), maxKept)
	}
}

// After an error a statement is not kept, and the next run of it is right.
func TestKeptStatementAfterError(t *testing.T) {
	conn, _ := openKeeping(t)
	const insert, read = `INSERT INTO t VALUES (?, ?)`, `SELECT n FROM t, (VALUES (1), (2))`
	if _, err := conn.ExecContext(t.Context(), insert, 1, "x"); err == nil {
		t.Error("a number was inserted twice")
	}
	if all, _ := kept(t, conn); all[insert] != nil {
		t.Error("a statement that has failed is kept")
	}
	if _, err := conn.ExecContext(t.Context(), insert, 4, "d"); err != nil {
		t.Error(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	rows, err := conn.QueryContext(ctx, read)
	if err != nil || !rows.Next() {
		t.Fatal(err)
	}
	cancel()
	for rows.Next() { // until the rows are closed
	}
	rows.Close()
	var n int
	if err := conn.QueryRowContext(t.Context(), `SELECT count(*) FROM (`+read+`)`).Scan(&n); err != nil || n != 8 {
		t.Errorf("there are %d rows, %v, want 8", n, err)
	}
	if _, busy := kept(t, conn); busy != 0 {
		t.Errorf("%d statements are busy", busy)
	}
}

// A kept statement sees what others have committed, and their changes of the schema. It
// holds up no writer.
func TestKeptStatementSeesChanges(t *testing.T) {
	conn, other := openKeeping(t)
	const query = `SELECT * FROM t ORDER BY n DESC LIMIT 1`
	for i, change := range []string{
		`SELECT 1`, `INSERT INTO t VALUES (5, 'e')`, `ALTER TABLE t ADD COLUMN more TEXT`, `DELETE FROM t WHERE n = 5`,
		`DROP TABLE t`, `CREATE TABLE t (n INTEGER)`,
	} {
		if _, err := other.ExecContext(t.Context(), change); err != nil {
			t.Fatalf("%s: %v", change, err)
		}
		got := "nothing"
		rows, err := conn.QueryContext(t.Context(), query)
		if err == nil {
			columns, _ := rows.Columns()
			got = fmt.Sprint(columns)
			for rows.Next() {
				dest := make([]any, len(columns))
				for i := range dest {
					dest[i] = new(any)
				}
				if err := rows.Scan(dest...); err != nil {
					t.Fatal(err)
				}
				got += fmt.Sprint(*dest[0].(*any))
			}
			err = rows.Close()
		}
		want := []string{"[n text]3", "[n text]5", "[n text more]5", "[n text more]3", "nothing", "[n]"}[i]
		if got != want || (err == nil) == (want == "nothing") {
			t.Errorf("after %s: %s, %v, want %s", change, got, err, want)
		}
	}
}
