-- The file of one log, as a new one is created. Positions and ids are integers here, text
-- everywhere else. A file of an earlier version comes to the same by the migrations.

CREATE TABLE log (
  one          INTEGER PRIMARY KEY CHECK (one = 1),
  id           TEXT    NOT NULL,           -- 16 characters of Crockford base32
  role         TEXT    NOT NULL CHECK (role IN ('server', 'client', 'backup')),
  parent       TEXT,                       -- the log this one was restored from
  parent_head  INTEGER,                    -- and where it parted from it
  next         INTEGER NOT NULL,           -- the counter: the id of the next append
  time         INTEGER NOT NULL,           -- of the last append, µs; never goes back
  indexed      INTEGER NOT NULL,           -- events up to here have postings
  removals     INTEGER NOT NULL DEFAULT 0, -- how often stored events were removed
  fetched      INTEGER NOT NULL DEFAULT 0, -- events received so far, and the bytes
  received     INTEGER NOT NULL DEFAULT 0, -- of their lines
  saved        INTEGER NOT NULL DEFAULT 0, -- events that were asked for and held
  hashed       INTEGER NOT NULL DEFAULT 0, -- hashes up to here are in runs, or in taken
  salt         INTEGER NOT NULL DEFAULT 0, -- of filters: authors, who choose the hashes, do not know it
  dropped      INTEGER NOT NULL DEFAULT 0, -- what is left up to here is the state there; never above the horizon
  horizon_time INTEGER NOT NULL DEFAULT 0, -- of the last event at or before the horizon, which may be gone; µs, 0 if nothing was dropped
  tick         INTEGER NOT NULL DEFAULT 0, -- the last time of retention's clock, µs
  horizon_mark TEXT    NOT NULL DEFAULT '', -- of the same event as horizon_time; empty if it is not known
  seen         INTEGER NOT NULL DEFAULT 0, -- the newest position whose mark a server has sent to this copy,
  seen_mark    TEXT    NOT NULL DEFAULT '', -- and the mark
  horizon      INTEGER NOT NULL DEFAULT 0, -- a server's window is from here to the event before next
  sum          INTEGER NOT NULL DEFAULT 0  -- row_sum of the others but one, a checksum
) STRICT;

-- The row of log as it was when the last block was sealed, for the case that it is damaged.
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

-- Storages stay for ever: processes remember their numbers.
CREATE TABLE storage (
  id   INTEGER PRIMARY KEY,
  user TEXT NOT NULL,
  path TEXT NOT NULL,
  UNIQUE (user, path)
) STRICT;
CREATE INDEX storage_path ON storage (path);

-- Events, many to a row, in the order in which they came.
CREATE TABLE page (
  key     INTEGER PRIMARY KEY AUTOINCREMENT, -- never again: locators and compare-and-set rely on it
  first   INTEGER NOT NULL,                  -- the ids of the first and the last event,
  last    INTEGER NOT NULL,                  -- less than 65,536 apart
  count   INTEGER NOT NULL,                  -- events, dead ones included
  entries BLOB    NOT NULL,                  -- two checksums; of each event id, storage, length, dead or not
  lines   BLOB    NOT NULL                   -- with line feeds between them, and spaces in place of dead ones
) STRICT;
CREATE INDEX page_stretch ON page (first, last);

-- Where the events of eight storages in a block are: of storages 8·octet+1 to 8·octet+8. On a
-- server, written once per sealed block.
CREATE TABLE page_posting (
  octet   INTEGER NOT NULL,
  block   INTEGER NOT NULL,                  -- ids (4096·block, 4096·(block+1)]
  members INTEGER NOT NULL,                  -- a bit for each storage that has events, and 256 times the others'
  count   INTEGER NOT NULL,                  -- events
  chunks  BLOB    NOT NULL,                  -- ids and storages, pages, offsets, lengths and checksums of lines
  PRIMARY KEY (octet, block)
) STRICT, WITHOUT ROWID;

-- In files of earlier versions, every hash that the log ever took; empty once a server has
-- opened them, which makes a run of it.
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

