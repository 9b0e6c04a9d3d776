-- What bunkers may have on a worker, as JSON.
ALTER TABLE workers ADD COLUMN network_profiles TEXT NOT NULL DEFAULT '["isolated"]';

-- Bridges of workers' hosts, which bunkers may be attached to.
CREATE TABLE bridges (
    id TEXT NOT NULL PRIMARY KEY,
    name TEXT NOT NULL,
    worker_id TEXT NOT NULL,
    mtu BIGINT,
    created_at BIGINT NOT NULL,
    UNIQUE (name, worker_id)
);

-- Of a bunker in its own network.
ALTER TABLE bunkers ADD COLUMN ip_address TEXT;
