CREATE TABLE snapshots (
    id TEXT NOT NULL PRIMARY KEY,
    tenant_id TEXT NOT NULL,
    owner_id TEXT NOT NULL,
    bunker_id TEXT NOT NULL,
    image_id TEXT NOT NULL,
    -- Of the image below it, without which it means nothing.
    image_digest TEXT NOT NULL,
    name TEXT,
    kind TEXT NOT NULL,
    status TEXT NOT NULL,
    status_reason TEXT,
    -- What the bunker was, as JSON.
    spec TEXT NOT NULL,
    size_bytes BIGINT NOT NULL DEFAULT 0,
    stored_bytes BIGINT NOT NULL DEFAULT 0,
    manifest_digest TEXT,
    -- Names the secret that it is sealed with; NULL if it is not sealed.
    sealed_with TEXT,
    -- The controller that takes it.
    starter_id TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    expires_at BIGINT
);
CREATE INDEX snapshots_by_tenant ON snapshots (tenant_id, id);
CREATE INDEX snapshots_by_image ON snapshots (image_id);
CREATE INDEX snapshots_by_expiry ON snapshots (expires_at);
CREATE INDEX snapshots_by_status ON snapshots (status);

-- Objects with chunks. One is deleted some time after the last snapshot that refers to it.
CREATE TABLE packs (
    id TEXT NOT NULL PRIMARY KEY,
    tenant_id TEXT NOT NULL,
    -- 0 until it is stored: only then may others refer to it.
    size_bytes BIGINT NOT NULL DEFAULT 0,
    chunk_count BIGINT NOT NULL DEFAULT 0,
    -- Since when nothing refers to it. Nothing ever does again.
    unused_since BIGINT
);
CREATE INDEX packs_unused ON packs (unused_since);

CREATE TABLE snapshot_packs (
    snapshot_id TEXT NOT NULL,
    pack_id TEXT NOT NULL,
    PRIMARY KEY (snapshot_id, pack_id)
);
CREATE INDEX snapshot_packs_by_pack ON snapshot_packs (pack_id);

CREATE TABLE chunks (
    tenant_id TEXT NOT NULL,
    name TEXT NOT NULL,
    pack_id TEXT NOT NULL,
    number BIGINT NOT NULL,
    start BIGINT NOT NULL,
    length BIGINT NOT NULL,
    PRIMARY KEY (tenant_id, name, pack_id)
);
CREATE INDEX chunks_by_pack ON chunks (pack_id);
