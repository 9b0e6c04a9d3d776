-- Times are microseconds since the Unix epoch; ids and enumerations are their text on the wire.

CREATE TABLE tenants (
    id TEXT NOT NULL PRIMARY KEY,
    name TEXT NOT NULL,
    created_at BIGINT NOT NULL
);

CREATE TABLE users (
    id TEXT NOT NULL PRIMARY KEY,
    tenant_id TEXT NOT NULL REFERENCES tenants (id),
    name TEXT NOT NULL,
    role TEXT NOT NULL,
    created_at BIGINT NOT NULL
);

-- `hash` is the SHA-256 of the whole key in hexadecimal; the key itself is stored nowhere.
CREATE TABLE api_keys (
    id TEXT NOT NULL PRIMARY KEY,
    user_id TEXT NOT NULL REFERENCES users (id),
    name TEXT NOT NULL,
    hash TEXT NOT NULL UNIQUE,
    created_at BIGINT NOT NULL
);

-- `images` is a JSON array of what the worker last reported as ready.
CREATE TABLE workers (
    id TEXT NOT NULL PRIMARY KEY,
    name TEXT NOT NULL,
    version TEXT NOT NULL,
    engine TEXT NOT NULL,
    cpu_millicores BIGINT NOT NULL,
    memory_mb BIGINT NOT NULL,
    disk_mb BIGINT NOT NULL,
    images TEXT NOT NULL,
    last_heartbeat_at BIGINT NOT NULL
);

CREATE TABLE images (
    id TEXT NOT NULL PRIMARY KEY,
    name TEXT NOT NULL,
    digest TEXT NOT NULL,
    size_bytes BIGINT NOT NULL,
    default_cpu_millicores BIGINT NOT NULL,
    default_memory_mb BIGINT NOT NULL,
    default_disk_mb BIGINT NOT NULL,
    UNIQUE (name, digest)
);

-- `spec` is the JSON of what was asked for; what queries look at has columns of its own.
CREATE TABLE bunkers (
    id TEXT NOT NULL PRIMARY KEY,
    tenant_id TEXT NOT NULL REFERENCES tenants (id),
    owner_id TEXT NOT NULL REFERENCES users (id),
    worker_id TEXT NOT NULL REFERENCES workers (id),
    generation BIGINT NOT NULL,
    status TEXT NOT NULL,
    status_reason TEXT,
    lifecycle_mode TEXT NOT NULL,
    spec TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    started_at BIGINT,
    last_active_at BIGINT,
    expires_at BIGINT,
    terminated_at BIGINT
);

CREATE INDEX bunkers_by_status ON bunkers (status, id);
CREATE INDEX bunkers_by_owner ON bunkers (tenant_id, owner_id, id);

CREATE TABLE bunker_labels (
    bunker_id TEXT NOT NULL REFERENCES bunkers (id),
    name TEXT NOT NULL,
    value TEXT NOT NULL,
    PRIMARY KEY (name, value, bunker_id)
);

CREATE INDEX bunker_labels_by_bunker ON bunker_labels (bunker_id);

-- `answer` is the JSON of the first answer's data; NULL while that answer is still to come.
CREATE TABLE idempotency_keys (
    user_id TEXT NOT NULL REFERENCES users (id),
    key TEXT NOT NULL,
    request_hash TEXT NOT NULL,
    bunker_id TEXT NOT NULL REFERENCES bunkers (id),
    answer TEXT,
    created_at BIGINT NOT NULL,
    PRIMARY KEY (user_id, key)
);

CREATE INDEX idempotency_keys_by_age ON idempotency_keys (created_at);
