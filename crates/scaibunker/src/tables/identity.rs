//! Who there is, as tables.

use comfy_table::Table;
use jiff::Timestamp;
use scaibunker_api::{
    iam::{AccountStatus, ApiKey, CustomRole, Group, Me, Partner, Tenant, User},
    permission::Permission,
};

use super::{ago, fields, or_dash, table, time};

fn status(status: AccountStatus) -> &'static str {
    match status {
        AccountStatus::Active => "active",
        AccountStatus::Suspended => "suspended",
    }
}

fn keys(permissions: &[Permission]) -> String {
    or_dash(permissions.iter().map(|permission| permission.key()).collect::<Vec<_>>().join(" "))
}

fn ids<T: ToString>(ids: &[T]) -> String {
    or_dash(ids.iter().map(ToString::to_string).collect::<Vec<_>>().join(" "))
}

/// Partners with their age at `now`.
pub fn partners(partners: &[Partner], now: Timestamp) -> Table {
    table(
        ["ID", "NAME", "CREATED"],
        partners.iter().map(|partner| {
            [partner.id.to_string(), partner.name.clone(), ago(partner.created_at, now)]
        }),
    )
}

/// Tenants with their age at `now`.
pub fn tenants(tenants: &[Tenant], now: Timestamp) -> Table {
    table(
        ["ID", "NAME", "STATUS", "PARTNER", "CREATED"],
        tenants.iter().map(|tenant| {
            [
                tenant.id.to_string(),
                tenant.name.clone(),
                status(tenant.status).to_owned(),
                tenant.partner_id.to_string(),
                ago(tenant.created_at, now),
            ]
        }),
    )
}

/// All of one tenant.
pub fn tenant(tenant: &Tenant) -> Table {
    fields([
        ("id", tenant.id.to_string()),
        ("name", tenant.name.clone()),
        ("status", status(tenant.status).to_owned()),
        ("partner", tenant.partner_id.to_string()),
        ("created", time(tenant.created_at)),
    ])
}

/// Users with their age at `now`.
pub fn users(users: &[User], now: Timestamp) -> Table {
    table(
        ["ID", "NAME", "ROLE", "STATUS", "EMAIL", "TENANT", "CREATED"],
        users.iter().map(|user| {
            [
                user.id.to_string(),
                user.name.clone(),
                user.role.as_str().to_owned(),
                status(user.status).to_owned(),
                or_dash(user.email.clone().unwrap_or_default()),
                user.tenant_id.to_string(),
                ago(user.created_at, now),
            ]
        }),
    )
}

/// All of one user.
pub fn user(user: &User) -> Table {
    fields([
        ("id", user.id.to_string()),
        ("name", user.name.clone()),
        ("status", status(user.status).to_owned()),
        ("tenant", user.tenant_id.to_string()),
        ("email", or_dash(user.email.clone().unwrap_or_default())),
        ("oidc subject", or_dash(user.oidc_subject.clone().unwrap_or_default())),
        ("role", user.role.as_str().to_owned()),
        ("custom roles", ids(&user.custom_role_ids)),
        ("granted", keys(&user.module_permissions)),
        ("created", time(user.created_at)),
    ])
}

/// The caller.
pub fn me(me: &Me) -> Table {
    let credential = me.api_key_id.map(|id| format!("API key {id}"));
    fields([
        ("user", format!("{} ({})", me.user.name, me.user.id)),
        ("tenant", format!("{} ({})", me.tenant.name, me.tenant.id)),
        ("role", me.user.role.as_str().to_owned()),
        ("custom roles", ids(&me.user.custom_role_ids)),
        ("groups", ids(&me.group_ids)),
        ("permissions", keys(&me.permissions)),
        ("credential", credential.unwrap_or_else(|| "token of the OIDC issuer".to_owned())),
    ])
}

/// Groups with their age at `now`.
pub fn groups(groups: &[Group], now: Timestamp) -> Table {
    table(
        ["ID", "NAME", "PARENT", "TENANT", "CREATED"],
        groups.iter().map(|group| {
            [
                group.id.to_string(),
                group.name.clone(),
                ids(group.parent_id.as_slice()),
                group.tenant_id.to_string(),
                ago(group.created_at, now),
            ]
        }),
    )
}

/// All of one group.
pub fn group(group: &Group) -> Table {
    fields([
        ("id", group.id.to_string()),
        ("name", group.name.clone()),
        ("parent", ids(group.parent_id.as_slice())),
        ("tenant", group.tenant_id.to_string()),
        ("created", time(group.created_at)),
    ])
}

/// Custom roles with their age at `now`.
pub fn custom_roles(roles: &[CustomRole], now: Timestamp) -> Table {
    table(
        ["ID", "NAME", "TENANT", "CREATED", "PERMISSIONS"],
        roles.iter().map(|role| {
            [
                role.id.to_string(),
                role.name.clone(),
                role.tenant_id.to_string(),
                ago(role.created_at, now),
                keys(&role.module_permissions),
            ]
        }),
    )
}

/// All of one custom role.
pub fn custom_role(role: &CustomRole) -> Table {
    fields([
        ("id", role.id.to_string()),
        ("name", role.name.clone()),
        ("tenant", role.tenant_id.to_string()),
        ("permissions", keys(&role.module_permissions)),
        ("created", time(role.created_at)),
    ])
}

/// API keys with whether they are in force at `now`.
pub fn api_keys(api_keys: &[ApiKey], now: Timestamp) -> Table {
    table(
        ["ID", "NAME", "KEY", "USER", "STATUS", "EXPIRES", "USED", "CREATED"],
        api_keys.iter().map(|key| {
            [
                key.id.to_string(),
                key.name.clone(),
                format!("{}…", key.prefix),
                key.user_id.to_string(),
                match (key.revoked_at, key.expires_at) {
                    (Some(_), _) => "revoked",
                    (None, Some(end)) if end <= now => "expired",
                    (None, _) => "active",
                }
                .to_owned(),
                key.expires_at.map_or_else(|| "never".to_owned(), time),
                key.last_used_at.map_or_else(|| "never".to_owned(), |used| ago(used, now)),
                ago(key.created_at, now),
            ]
        }),
    )
}
