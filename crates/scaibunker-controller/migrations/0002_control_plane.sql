CREATE TABLE partners (
    id TEXT NOT NULL PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    created_at BIGINT NOT NULL
);

ALTER TABLE tenants ADD COLUMN partner_id TEXT REFERENCES partners (id);
ALTER TABLE tenants ADD COLUMN status TEXT NOT NULL DEFAULT 'active';
-- What is deleted stays for the bunkers that it had; nobody sees it any more.
ALTER TABLE tenants ADD COLUMN deleted_at BIGINT;
CREATE INDEX tenants_by_partner ON tenants (partner_id, id);

-- `module_permissions` is a JSON array of permission keys.
ALTER TABLE users ADD COLUMN email TEXT;
ALTER TABLE users ADD COLUMN module_permissions TEXT NOT NULL DEFAULT '[]';
ALTER TABLE users ADD COLUMN oidc_subject TEXT;
ALTER TABLE users ADD COLUMN status TEXT NOT NULL DEFAULT 'active';
ALTER TABLE users ADD COLUMN deleted_at BIGINT;
ALTER TABLE users ADD COLUMN generation BIGINT NOT NULL DEFAULT 0;
CREATE INDEX users_by_tenant ON users (tenant_id, id);
CREATE UNIQUE INDEX users_by_subject ON users (oidc_subject);

CREATE TABLE custom_roles (
    id TEXT NOT NULL PRIMARY KEY,
    tenant_id TEXT NOT NULL REFERENCES tenants (id),
    name TEXT NOT NULL,
    module_permissions TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    UNIQUE (tenant_id, name)
);

CREATE TABLE user_custom_roles (
    user_id TEXT NOT NULL REFERENCES users (id),
    custom_role_id TEXT NOT NULL REFERENCES custom_roles (id),
    PRIMARY KEY (user_id, custom_role_id)
);

CREATE INDEX user_custom_roles_by_role ON user_custom_roles (custom_role_id);

CREATE TABLE user_groups (
    id TEXT NOT NULL PRIMARY KEY,
    tenant_id TEXT NOT NULL REFERENCES tenants (id),
    parent_id TEXT REFERENCES user_groups (id),
    name TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    UNIQUE (tenant_id, name)
);

CREATE INDEX user_groups_by_parent ON user_groups (parent_id);

CREATE TABLE group_members (
    group_id TEXT NOT NULL REFERENCES user_groups (id),
    user_id TEXT NOT NULL REFERENCES users (id),
    PRIMARY KEY (user_id, group_id)
);

CREATE INDEX group_members_by_group ON group_members (group_id, user_id);

ALTER TABLE api_keys ADD COLUMN prefix TEXT NOT NULL DEFAULT '';
ALTER TABLE api_keys ADD COLUMN expires_at BIGINT;
ALTER TABLE api_keys ADD COLUMN last_used_at BIGINT;
ALTER TABLE api_keys ADD COLUMN revoked_at BIGINT;
CREATE INDEX api_keys_by_user ON api_keys (user_id, id);

-- `caps` is the JSON of the caps. `tenant_id` NULL: a profile of the platform.
CREATE TABLE quota_profiles (
    id TEXT NOT NULL PRIMARY KEY,
    tenant_id TEXT REFERENCES tenants (id),
    name TEXT NOT NULL,
    description TEXT,
    is_default BIGINT NOT NULL,
    caps TEXT NOT NULL,
    created_at BIGINT NOT NULL
);

CREATE INDEX quota_profiles_by_tenant ON quota_profiles (tenant_id, id);
CREATE UNIQUE INDEX quota_profiles_default ON quota_profiles (is_default) WHERE is_default = 1;

-- One target has one profile.
CREATE TABLE quota_assignments (
    id TEXT NOT NULL PRIMARY KEY,
    profile_id TEXT NOT NULL REFERENCES quota_profiles (id),
    target_kind TEXT NOT NULL,
    target_id TEXT NOT NULL,
    mode TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    UNIQUE (target_kind, target_id)
);

CREATE INDEX quota_assignments_by_profile ON quota_assignments (profile_id, id);

-- `buckets` is a JSON array of the quota buckets that the bunker was charged to.
ALTER TABLE bunkers ADD COLUMN buckets TEXT NOT NULL DEFAULT '[]';

-- Microseconds of idleness that end the bunker.
ALTER TABLE bunkers ADD COLUMN idle_timeout_us BIGINT;

-- `resource_id` and `answer` of a request that made something else than a bunker.
DROP TABLE idempotency_keys;
CREATE TABLE idempotency_keys (
    user_id TEXT NOT NULL REFERENCES users (id),
    key TEXT NOT NULL,
    request_hash TEXT NOT NULL,
    resource_id TEXT NOT NULL,
    answer TEXT,
    created_at BIGINT NOT NULL,
    PRIMARY KEY (user_id, key)
);

CREATE INDEX idempotency_keys_by_age ON idempotency_keys (created_at);

-- No references: an entry outlives what it is about.
CREATE TABLE audit_log (
    id TEXT NOT NULL PRIMARY KEY,
    at BIGINT NOT NULL,
    request_id TEXT NOT NULL,
    actor_id TEXT,
    api_key_id TEXT,
    tenant_id TEXT,
    action TEXT NOT NULL,
    resource_id TEXT,
    ip TEXT NOT NULL,
    status BIGINT NOT NULL,
    error TEXT
);

CREATE INDEX audit_log_by_tenant ON audit_log (tenant_id, id);

CREATE INDEX bunkers_by_tenant ON bunkers (tenant_id, id);
