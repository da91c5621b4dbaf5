-- Events are packed many to a row, in pages. The rows of earlier versions are moved there in
-- steps that the file need not be open for: until the last one is done, they are in old_event.
-- Under its old name, a process of an earlier version that has the file open would go on with
-- what is left of it; now it fails.

DROP VIEW events;
ALTER TABLE event RENAME TO old_event;
ALTER TABLE posting RENAME TO old_posting;

-- The members of states that were sealed here have places in pages now. They are sealed again.
DELETE FROM part WHERE snapshot IN (SELECT id FROM snapshot WHERE form = 'ids');
DELETE FROM snapshot WHERE form = 'ids';

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

-- Where the events of a storage in a block are. On a server, written once per sealed block.
CREATE TABLE page_posting (
  storage INTEGER NOT NULL,
  block   INTEGER NOT NULL,                  -- ids (4096·block, 4096·(block+1)]
  count   INTEGER NOT NULL,                  -- events
  chunks  BLOB    NOT NULL,                  -- ids, pages, offsets, lengths and checksums of lines
  PRIMARY KEY (storage, block)
) STRICT, WITHOUT ROWID;

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
