-- Events, many to a row, in the order in which they came.

DROP VIEW events;
DROP TABLE event;
DROP TABLE posting;

CREATE TABLE page (
  key     INTEGER PRIMARY KEY AUTOINCREMENT, -- never again: locators and compare-and-set rely on it
  first   INTEGER NOT NULL,                  -- the ids of the first and the last event,
  last    INTEGER NOT NULL,                  -- less than 65,536 apart
  count   INTEGER NOT NULL,                  -- events, dead ones included
  entries BLOB    NOT NULL,                  -- two checksums; of each event id, storage, length, dead or not
  lines   BLOB    NOT NULL                   -- with line feeds between them, and spaces in place of dead ones
) STRICT;
CREATE INDEX page_stretch ON page (first, last);

-- Where the events of a storage in a block are. On a server, written once per sealed block.
CREATE TABLE page_posting (
  storage INTEGER NOT NULL,
  block   INTEGER NOT NULL,                  -- ids (4096·block, 4096·(block+1)]
  count   INTEGER NOT NULL,                  -- events
  chunks  BLOB    NOT NULL,                  -- ids, pages, offsets, lengths and checksums of lines
  PRIMARY KEY (storage, block)
) STRICT, WITHOUT ROWID;
