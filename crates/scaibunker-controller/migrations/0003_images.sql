-- `config`, `entrypoint_env` and `source` are JSON. `registry_auth` is sealed with a key derived
-- from the capability secret. Images that workers bring along have the source `built_in`.
ALTER TABLE images RENAME TO built_in_images;

CREATE TABLE images (
    id TEXT NOT NULL PRIMARY KEY,
    name TEXT NOT NULL,
    scope TEXT NOT NULL,
    tenant_id TEXT REFERENCES tenants (id),
    partner_id TEXT REFERENCES partners (id),
    created_by TEXT REFERENCES users (id),
    created_at BIGINT NOT NULL,
    generation BIGINT NOT NULL DEFAULT 0,
    source TEXT NOT NULL,
    registry_auth TEXT,
    status TEXT NOT NULL,
    status_reason TEXT,
    digest TEXT,
    manifest_digest TEXT,
    -- Key of the compressed file system in the object store.
    stored_key TEXT,
    -- The worker that bakes it.
    baker_id TEXT,
    size_bytes BIGINT,
    size_mib BIGINT NOT NULL,
    default_cpu_millicores BIGINT NOT NULL,
    default_memory_mb BIGINT NOT NULL,
    default_disk_mb BIGINT NOT NULL,
    lazy_pull BIGINT NOT NULL DEFAULT 0,
    entrypoint_env TEXT NOT NULL DEFAULT '{}',
    config TEXT,
    -- What is deleted stays for the bunkers that it had; nobody sees it any more.
    deleted_at BIGINT
);

INSERT INTO images (id, name, scope, created_at, source, status, digest, size_bytes, size_mib,
    default_cpu_millicores, default_memory_mb, default_disk_mb)
SELECT id, name, 'platform', 0, '{"kind":"built_in"}', 'ready', digest, size_bytes, 2048,
    default_cpu_millicores, default_memory_mb, default_disk_mb
FROM built_in_images;

DROP TABLE built_in_images;

-- One built-in image for each name and digest; of the others one for each name and owner.
CREATE UNIQUE INDEX images_built_in ON images (name, digest) WHERE source = '{"kind":"built_in"}';
CREATE UNIQUE INDEX images_by_owner ON images (name, COALESCE(tenant_id, ''), COALESCE(partner_id, ''))
    WHERE deleted_at IS NULL AND source <> '{"kind":"built_in"}';
CREATE INDEX images_by_tenant ON images (tenant_id, id);

-- What each worker last said of an image, or what it is to be asked for next.
CREATE TABLE image_cache (
    image_id TEXT NOT NULL REFERENCES images (id),
    worker_id TEXT NOT NULL REFERENCES workers (id),
    status TEXT NOT NULL,
    progress BIGINT NOT NULL DEFAULT 0,
    cause TEXT,
    error TEXT,
    size_bytes BIGINT,
    updated_at BIGINT NOT NULL,
    PRIMARY KEY (image_id, worker_id)
);

CREATE INDEX image_cache_by_worker ON image_cache (worker_id);

CREATE TABLE availability_groups (
    id TEXT NOT NULL PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    is_default BIGINT NOT NULL DEFAULT 0,
    created_at BIGINT NOT NULL
);

CREATE TABLE availability_group_images (
    group_id TEXT NOT NULL REFERENCES availability_groups (id),
    image_id TEXT NOT NULL REFERENCES images (id),
    PRIMARY KEY (group_id, image_id)
);

CREATE INDEX availability_group_images_by_image ON availability_group_images (image_id);

CREATE TABLE availability_group_workers (
    group_id TEXT NOT NULL REFERENCES availability_groups (id),
    worker_id TEXT NOT NULL REFERENCES workers (id),
    PRIMARY KEY (group_id, worker_id)
);

CREATE INDEX availability_group_workers_by_worker ON availability_group_workers (worker_id);

-- `counts` and `findings` are JSON. A `running` scan whose lease is over is taken up by another.
CREATE TABLE image_scans (
    image_id TEXT NOT NULL PRIMARY KEY REFERENCES images (id),
    status TEXT NOT NULL,
    message TEXT,
    scanner TEXT,
    counts TEXT NOT NULL DEFAULT '{}',
    findings TEXT NOT NULL DEFAULT '[]',
    truncated BIGINT NOT NULL DEFAULT 0,
    requested_at BIGINT NOT NULL,
    lease_until BIGINT,
    finished_at BIGINT
);

CREATE INDEX image_scans_by_status ON image_scans (status, requested_at);
