-- Postings are of eight storages, so that a transaction changes an eighth as many rows. Those of
-- earlier versions are joined in steps that the file need not be open for: until the last one is
-- done, they are in old_page_posting.

ALTER TABLE page_posting RENAME TO old_page_posting;

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
