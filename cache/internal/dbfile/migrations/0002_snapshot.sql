-- The state of a topic at a position, kept so that a question for a later one folds
-- only what has happened since. A copy also keeps those that it has fetched: where it
-- holds a window and not what came before, the state begins with them.

CREATE TABLE snapshot (
  id       INTEGER PRIMARY KEY AUTOINCREMENT,
  topic    TEXT    NOT NULL,
  at       INTEGER NOT NULL,
  form     TEXT    NOT NULL CHECK (form IN ('ids', 'lines')), -- what members are
  count    INTEGER NOT NULL DEFAULT 0,
  whole    INTEGER NOT NULL DEFAULT 0,  -- 0 while it is being written
  removals INTEGER NOT NULL,            -- the log's, when it was begun
  owner    TEXT,                        -- the process that writes it
  lease    INTEGER                      -- until when, ms since the epoch
) STRICT;
CREATE INDEX snapshot_at ON snapshot (at);

-- Some members, in the order of users and paths, and a checksum.
CREATE TABLE part (
  snapshot INTEGER NOT NULL,
  user     TEXT    NOT NULL,            -- of the last one
  path     TEXT    NOT NULL,
  members  BLOB    NOT NULL,
  PRIMARY KEY (snapshot, user, path)
) STRICT;
