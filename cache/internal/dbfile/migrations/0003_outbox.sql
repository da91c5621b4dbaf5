-- What was written here and waits to be sent, and what came by file and is not proven.

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
  line    TEXT    NOT NULL                -- as in event
) STRICT;

-- Events of other logs that were imported. This log may have taken the same, under
-- another id and at another time.
CREATE TABLE foreign_event (
  hash    BLOB    NOT NULL,
  storage INTEGER NOT NULL,
  line    TEXT    NOT NULL,               -- with the other log's id and time
  UNIQUE (hash, storage)                  -- the hash names the storage, too
) STRICT;
