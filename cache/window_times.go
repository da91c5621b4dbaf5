package cache

import (
	"context"
	"database/sql"
	"strings"

	"github.com/rstream-dev/rstream/cache/internal/dbfile"
	"github.com/rstream-dev/rstream/cache/internal/rows"
	"github.com/rstream-dev/rstream/event"
)

// NoteTimes stores, for positions at which windows begin or end, the time of the last
// event at or before each, as a server reported it. Moments are resolved with these times
// offline. Positions at which no window begins or ends any more are dropped.
func (db *DB) NoteTimes(ctx context.Context, times map[event.ID]event.Time) error {
	var news map[event.ID]event.Time
	err := db.file.View(ctx, func(tx *sql.Tx) (err error) {
		news, err = newTimes(tx, times)
		return err
	})
	if err == nil && len(news) > 0 {
		err = db.file.Update(ctx, func(tx *sql.Tx) error { return writeTimes(tx, news) })
	}
	return dbfile.Wrap(err, "note the times of windows")
}

// writeTimes writes times that newTimes has returned.
func writeTimes(tx *sql.Tx, news map[event.ID]event.Time) error {
	if len(news) == 0 {
		return nil
	}
	for at, t := range news {
		if _, err := tx.Exec(replaceBound, at, int64(t)); err != nil {
			return err
		}
	}
	_, err := tx.Exec(`DELETE FROM bound WHERE at NOT IN
		(SELECT start FROM window UNION SELECT reached FROM window UNION SELECT stop FROM window) OR NOT ` + rows.BoundSound)
	return err
}

var replaceBound = strings.Replace(dbfile.BoundTable.Insert(), "INSERT", "INSERT OR REPLACE", 1)

// newTimes returns those of times that belong in the file and are missing. The beginning has no
// time: with one, no later time would be after it.
func newTimes(tx *sql.Tx, times map[event.ID]event.Time) (news map[event.ID]event.Time, err error) {
	news = make(map[event.ID]event.Time)
	for at, t := range times {
		if at == event.Beginning {
			continue
		}
		var missing bool
		err := tx.QueryRow(`SELECT EXISTS (SELECT 1 FROM window WHERE ?1 IN (start, reached, stop))
			AND NOT EXISTS (SELECT 1 FROM bound WHERE at = ?1 AND time = ?2 AND `+rows.BoundSound+`)`, at, int64(t)).Scan(&missing)
		if err != nil {
			return nil, err
		}
		if missing {
			news[at] = t
		}
	}
	return news, nil
}
