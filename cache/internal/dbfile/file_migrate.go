package dbfile

import (
	"context"
	"database/sql"
	"embed"
	"errors"
	"fmt"
	"io/fs"
)

//go:embed migrations/*.sql
var migrations embed.FS

// applicationID marks our files among all SQLite files: "rstr".
const applicationID = 0x72737472

// migrationFiles returns the names of the migrations, the first one first. There are as
// many as the version of the schema that they lead to.
func migrationFiles() ([]string, error) { return fs.Glob(migrations, "migrations/*.sql") }

// migrate brings the schema up to date. Before it writes, it refuses files of other
// programs, of later versions, of another role and of another log.
func (f *File) migrate(ctx context.Context, cfg Options) error {
	files, err := migrationFiles()
	if err != nil {
		return err
	}
	version, err := schemaVersion(ctx, f.Read)
	switch {
	case err != nil:
		return err
	case version > len(files):
		return fmt.Errorf("%w (schema %d, this one knows %d)", ErrNewer, version, len(files))
	case version == 0 && cfg.Role == "" && f.walless:
		return ErrNoLog // being created
	case version == 0:
		return ErrNoIdentity
	}
	identity := f.loadIdentity(ctx, cfg, version)
	if identity != nil && !errors.Is(identity, errIsBackup) {
		return identity
	}
	if err := f.upgrade(ctx, cfg, files); err != nil {
		return err
	}
	return identity // a backup becomes a new log with the tables of this version
}

// migrateAll brings the schema from a version up to that of files, each migration in a
// transaction of its own.
func (f *File) migrateAll(ctx context.Context, version int, files []string) error {
	for ; version < len(files); version++ {
		if err := f.migrateTo(ctx, version+1, files[:version+1]); err != nil {
			return fmt.Errorf("migrate to schema %d: %w", version+1, err)
		}
	}
	return nil
}

func (f *File) migrateTo(ctx context.Context, version int, files []string) error {
	return f.Update(ctx, func(tx *sql.Tx) error {
		var now int
		if err := tx.QueryRowContext(ctx, `PRAGMA user_version`).Scan(&now); err != nil {
			return err
		}
		if now >= version {
			return nil // another process was faster
		}
		text, err := migrations.ReadFile(files[version-1])
		if err != nil {
			return err
		}
		return applySchema(ctx, tx, string(text), version)
	})
}

// readIdentity reads which log the file belongs to. If the row that says it is damaged, its
// copy does.
func (f *File) readIdentity(ctx context.Context, version int) error {
	if version < summedVersion {
		err := f.Read.QueryRowContext(ctx, `SELECT id, role FROM log`).Scan(&f.Log, &f.Role)
		if errors.Is(err, sql.ErrNoRows) {
			return ErrNoIdentity
		}
		return err
	}
	err := ScanLog(ctx, f.Read, `id, role`, &f.Log, &f.Role)
	if f.LogDamaged = errors.Is(err, ErrLogRow); !f.LogDamaged {
		return err
	}
	err = f.Read.QueryRowContext(ctx, `SELECT id, role FROM log_copy WHERE `+copySound).Scan(&f.Log, &f.Role)
	if !errors.Is(err, sql.ErrNoRows) {
		return err
	}
	var rows int
	if err := f.Read.QueryRowContext(ctx, `SELECT (SELECT count(*) FROM log) + (SELECT count(*) FROM log_copy)`).Scan(&rows); err != nil || rows > 0 {
		return errors.Join(err, ErrLogRow)
	}
	return ErrNoIdentity
}

// summedVersion is the version of the schema that brought checksums of rows.
const summedVersion = 8

func (f *File) loadIdentity(ctx context.Context, cfg Options, version int) error {
	err := f.readIdentity(ctx, version)
	switch {
	case err != nil:
		return err
	case f.Role == Backup && cfg.Role == Server && cfg.Mirror == nil:
		return errIsBackup
	case cfg.Role != "" && f.Role != cfg.Role:
		return f.Role.Wrong()
	case cfg.Log != "" && f.Log != cfg.Log:
		return fmt.Errorf("%w: %s, not %s", ErrOtherLog, f.Log, cfg.Log)
	}
	return f.checkMirror(ctx, cfg)
}

// errIsBackup means that the file is a backup and is to become a server's file.
var errIsBackup = errors.New("is a backup")
