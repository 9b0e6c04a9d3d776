-- The controllers that share this database. One that was not seen for a while is gone.
CREATE TABLE controllers (
    id TEXT NOT NULL PRIMARY KEY,
    -- Where workers and other controllers reach this one itself; none of one that is alone.
    url TEXT,
    seen_at BIGINT NOT NULL
);

-- Background tasks that one of them runs.
CREATE TABLE task_leases (
    name TEXT NOT NULL PRIMARY KEY,
    holder_id TEXT NOT NULL,
    until BIGINT NOT NULL
);

-- The controller that starts the bunker: what becomes of it is that one's to write down, as long as
-- it lives.
ALTER TABLE bunkers ADD COLUMN starter_id TEXT;
