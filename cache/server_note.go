package cache

import (
	"context"
	"database/sql"

	"github.com/rstream-dev/rstream/cache/internal/dbfile"
	"github.com/rstream-dev/rstream/event"
)

// A ServerNote is what clients of a copy have seen of one of several servers of its log.
type ServerNote struct {
	URL       string     // without a user and a password
	Seen      event.Time // when a client was last closed that had it as a server
	Head      event.ID   // the newest position that it reported
	Requests  int64
	Received  int64 // bytes of response bodies
	Speed     int64 // bytes a second when a response was last read; 0 if it is not known
	Overtaken int64 // responses that another server continued, because this one was slow

	Problem     string     // why it was left last; "" if it never was
	ProblemTime event.Time // when
	AsideUntil  event.Time // a wrong answer came from it: it is not asked until then; or 0
}

// The table of servers is made when a file gets its first note. Its name has the version of
// its form.
const createServerNotes = `
	CREATE TABLE IF NOT EXISTS server1 (
	  url          TEXT PRIMARY KEY,
	  seen         INTEGER NOT NULL,      -- µs
	  head         INTEGER NOT NULL,
	  requests     INTEGER NOT NULL,
	  received     INTEGER NOT NULL,      -- bytes
	  speed        INTEGER NOT NULL,      -- bytes a second, 0 if it is not known
	  overtaken    INTEGER NOT NULL,
	  problem      TEXT    NOT NULL,
	  problem_time INTEGER NOT NULL,      -- µs
	  aside_until  INTEGER NOT NULL       -- µs
	) STRICT, WITHOUT ROWID`

// NoteServers adds notes to those that the file has: their counts are added, and a speed or
// a problem that is known takes the place of an earlier one.
func (db *DB) NoteServers(ctx context.Context, notes []ServerNote) error {
	err := db.file.Update(ctx, func(tx *sql.Tx) error {
		if _, err := tx.Exec(createServerNotes); err != nil {
			return err
		}
		for i := range notes {
			n := &notes[i]
			_, err := tx.Exec(`
				INSERT INTO server1 (url, seen, head, requests, received, speed, overtaken, problem, problem_time, aside_until)
				VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
				ON CONFLICT DO UPDATE SET
				  seen         = max(seen, excluded.seen),
				  head         = max(head, excluded.head),
				  requests     = requests + excluded.requests,
				  received     = received + excluded.received,
				  speed        = iif(excluded.speed > 0, excluded.speed, speed),
				  overtaken    = overtaken + excluded.overtaken,
				  problem      = iif(excluded.problem <> '', excluded.problem, problem),
				  problem_time = iif(excluded.problem <> '', excluded.problem_time, problem_time),
				  aside_until  = max(aside_until, excluded.aside_until)`,
				n.URL, n.Seen, n.Head, n.Requests, n.Received, n.Speed, n.Overtaken, n.Problem, n.ProblemTime, n.AsideUntil)
			if err != nil {
				return err
			}
		}
		return nil
	})
	return dbfile.Wrap(err, "note the servers")
}

// ServerNotes returns the notes, in the order of the URLs.
func (db *DB) ServerNotes(ctx context.Context) (notes []ServerNote, err error) {
	err = db.file.View(ctx, func(tx *sql.Tx) error {
		notes = nil
		var n int
		err := tx.QueryRow(`SELECT count(*) FROM sqlite_master WHERE name = 'server1'`).Scan(&n)
		if err != nil || n == 0 {
			return err
		}
		rows, err := tx.Query(`
			SELECT url, seen, head, requests, received, speed, overtaken, problem, problem_time, aside_until
			FROM server1 ORDER BY url`)
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			var n ServerNote
			err := rows.Scan(&n.URL, &n.Seen, &n.Head, &n.Requests, &n.Received, &n.Speed, &n.Overtaken, &n.Problem, &n.ProblemTime, &n.AsideUntil)
			if err != nil {
				return err
			}
			notes = append(notes, n)
		}
		return rows.Err()
	})
	return notes, dbfile.Wrap(err, "read the notes of servers")
}
