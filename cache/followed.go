package cache

import (
	"context"
	"database/sql"
	"fmt"

	"github.com/rstream-dev/rstream/cache/internal/dbfile"
	"github.com/rstream-dev/rstream/event"
)

// Followed returns the topics of a sync without topics.
func (db *DB) Followed(ctx context.Context) (topics []event.Topic, err error) {
	err = db.file.View(ctx, func(tx *sql.Tx) error {
		rows, err := tx.Query(`SELECT topic FROM followed ORDER BY topic`)
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			var text string
			if err := rows.Scan(&text); err != nil {
				return err
			}
			t, err := event.ParseTopic(text)
			if err != nil {
				return fmt.Errorf("%w: %w", ErrCorrupt, err)
			}
			topics = append(topics, t)
		}
		return rows.Err()
	})
	return topics, err
}

// Remember records topics as followed, and url as a server of this log. url must not
// contain a password. Either may be empty.
func (db *DB) Remember(ctx context.Context, topics []event.Topic, url string) error {
	err := db.file.Update(ctx, func(tx *sql.Tx) error {
		for _, t := range topics {
			if _, err := tx.Exec(`INSERT INTO followed (topic) VALUES (?) ON CONFLICT DO NOTHING`, t.String()); err != nil {
				return err
			}
		}
		if url == "" {
			return nil
		}
		_, err := tx.Exec(`INSERT INTO source (url, seen) VALUES (?, ?)
			ON CONFLICT DO UPDATE SET seen = excluded.seen`, url, event.TimeOf(db.file.Now()))
		return err
	})
	return dbfile.Wrap(err, "remember the topics")
}

// Unfollow ends that topics are followed, but not their parts. Their events and windows stay.
func (db *DB) Unfollow(ctx context.Context, topics ...event.Topic) error {
	err := db.file.Update(ctx, func(tx *sql.Tx) error {
		for _, t := range topics {
			if _, err := tx.Exec(`DELETE FROM followed WHERE topic = ?`, t.String()); err != nil {
				return err
			}
		}
		return nil
	})
	return dbfile.Wrap(err, "unfollow the topics")
}