-- The windows of a copy. A log has one, which is in its row.
CREATE TABLE window (
  id      INTEGER PRIMARY KEY AUTOINCREMENT, -- never again: a lease knows its windows by it
  topic   TEXT    NOT NULL,
  state   TEXT    NOT NULL CHECK (state IN ('pending', 'pulling', 'committed', 'live', 'failed')),
  start   INTEGER NOT NULL,
  reached INTEGER NOT NULL,               -- events up to here are held
  stop    INTEGER NOT NULL,               -- 2^63-1 while live
  moment  TEXT,                           -- the moment of a pending one
  proven  INTEGER NOT NULL DEFAULT 0,
  owner   TEXT,                           -- the process that fills it
  lease   INTEGER,                        -- until when, ms since the epoch
  error   TEXT,
  sum     INTEGER NOT NULL DEFAULT 0      -- row_sum (topic, state, start, reached, stop, moment, proven)
) STRICT;
-- All processes of a copy share one pending window.
CREATE UNIQUE INDEX window_pending ON window (state) WHERE state = 'pending';

CREATE TABLE cursor (
  name     TEXT PRIMARY KEY,
  topics   TEXT    NOT NULL,              -- one a line
  position INTEGER NOT NULL,
  owner    TEXT,
  lease    INTEGER,
  state    BLOB,                          -- of its holder, at this position: setting the position clears it
  sum      INTEGER NOT NULL DEFAULT 0     -- row_sum (name, topics, position, state)
) STRICT, WITHOUT ROWID;

CREATE TABLE followed (
  topic TEXT PRIMARY KEY,
  since INTEGER NOT NULL DEFAULT 0        -- a sync starts there: what came before was removed
) STRICT, WITHOUT ROWID;

-- The servers that were seen to serve this log.
CREATE TABLE source (
  url  TEXT PRIMARY KEY,
  seen INTEGER NOT NULL                   -- µs
) STRICT, WITHOUT ROWID;

