package cache

import (
	"context"
	"database/sql"
)

// Sources returns the URLs of servers known to serve the log, most recent first.
func (db *DB) Sources(ctx context.Context) (urls []string, err error) {
	err = db.file.View(ctx, func(tx *sql.Tx) error {
		rows, err := tx.Query(`SELECT url FROM source ORDER BY seen DESC, url`)
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			var url string
			if err := rows.Scan(&url); err != nil {
				return err
			}
			urls = append(urls, url)
		}
		return rows.Err()
	})
	return urls, err
}
