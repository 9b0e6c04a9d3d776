-- Between which workers a bunker's memory can move.
ALTER TABLE workers ADD COLUMN cpu_class TEXT NOT NULL DEFAULT '';

-- Where the memory of a snapshot can go on; NULL of one without.
ALTER TABLE snapshots ADD COLUMN engine TEXT;
ALTER TABLE snapshots ADD COLUMN cpu_class TEXT;
-- Whether it is the memory of a bunker that was written out, which nobody sees and only that bunker uses.
ALTER TABLE snapshots ADD COLUMN is_evicted BIGINT NOT NULL DEFAULT 0;

-- Since when it is paused.
ALTER TABLE bunkers ADD COLUMN paused_at BIGINT;
-- The snapshot that has its memory and disk while no worker has them.
ALTER TABLE bunkers ADD COLUMN evicted_to TEXT;
CREATE INDEX bunkers_by_pause ON bunkers (paused_at);