-- The state of a topic at a position, kept so that a question for a later one folds
-- only what has happened since. A copy also keeps those that it has fetched: if it
-- holds a window and nothing before it, the state begins with them.
CREATE TABLE snapshot (
  id       INTEGER PRIMARY KEY AUTOINCREMENT,
  topic    TEXT    NOT NULL,
  at       INTEGER NOT NULL,
  form     TEXT    NOT NULL CHECK (form IN ('ids', 'lines')), -- of the members
  count    INTEGER NOT NULL DEFAULT 0,
  whole    INTEGER NOT NULL DEFAULT 0,  -- 0 while it is being written
  removals INTEGER NOT NULL,            -- the log's, when it was begun
  owner    TEXT,                        -- the process that writes it
  lease    INTEGER,                     -- until when, ms since the epoch
  sum      INTEGER NOT NULL DEFAULT 0   -- row_sum (topic, at, form, count, whole)
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

-- Appends that no server has acknowledged yet, in the order they were written.
CREATE TABLE outbox (
  number  INTEGER PRIMARY KEY AUTOINCREMENT,
  hash    BLOB    NOT NULL UNIQUE,
  draft   TEXT    NOT NULL,               -- one line, as it is sent
  time    INTEGER NOT NULL,               -- when it was written, µs
  refused TEXT                            -- why the server will never take it
) STRICT;

-- Events of this log that were imported and are not held. Nobody reads them as
-- events before a window that contains them is proven.
CREATE TABLE candidate (
  id      INTEGER PRIMARY KEY,
  storage INTEGER NOT NULL,
  line    TEXT    NOT NULL                -- the event's one line, as on the wire
) STRICT;

-- Events of other logs that were imported. This log may have taken the same, under
-- another id and at another time.
CREATE TABLE foreign_event (
  hash    BLOB    NOT NULL,
  storage INTEGER NOT NULL,
  line    TEXT    NOT NULL,               -- with the other log's id and time
  UNIQUE (hash, storage)                  -- the hash names the storage, too
) STRICT;

-- Every hash that a log ever took, so that an append is taken once for ever: in sorted
-- runs, merged as their number grows. Those of the last events, after log.hashed, are in
-- the events' lines, which must not be removed before. An index of hashes would cost
-- several times what the events themselves do.
CREATE TABLE run (
  id     INTEGER PRIMARY KEY AUTOINCREMENT,
  level  INTEGER NOT NULL,                -- how often it was merged; -1: made of taken, not done
  count  INTEGER NOT NULL,                -- of its hashes, those that are still to come included
  target INTEGER                          -- the run that it is being merged into
) STRICT;

-- For some slabs of a run: where they begin, and a part of the run's filter.
CREATE TABLE guard (
  id     INTEGER PRIMARY KEY,
  run    INTEGER NOT NULL,
  first  BLOB    NOT NULL,                -- the first hash
  fences BLOB    NOT NULL,                -- 8 bytes of the first hash of each slab
  lines  BLOB    NOT NULL,
  UNIQUE (run, first)
) STRICT;

-- A hundred hashes, which fill a page. The slabs of guard g have the ids 16·g, 16·g+1, …
CREATE TABLE slab (
  id     INTEGER PRIMARY KEY,
  hashes BLOB NOT NULL                    -- each with its id, 8 bytes
) STRICT;

-- Positions where windows begin and end, with the time of the last event at or before
-- each, as a server said it: a copy of some topics need not have that event.
CREATE TABLE bound (
  at   INTEGER PRIMARY KEY,
  time INTEGER NOT NULL,                  -- µs
  sum  INTEGER NOT NULL DEFAULT 0         -- row_sum (at, time)
) STRICT;

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

-- Stretches of a topic that are held and were found to differ from the server. They stay
-- until a digest agrees.
CREATE TABLE doubt (
  topic TEXT    NOT NULL,
  start INTEGER NOT NULL,
  stop  INTEGER NOT NULL,
  sum   INTEGER NOT NULL DEFAULT 0,       -- row_sum (topic, start, stop)
  PRIMARY KEY (topic, start)
) STRICT;

-- For a person with a SQLite shell: SELECT value ->> '$.mag' FROM events …
-- It has the events in the order in which they came, and reads all pages for each question;
-- a condition on page, which is page.key, leaves pages out. Lines that are not JSON make one
-- row of their page, which has no id.
CREATE VIEW events AS
SELECT (instr(a.digits, substr(l.value, 8, 1)) - 1 << 60)
     | (instr(a.digits, substr(l.value, 9, 1)) - 1 << 55)
     | (instr(a.digits, substr(l.value, 10, 1)) - 1 << 50)
     | (instr(a.digits, substr(l.value, 11, 1)) - 1 << 45)
     | (instr(a.digits, substr(l.value, 12, 1)) - 1 << 40)
     | (instr(a.digits, substr(l.value, 13, 1)) - 1 << 35)
     | (instr(a.digits, substr(l.value, 14, 1)) - 1 << 30)
     | (instr(a.digits, substr(l.value, 15, 1)) - 1 << 25)
     | (instr(a.digits, substr(l.value, 16, 1)) - 1 << 20)
     | (instr(a.digits, substr(l.value, 17, 1)) - 1 << 15)
     | (instr(a.digits, substr(l.value, 18, 1)) - 1 << 10)
     | (instr(a.digits, substr(l.value, 19, 1)) - 1 << 5)
     | (instr(a.digits, substr(l.value, 20, 1)) - 1) AS position,
       l.value ->> '$.id'   AS id,
       l.value ->> '$.time' AS time,
       l.value ->> '$.user' AS user,
       l.value ->> '$.path' AS path,
       l.value ->> '$.type' AS type,
       l.value ->> '$.key'  AS key,
       l.value ->> '$.hash' AS hash,
       l.value  -> '$.value' AS value,
       p.key AS page
FROM page p
JOIN (SELECT '0123456789' || 'ABCDEFGHJKMNPQRSTVWXYZ' AS digits) a
JOIN json_each('[' || iif(json_valid('[' || replace(CAST(p.lines AS TEXT), char(10), ',') || ']'),
       replace(CAST(p.lines AS TEXT), char(10), ','), 'null') || ']') l;
