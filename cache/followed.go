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

// FollowedSince returns the position at which a sync of a followed topic starts by default:
// Beginning, the one up to which Forget has removed the topic's events, or that of FollowAfter.
func (db *DB) FollowedSince(ctx context.Context, topic event.Topic) (since event.ID, err error) {
	err = db.file.ViewRow(ctx, `SELECT coalesce(max(since), 0) FROM followed WHERE topic = ?`, []any{topic.String()}, &since)
	return since, err
}

// FollowAfter moves FollowedSince of a followed topic up to a position, if it is before that.
func (db *DB) FollowAfter(ctx context.Context, topic event.Topic, since event.ID) error {
	err := db.file.Update(ctx, func(tx *sql.Tx) error { return startAfter(tx, topic, since) })
	return dbfile.Wrap(err, "remember where a topic starts")
}

// startAfter is FollowAfter in a transaction.
func startAfter(tx *sql.Tx, topic event.Topic, since event.ID) error {
	_, err := tx.Exec(`UPDATE followed SET since = max(since, ?1) WHERE topic = ?2`, since, topic.String())
	return err
}

// FollowSince moves FollowedSince of a followed topic back to a position, if it is after that.
func (db *DB) FollowSince(ctx context.Context, topic event.Topic, since event.ID) error {
	err := db.file.Update(ctx, func(tx *sql.Tx) error {
		_, err := tx.Exec(`UPDATE followed SET since = ?1 WHERE topic = ?2 AND since > ?1`, since, topic.String())
		return err
	})
	return dbfile.Wrap(err, "remember where a topic starts")
}

// Remember records topics as followed, and url as a server of this log. url must not
// contain a password. Either may be empty.
func (db *DB) Remember(ctx context.Context, topics []event.Topic, url string) error {
	err := db.file.Update(ctx, func(tx *sql.Tx) error {
		for _, t := range topics {
			if err := insertFollowed(tx, t, event.Beginning); err != nil {
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

// insertFollowed records a topic as followed, if it is not yet.
func insertFollowed(tx *sql.Tx, topic event.Topic, since event.ID) error {
	_, err := tx.Exec(`INSERT INTO followed (topic, since) VALUES (?, ?) ON CONFLICT DO NOTHING`, topic.String(), since)
	return err
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
