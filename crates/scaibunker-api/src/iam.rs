//! Who there is: partners have tenants, tenants have users and groups, users have API keys.
//!
//! | route | takes | answers |
//! | --- | --- | --- |
//! | `GET POST /v1/iam/partners`, `GET PATCH DELETE …/{id}` | [`CreatePartner`], [`PatchPartner`] | [`Partner`] |
//! | `GET POST /v1/iam/tenants`, `GET PATCH DELETE …/{id}` | [`CreateTenant`], [`PatchTenant`] | [`Tenant`] |
//! | `GET POST /v1/iam/users`, `GET PATCH DELETE …/{id}` | [`CreateUser`], [`PatchUser`] | [`User`] |
//! | `PUT /v1/users/{id}/module-permissions` | [`ModulePermissions`] | [`User`] |
//! | `GET POST /v1/iam/groups`, `GET PATCH DELETE …/{id}` | [`CreateGroup`], [`PatchGroup`] | [`Group`] |
//! | `GET /v1/iam/groups/{id}/members` | | a page of [`User`] |
//! | `PUT DELETE /v1/iam/groups/{id}/members/{user_id}` | | 204 |
//! | `GET POST /v1/iam/api-keys`, `GET DELETE …/{id}` | [`CreateApiKey`] | [`ApiKey`], [`NewApiKey`] |
//! | `GET POST /v1/iam/custom-roles`, `GET PATCH DELETE …/{id}` | [`CreateCustomRole`], [`PatchCustomRole`] | [`CustomRole`] |
//! | `GET /v1/iam/me` | | [`Me`] |
//!
//! Lists of users, groups, API keys and custom roles take `tenant_id`, that of tenants
//! `partner_id`; a caller without it gets what it may see.

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    bunker::present,
    ids::{ApiKeyId, CustomRoleId, GroupId, PartnerId, TenantId, UserId},
    permission::Permission,
    time,
};

/// What a user may do before anything is granted, and how far that reaches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Everything, everywhere.
    SuperAdmin,
    /// All but `scaibunker:admin:platform`, in every tenant of the partner.
    PartnerAdmin,
    /// Reads, in every tenant of the partner.
    PartnerViewer,
    /// All but `scaibunker:admin` and `scaibunker:admin:platform`, in the tenant.
    TenantAdmin,
    /// What is granted, on the user's own bunkers.
    #[default]
    TenantUser,
    /// Reads, in the tenant.
    TenantViewer,
}

impl Role {
    /// Every role, most powerful first.
    pub const ALL: [Self; 6] = [
        Self::SuperAdmin,
        Self::PartnerAdmin,
        Self::PartnerViewer,
        Self::TenantAdmin,
        Self::TenantUser,
        Self::TenantViewer,
    ];

    /// The role as it appears on the wire.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::SuperAdmin => "super_admin",
            Self::PartnerAdmin => "partner_admin",
            Self::PartnerViewer => "partner_viewer",
            Self::TenantAdmin => "tenant_admin",
            Self::TenantUser => "tenant_user",
            Self::TenantViewer => "tenant_viewer",
        }
    }

    /// Reads what [`Self::as_str`] wrote.
    #[must_use]
    pub fn from_text(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|role| role.as_str() == text)
    }
}

/// Whether a tenant's or user's credentials are accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum AccountStatus {
    #[default]
    Active,
    Suspended,
}

/// A partner.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Partner {
    pub id: PartnerId,
    pub name: String,
    #[serde(with = "time")]
    #[schemars(with = "Timestamp")]
    pub created_at: Timestamp,
}

/// The body of `POST /v1/iam/partners`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CreatePartner {
    pub name: String,
}

/// The body of `PATCH /v1/iam/partners/{id}`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct PatchPartner {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
}

/// A tenant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Tenant {
    pub id: TenantId,
    pub partner_id: PartnerId,
    pub name: String,
    pub status: AccountStatus,
    #[serde(with = "time")]
    #[schemars(with = "Timestamp")]
    pub created_at: Timestamp,
}

/// The body of `POST /v1/iam/tenants`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateTenant {
    pub name: String,
    /// The caller's own partner unless given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub partner_id: Option<PartnerId>,
}

/// The body of `PATCH /v1/iam/tenants/{id}`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct PatchTenant {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<AccountStatus>,
}

/// A user.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct User {
    pub id: UserId,
    pub tenant_id: TenantId,
    pub name: String,
    pub email: Option<String>,
    pub role: Role,
    pub custom_role_ids: Vec<CustomRoleId>,
    /// Granted to this user beside the roles.
    pub module_permissions: Vec<Permission>,
    /// `sub` of the user's tokens from the configured OIDC issuer.
    pub oidc_subject: Option<String>,
    pub status: AccountStatus,
    #[serde(with = "time")]
    #[schemars(with = "Timestamp")]
    pub created_at: Timestamp,
}

