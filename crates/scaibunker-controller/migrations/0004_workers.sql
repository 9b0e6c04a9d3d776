-- Since when a worker takes no new bunkers, because an operator said so.
ALTER TABLE workers ADD COLUMN drained_at BIGINT;
-- Bunkers that ended still name the workers they were on, so those stay, unseen.
ALTER TABLE workers ADD COLUMN removed_at BIGINT;
ALTER TABLE workers ADD COLUMN gpu_count BIGINT NOT NULL DEFAULT 0;
ALTER TABLE workers ADD COLUMN gpu_type TEXT;
-- Every worker's bunkers are looked at twice a minute.
CREATE INDEX bunkers_live_by_worker ON bunkers (worker_id)
    WHERE status IN ('pending', 'provisioning', 'running', 'paused', 'terminating');
-- The reaper looks every five seconds.
CREATE INDEX bunkers_by_expiry ON bunkers (status, expires_at);
CREATE INDEX bunkers_by_idleness ON bunkers
    (status, (COALESCE(last_active_at, started_at, created_at) + idle_timeout_us));
