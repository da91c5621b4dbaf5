package dbfile

import (
	"context"
	"database/sql"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/rstream-dev/rstream/internal/testfile"
)

// olderFile creates a file as the version of a schema did.
func olderFile(t *testing.T, version int, role Role) (path string) {
	t.Helper()
	path = filepath.Join(t.TempDir(), fmt.Sprintf("%s-%d.db", role, version))
	files, err := migrationFiles()
	if err != nil {
		t.Fatal(err)
	}
	pool, err := openPool(path, 1, "mode=rwc"+tuning+"&_pragma=auto_vacuum(2)")
	if err != nil {
		t.Fatal(err)
	}
	defer pool.Close()
	tx, err := pool.Begin()
	if err != nil {
		t.Fatal(err)
	}
	for i, name := range files[:version] {
		text, err := migrations.ReadFile(name)
		if err == nil {
			err = applySchema(context.Background(), tx, string(text), i+1)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	_, err = tx.Exec(`INSERT INTO log (one, id, role, next, time, indexed) VALUES (1, '0123456789ABCDEF', ?, 1, 0, 0)`, string(role))
	if err == nil && version >= summedVersion {
		err = SumLog(tx)
	} else if err == nil && role == Server {
		_, err = tx.Exec(`INSERT INTO window (topic, state, start, reached, stop) VALUES ('*', 'committed', 0, 0, 0)`)
	}
	if err != nil {
		t.Fatal(err)
	}
	if err := tx.Commit(); err != nil {
		t.Fatal(err)
	}
	return path
}

// dropOld ends an upgrade of a file without events.
func dropOld(ctx context.Context, f *File, _ func(Progress)) error {
	return f.Update(ctx, func(tx *sql.Tx) error {
		_, err := tx.Exec(`DROP TABLE IF EXISTS old_event; DROP TABLE IF EXISTS old_posting; DROP TABLE old_page_posting`)
		return err
	})
}

// A file that has gone through the migrations has the schema of a new one.
func TestSchemaOfOldAndNew(t *testing.T) {
	files, err := migrationFiles()
	if err != nil {
		t.Fatal(err)
	}
	for _, role := range []Role{Server, Client} {
		want := schemaOf(t, filepath.Join(t.TempDir(), "new.db"), role)
		for version := 1; version < len(files); version++ {
			if got := schemaOf(t, olderFile(t, version, role), role); !slices.Equal(got, want) {
				t.Errorf("schema %d has become\n%s\na new file has\n%s", version, strings.Join(got, "\n"), strings.Join(want, "\n"))
			}
		}
	}
}

// schemaOf opens a file and returns the statements of its schema, sorted.
func schemaOf(t *testing.T, path string, role Role) (statements []string) {
	t.Helper()
	f, err := Open(context.Background(), path, Options{Role: role, Log: "0123456789ABCDEF", MoveEvents: dropOld})
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var version, app, vacuum int
	if err := f.ViewRow(context.Background(), `SELECT v.user_version, a.application_id, c.auto_vacuum
		FROM pragma_user_version v, pragma_application_id a, pragma_auto_vacuum c`, nil, &version, &app, &vacuum); err != nil {
		t.Fatal(err)
	}
	statements = []string{fmt.Sprint(version, app, vacuum)}
	rows, err := f.Read.Query(`SELECT type, name, tbl_name, coalesce(sql, '') FROM sqlite_schema`)
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	for rows.Next() {
		var kind, name, table, text string
		if err := rows.Scan(&kind, &name, &table, &text); err != nil {
			t.Fatal(err)
		}
		statements = append(statements, strings.Join([]string{kind, name, table, testfile.PlainSQL(text)}, " "))
	}
	if err := rows.Err(); err != nil {
		t.Fatal(err)
	}
	slices.Sort(statements)
	return statements
}
