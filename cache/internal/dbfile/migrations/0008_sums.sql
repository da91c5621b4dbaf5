-- Small rows get checksums: a bit that flips in one could hide events, move a reader or give
-- an id twice, and nothing would tell. A log's window is in its row from now on, of which
-- there is a copy.

ALTER TABLE log ADD COLUMN horizon INTEGER NOT NULL DEFAULT 0;
ALTER TABLE log ADD COLUMN sum INTEGER NOT NULL DEFAULT 0;
ALTER TABLE window ADD COLUMN sum INTEGER NOT NULL DEFAULT 0;
ALTER TABLE cursor ADD COLUMN sum INTEGER NOT NULL DEFAULT 0;
ALTER TABLE snapshot ADD COLUMN sum INTEGER NOT NULL DEFAULT 0;
ALTER TABLE bound ADD COLUMN sum INTEGER NOT NULL DEFAULT 0;
ALTER TABLE doubt ADD COLUMN sum INTEGER NOT NULL DEFAULT 0;

CREATE TABLE log_copy (
  one          INTEGER PRIMARY KEY CHECK (one = 1),
  id           TEXT    NOT NULL,
  role         TEXT    NOT NULL,
  parent       TEXT,
  parent_head  INTEGER,
  next         INTEGER NOT NULL,
  time         INTEGER NOT NULL,
  indexed      INTEGER NOT NULL,
  removals     INTEGER NOT NULL,
  fetched      INTEGER NOT NULL,
  received     INTEGER NOT NULL,
  saved        INTEGER NOT NULL,
  hashed       INTEGER NOT NULL,
  salt         INTEGER NOT NULL,
  dropped      INTEGER NOT NULL,
  horizon_time INTEGER NOT NULL,
  tick         INTEGER NOT NULL,
  horizon_mark TEXT    NOT NULL,
  seen         INTEGER NOT NULL,
  seen_mark    TEXT    NOT NULL,
  horizon      INTEGER NOT NULL,
  sum          INTEGER NOT NULL
) STRICT;

-- A window that does not fit the row is damaged; everything after what was dropped is there.
UPDATE log SET horizon = coalesce(
  (SELECT start FROM window WHERE topic = '*' AND state = 'committed' AND start BETWEEN log.dropped AND log.next - 1), dropped)
WHERE role <> 'client';
DELETE FROM window WHERE (SELECT role FROM log) <> 'client';

UPDATE window SET sum = row_sum(topic, state, start, reached, stop, moment, proven);
UPDATE cursor SET sum = row_sum(name, topics, position, state);
UPDATE snapshot SET sum = row_sum(topic, at, form, count, whole);
UPDATE bound SET sum = row_sum(at, time);
UPDATE doubt SET sum = row_sum(topic, start, stop);
UPDATE log SET sum = row_sum(id, role, parent, parent_head, next, time, indexed, removals, fetched, received, saved,
  hashed, salt, dropped, horizon_time, tick, horizon_mark, seen, seen_mark, horizon);
INSERT INTO log_copy SELECT * FROM log;
