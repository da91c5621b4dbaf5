-- Every hash that a log ever took, so that an append is taken once for ever: in sorted
-- runs, merged as their number grows. Those of the last events, behind log.hashed, are in
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

-- taken is empty but in files of earlier versions: it becomes a run when a server opens
-- them. Hashes up to log.hashed are in runs, or in taken.
ALTER TABLE log ADD COLUMN hashed INTEGER NOT NULL DEFAULT 0;
ALTER TABLE log ADD COLUMN salt INTEGER NOT NULL DEFAULT 0; -- of filters: who chooses hashes does not know it
UPDATE log SET hashed = next - 1;