/// The body of `POST /v1/iam/users`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateUser {
    pub name: String,
    /// The caller's own tenant unless given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenant_id: Option<TenantId>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub email: Option<String>,
    #[serde(default)]
    pub role: Role,
    #[serde(default)]
    pub custom_role_ids: Vec<CustomRoleId>,
    #[serde(default)]
    pub module_permissions: Vec<Permission>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub oidc_subject: Option<String>,
}

/// The body of `PATCH /v1/iam/users/{id}`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct PatchUser {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// `null` takes the address away.
    #[serde(deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    pub email: Option<Option<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub role: Option<Role>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub custom_role_ids: Option<Vec<CustomRoleId>>,
    /// `null` takes the subject away.
    #[serde(deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    pub oidc_subject: Option<Option<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<AccountStatus>,
}

/// The body of `PUT /v1/users/{id}/module-permissions`: what is granted to the user beside its roles.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ModulePermissions {
    pub module_permissions: Vec<Permission>,
}

/// A group of users. Members of a group are members of its parent too.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Group {
    pub id: GroupId,
    pub tenant_id: TenantId,
    pub parent_id: Option<GroupId>,
    pub name: String,
    #[serde(with = "time")]
    #[schemars(with = "Timestamp")]
    pub created_at: Timestamp,
}

/// The body of `POST /v1/iam/groups`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateGroup {
    pub name: String,
    /// The caller's own tenant unless given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenant_id: Option<TenantId>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent_id: Option<GroupId>,
}

/// The body of `PATCH /v1/iam/groups/{id}`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct PatchGroup {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// `null` makes it a group without a parent.
    #[serde(deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    pub parent_id: Option<Option<GroupId>>,
}

/// What is known of an API key; the key itself is stored nowhere.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ApiKey {
    pub id: ApiKeyId,
    pub user_id: UserId,
    pub tenant_id: TenantId,
    pub name: String,
    /// The key's first characters, to tell keys apart.
    pub prefix: String,
    #[serde(with = "time")]
    #[schemars(with = "Timestamp")]
    pub created_at: Timestamp,
    #[serde(with = "time::optional")]
    #[schemars(with = "Option<Timestamp>")]
    pub expires_at: Option<Timestamp>,
    /// To within a minute.
    #[serde(with = "time::optional")]
    #[schemars(with = "Option<Timestamp>")]
    pub last_used_at: Option<Timestamp>,
    #[serde(with = "time::optional")]
    #[schemars(with = "Option<Timestamp>")]
    pub revoked_at: Option<Timestamp>,
}

/// The body of `POST /v1/iam/api-keys`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateApiKey {
    pub name: String,
    /// The caller unless given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user_id: Option<UserId>,
    #[serde(default, with = "time::optional", skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<Timestamp>")]
    pub expires_at: Option<Timestamp>,
}

/// The answer to the making of an API key: the only one that ever holds the key.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct NewApiKey {
    #[serde(flatten)]
    pub record: ApiKey,
    /// `None` in the answer to a repeated request: nobody has the key but who got the first answer.
    pub key: Option<String>,
}

impl std::fmt::Debug for NewApiKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NewApiKey").field("record", &self.record).finish_non_exhaustive()
    }
}

/// A set of permissions with a name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct CustomRole {
    pub id: CustomRoleId,
    pub tenant_id: TenantId,
    pub name: String,
    pub module_permissions: Vec<Permission>,
    #[serde(with = "time")]
    #[schemars(with = "Timestamp")]
    pub created_at: Timestamp,
}

/// The body of `POST /v1/iam/custom-roles`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateCustomRole {
    pub name: String,
    pub module_permissions: Vec<Permission>,
    /// The caller's own tenant unless given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenant_id: Option<TenantId>,
}

/// The body of `PATCH /v1/iam/custom-roles/{id}`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct PatchCustomRole {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub module_permissions: Option<Vec<Permission>>,
}

/// The caller: the answer of `GET /v1/iam/me`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Me {
    pub user: User,
    pub tenant: Tenant,
    /// The API key that was used; `None` for a token of an OIDC issuer.
    pub api_key_id: Option<ApiKeyId>,
    /// Everything the caller may do: of its role, its custom roles and what it was granted.
    pub permissions: Vec<Permission>,
    /// Every group the caller belongs to, nested ones expanded.
    pub group_ids: Vec<GroupId>,
}
