-- What a copy says of windows and moments, and what a log says of its retention, is true
-- of every process that uses the file.

-- Positions where windows begin and end, with the time of the last event at or before
-- each, as a server said it: a copy of some topics need not have that event.
CREATE TABLE bound (
  at   INTEGER PRIMARY KEY,
  time INTEGER NOT NULL                   -- µs
) STRICT;

-- All processes of a copy share one pending window.
DELETE FROM window WHERE state = 'pending';
CREATE UNIQUE INDEX window_pending ON window (state) WHERE state = 'pending';

-- What servers answered about the latest pending windows, for processes that waited
-- to ask the same.
CREATE TABLE answer (
  window INTEGER PRIMARY KEY,             -- the number that the pending window had
  topic  TEXT NOT NULL,
  moment TEXT NOT NULL,
  body   TEXT NOT NULL                    -- JSON, as the server sent it
) STRICT;

-- For each topic with an age of its own, up to where values that have had their time were
-- looked for: they were ended, or were none any more.
CREATE TABLE expired (
  topic    TEXT PRIMARY KEY,
  position INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
INSERT INTO expired (topic, position) SELECT '*', expired FROM log WHERE expired > 0;
ALTER TABLE log DROP COLUMN expired;
-- Cursors: what their holder keeps beside the position, such as what stands in a pipe.
-- It means something only together with this position, so setting one clears the other.
ALTER TABLE cursor ADD COLUMN state BLOB;
-- Marks, by which a log that was put back to an older file is told from the right one.
-- Of the last event at or before the horizon, which may be gone; empty if it is not known.
ALTER TABLE log ADD COLUMN horizon_mark TEXT NOT NULL DEFAULT '';
-- The newest position whose mark this copy was told, and the mark.
ALTER TABLE log ADD COLUMN seen INTEGER NOT NULL DEFAULT 0;
ALTER TABLE log ADD COLUMN seen_mark TEXT NOT NULL DEFAULT '';

-- Servers, without the passwords that earlier versions kept in their URLs: the next sync
-- notes them again. What is deleted is overwritten.
PRAGMA secure_delete = ON;
DELETE FROM source WHERE url LIKE '%@%';
PRAGMA secure_delete = OFF;

-- Stretches of a topic that are held and were found to differ from the server. They stay
-- until a digest agrees.
CREATE TABLE doubt (
  topic TEXT    NOT NULL,
  start INTEGER NOT NULL,
  stop  INTEGER NOT NULL,
  PRIMARY KEY (topic, start)
) STRICT;
