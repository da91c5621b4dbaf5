-- What a server has dropped, and until when. The horizon itself is where its window starts.

-- What is left at or below dropped is the state there; it is never above the horizon.
ALTER TABLE log ADD COLUMN dropped INTEGER NOT NULL DEFAULT 0;
-- Of the last event at or before the horizon, which may be gone; µs, 0 if nothing was dropped.
ALTER TABLE log ADD COLUMN horizon_time INTEGER NOT NULL DEFAULT 0;
-- Values set up to here have had their time: they were ended, or were none any more.
ALTER TABLE log ADD COLUMN expired INTEGER NOT NULL DEFAULT 0;
-- What retention's clock has shown last, µs.
ALTER TABLE log ADD COLUMN tick INTEGER NOT NULL DEFAULT 0;
