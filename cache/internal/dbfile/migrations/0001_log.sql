-- The file of one log. Positions and ids are integers here, text everywhere else.

CREATE TABLE log (
  one         INTEGER PRIMARY KEY CHECK (one = 1),
  id          TEXT    NOT NULL,           -- 16 characters of Crockford base32
  role        TEXT    NOT NULL CHECK (role IN ('server', 'client', 'backup')),
  parent      TEXT,                       -- the log this one was restored from
  parent_head INTEGER,                    -- and where it parted from it
  next        INTEGER NOT NULL,           -- the counter: the id of the next append
  time        INTEGER NOT NULL,           -- of the last append, µs; never goes back
  indexed     INTEGER NOT NULL,           -- events up to here have postings
  removals    INTEGER NOT NULL DEFAULT 0, -- how often stored events were removed
  fetched     INTEGER NOT NULL DEFAULT 0, -- events received so far, and the bytes
  received    INTEGER NOT NULL DEFAULT 0, -- of their lines
  saved       INTEGER NOT NULL DEFAULT 0  -- events that were asked for and held
) STRICT;

-- Storages stay for ever: processes remember their numbers.
CREATE TABLE storage (
  id   INTEGER PRIMARY KEY,
  user TEXT NOT NULL,
  path TEXT NOT NULL,
  UNIQUE (user, path)
) STRICT;
CREATE INDEX storage_path ON storage (path);

CREATE TABLE event (
  id      INTEGER PRIMARY KEY,
  storage INTEGER NOT NULL,
  line    TEXT    NOT NULL                -- the event's one line, as on the wire
) STRICT;

-- Which ids of a block belong to a storage: offsets into the block, two bytes
-- each, in the order they came. Written once per sealed block on a server.
CREATE TABLE posting (
  storage INTEGER NOT NULL,
  block   INTEGER NOT NULL,               -- ids (4096·block, 4096·(block+1)]
  offsets BLOB    NOT NULL,
  PRIMARY KEY (storage, block)
) STRICT, WITHOUT ROWID;

-- Every hash that this log ever took, so that an append is taken once for ever.
CREATE TABLE taken (
  hash BLOB PRIMARY KEY,
  id   INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- Leaves of digests that were once asked for, of whole sealed blocks: they never
-- change again. The table is bounded; used says which to drop first.
CREATE TABLE leaf (
  topic TEXT    NOT NULL,
  block INTEGER NOT NULL,
  count INTEGER NOT NULL,                 -- 0: the topic has no event in the block
  sum   BLOB    NOT NULL,
  used  INTEGER NOT NULL,                 -- µs
  PRIMARY KEY (topic, block)
) STRICT, WITHOUT ROWID;
CREATE INDEX leaf_used ON leaf (used);

CREATE TABLE window (
  id      INTEGER PRIMARY KEY AUTOINCREMENT, -- never again: a lease knows its windows by it
  topic   TEXT    NOT NULL,
  state   TEXT    NOT NULL CHECK (state IN ('pending', 'pulling', 'committed', 'live', 'failed')),
  start   INTEGER NOT NULL,
  reached INTEGER NOT NULL,               -- events up to here are held
  stop    INTEGER NOT NULL,               -- 2^63-1 while live
  moment  TEXT,                           -- what is known of a pending one
  proven  INTEGER NOT NULL DEFAULT 0,
  owner   TEXT,                           -- the process that fills it
  lease   INTEGER,                        -- until when, ms since the epoch
  error   TEXT
) STRICT;

CREATE TABLE cursor (
  name     TEXT PRIMARY KEY,
  topics   TEXT    NOT NULL,              -- one a line
  position INTEGER NOT NULL,
  owner    TEXT,
  lease    INTEGER
) STRICT, WITHOUT ROWID;

CREATE TABLE followed (
  topic TEXT PRIMARY KEY
) STRICT, WITHOUT ROWID;

-- The servers that were seen to serve this log.
CREATE TABLE source (
  url  TEXT PRIMARY KEY,
  seen INTEGER NOT NULL                   -- µs
) STRICT, WITHOUT ROWID;

-- For a person with a SQLite shell: SELECT value ->> '$.mag' FROM events …
CREATE VIEW events AS
SELECT e.id AS position,
       e.line ->> '$.id'   AS id,
       e.line ->> '$.time' AS time,
       s.user, s.path,
       e.line ->> '$.type' AS type,
       e.line ->> '$.key'  AS key,
       e.line ->> '$.hash' AS hash,
       e.line  -> '$.value' AS value
FROM event e JOIN storage s ON s.id = e.storage;
