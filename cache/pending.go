package cache

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"github.com/rstream-dev/rstream/cache/internal/dbfile"
	"github.com/rstream-dev/rstream/cache/internal/rows"
	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/window"
)

// pendTime is how long a process may make others wait that have a question, too.
const pendTime = 10 * time.Second

// keptAnswers is how many answers are kept for processes that waited.
const keptAnswers = 64

// A Pending is the pending window of a copy: a moment whose bounds a server is being
// asked for. It is used by one goroutine.
type Pending struct {
	db     *DB
	number int64
	topic  event.Topic
	moment event.Moment
	ended  bool
}

// Pend inserts the pending window of topic around a moment. All processes of a copy share
// one pending window at a time: if there is another one, Pend returns its number as busy,
// and the caller tries again later. A window whose process is gone or too slow is
// replaced.
func (ls Leases) Pend(ctx context.Context, topic event.Topic, moment event.Moment) (p *Pending, busy int64, err error) {
	if ls.db.file.Role != Client {
		return nil, 0, fmt.Errorf("pend %s at %s: %w", topic, moment, ls.db.file.Role.Wrong())
	}
	p = &Pending{db: ls.db, topic: topic, moment: moment}
	err = ls.db.file.Update(ctx, func(tx *sql.Tx) (err error) {
		if busy, err = ls.db.clearPending(tx); err != nil || busy != 0 {
			return err
		}
		w := rows.Window{Owner: ls.db.file.OwnerName(), Lease: ls.db.file.Now().Add(pendTime).UnixMilli()}
		w.Topic, w.State, w.At = topic, window.Pending, moment
		p.number, err = rows.InsertWindow(tx, &w)
		return err
	})
	if err != nil {
		return nil, 0, fmt.Errorf("pend %s at %s: %w", topic, moment, err)
	}
	if busy != 0 {
		return nil, busy, nil
	}
	return p, 0, nil
}

// clearPending removes the pending window if its process is gone or too slow. Otherwise
// it returns the window's number.
func (db *DB) clearPending(tx *sql.Tx) (busy int64, err error) {
	windows, err := rows.LoadSoundWindows(tx)
	if err != nil {
		return 0, err
	}
	for i := range windows {
		w := &windows[i]
		switch {
		case w.State != window.Pending:
		case !db.file.Stale(w.Owner, w.Lease):
			return w.ID, nil
		default:
			_, err := tx.Exec(`DELETE FROM window WHERE id = ?`, w.ID)
			return 0, err
		}
	}
	return 0, nil
}

// An Answer is a server's answer about a pending window.
type Answer struct {
	Moment string
	Body   []byte
}

// Answers returns the servers' answers about windows of the same topic that were pending
// since the one with a number, most recent first.
func (p *Pending) Answers(ctx context.Context, since int64) (answers []Answer, err error) {
	err = p.db.file.View(ctx, func(tx *sql.Tx) error {
		rows, err := tx.QueryContext(ctx, `SELECT moment, body FROM answer
			WHERE window >= ? AND topic = ? ORDER BY window DESC`, since, p.topic.String())
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			var a Answer
			if err := rows.Scan(&a.Moment, &a.Body); err != nil {
				return err
			}
			answers = append(answers, a)
		}
		return rows.Err()
	})
	return answers, dbfile.Wrap(err, "read the answers about %s", p.topic)
}

// End ends the pending window with the body of the server's answer, or with nil if there
// was none. Ending twice is fine.
func (p *Pending) End(ctx context.Context, body []byte) error {
	if p.ended {
		return nil
	}
	err := p.db.file.Update(ctx, func(tx *sql.Tx) error {
		if _, err := tx.Exec(`DELETE FROM window WHERE id = ?`, p.number); err != nil || body == nil {
			return err
		}
		_, err := tx.Exec(`INSERT INTO answer (window, topic, moment, body) VALUES (?, ?, ?, ?)`,
			p.number, p.topic.String(), p.moment.String(), string(body))
		_, err2 := tx.Exec(`DELETE FROM answer WHERE window NOT IN
			(SELECT window FROM answer ORDER BY window DESC LIMIT ?)`, keptAnswers)
		return errors.Join(err, err2)
	})
	p.ended = err == nil
	return dbfile.Wrap(err, "end the pending window of %s at %s", p.topic, p.moment)
}
