-- Pages of new files have 8,192 bytes, and their postings say where a line is that is longer than
-- 4,061 bytes. Files of earlier versions keep their pages of 4,096 bytes.

-- Where a sync of the topic starts, after "forget --before".
ALTER TABLE followed ADD COLUMN since INTEGER NOT NULL DEFAULT 0;
