//! The routes of identity in the table.

use scaibunker_api::{
    error::ErrorCode as Code,
    iam::{
        ApiKey, CreateApiKey, CreateCustomRole, CreateGroup, CreatePartner, CreateTenant,
        CreateUser, CustomRole, Group, Me, ModulePermissions, NewApiKey, Partner, PatchCustomRole,
        PatchGroup, PatchPartner, PatchTenant, PatchUser, Tenant, User,
    },
    ids::{ApiKeyId, CustomRoleId, GroupId, PartnerId, TenantId, UserId},
    permission::Permission,
};

use super::{
    super::{
        page::ListQuery,
        route::{
            Access::{Authenticated, Needs, Platform, Reads},
            Content, Route,
        },
    },
    TenantListQuery, api_keys, custom_roles, groups, me, partners, tenants, users,
};

/// Every route of identity.
pub(in crate::http) fn all() -> Vec<Route> {
    let me =
        Route::get("/v1/iam/me", "get_me", "Who you are, and what you may do", Authenticated, me)
            .answers::<Me>(200);
    let tables = [vec![me], partners(), tenants(), users(), groups(), api_keys(), custom_roles()];
    tables.into_iter().flatten().collect()
}

fn partners() -> Vec<Route> {
    vec![
        Route::get(
            "/v1/iam/partners",
            "list_partners",
            "Partners: all of them, or your own",
            Authenticated,
            partners::list,
        )
        .query::<ListQuery>()
        .lists::<Partner>(),
        Route::post(
            "/v1/iam/partners",
            "create_partner",
            "Make a partner",
            Platform(Permission::Admin),
            partners::create,
        )
        .with_idempotency()
        .body::<CreatePartner>()
        .answers::<Partner>(201)
        .fails(&[Code::AlreadyExists]),
        Route::get(
            "/v1/iam/partners/{id}",
            "get_partner",
            "A partner",
            Authenticated,
            partners::show,
        )
        .param::<PartnerId>("id")
        .answers::<Partner>(200),
        Route::patch(
            "/v1/iam/partners/{id}",
            "update_partner",
            "Rename a partner",
            Platform(Permission::Admin),
            partners::patch,
        )
        .param::<PartnerId>("id")
        .body::<PatchPartner>()
        .answers::<Partner>(200)
        .fails(&[Code::AlreadyExists]),
        Route::delete(
            "/v1/iam/partners/{id}",
            "delete_partner",
            "Delete a partner without tenants",
            Platform(Permission::Admin),
            partners::delete,
        )
        .param::<PartnerId>("id")
        .with_answer(204, Content::Nothing)
        .fails(&[Code::InUse]),
    ]
}

fn tenants() -> Vec<Route> {
    vec![
        Route::get(
            "/v1/iam/tenants",
            "list_tenants",
            "Tenants in your reach",
            Authenticated,
            tenants::list,
        )
        .query::<tenants::ListTenantsQuery>()
        .lists::<Tenant>(),
        Route::post(
            "/v1/iam/tenants",
            "create_tenant",
            "Make a tenant",
            Needs(Permission::Admin),
            tenants::create,
        )
        .with_idempotency()
        .body::<CreateTenant>()
        .answers::<Tenant>(201),
        Route::get("/v1/iam/tenants/{id}", "get_tenant", "A tenant", Authenticated, tenants::show)
            .param::<TenantId>("id")
            .answers::<Tenant>(200),
        Route::patch(
            "/v1/iam/tenants/{id}",
            "update_tenant",
            "Rename, suspend or restore a tenant",
            Needs(Permission::Admin),
            tenants::patch,
        )
        .param::<TenantId>("id")
        .body::<PatchTenant>()
        .answers::<Tenant>(200)
        .fails(&[Code::InUse]),
        Route::delete(
            "/v1/iam/tenants/{id}",
            "delete_tenant",
            "Delete a tenant that has nothing",
            Needs(Permission::Admin),
            tenants::delete,
        )
        .param::<TenantId>("id")
        .with_answer(204, Content::Nothing)
        .fails(&[Code::InUse]),
    ]
}

fn users() -> Vec<Route> {
    vec![
        Route::get(
            "/v1/iam/users",
            "list_users",
            "Users in your reach; yourself, if you are no admin",
            Authenticated,
            users::list,
        )
        .query::<TenantListQuery>()
        .lists::<User>(),
        Route::post(
            "/v1/iam/users",
            "create_user",
            "Make a user",
            Needs(Permission::AdminTenant),
            users::create,
        )
        .with_idempotency()
        .body::<CreateUser>()
        .answers::<User>(201)
        .fails(&[Code::AlreadyExists]),
        Route::get("/v1/iam/users/{id}", "get_user", "A user", Authenticated, users::show)
            .param::<UserId>("id")
            .answers::<User>(200),
        Route::patch(
            "/v1/iam/users/{id}",
            "update_user",
            "Change a user",
            Needs(Permission::AdminTenant),
            users::patch,
        )
        .param::<UserId>("id")
        .body::<PatchUser>()
        .answers::<User>(200)
        .fails(&[Code::AlreadyExists, Code::InUse]),
        Route::delete(
            "/v1/iam/users/{id}",
            "delete_user",
            "Delete a user without live bunkers, and revoke its keys",
            Needs(Permission::AdminTenant),
            users::delete,
        )
        .param::<UserId>("id")
        .with_answer(204, Content::Nothing)
        .fails(&[Code::InUse]),
        Route::put(
            "/v1/users/{id}/module-permissions",
            "set_module_permissions",
            "Grant a user exactly these permissions beside its roles",
            Needs(Permission::AdminTenant),
            users::grant,
        )
        .param::<UserId>("id")
        .body::<ModulePermissions>()
        .answers::<User>(200),
    ]
}

fn groups() -> Vec<Route> {
    vec![
        Route::get(
            "/v1/iam/groups",
            "list_groups",
            "Groups in your reach",
            Reads(Permission::AdminTenant),
            groups::list,
        )
        .query::<TenantListQuery>()
        .lists::<Group>(),
        Route::post(
            "/v1/iam/groups",
            "create_group",
            "Make a group",
            Needs(Permission::AdminTenant),
            groups::create,
        )
        .with_idempotency()
        .body::<CreateGroup>()
        .answers::<Group>(201)
        .fails(&[Code::AlreadyExists]),
        Route::get(
            "/v1/iam/groups/{id}",
            "get_group",
            "A group",
            Reads(Permission::AdminTenant),
            groups::show,
        )
        .param::<GroupId>("id")
        .answers::<Group>(200),
        Route::patch(
            "/v1/iam/groups/{id}",
            "update_group",
            "Rename a group, or move it with those below it",
            Needs(Permission::AdminTenant),
            groups::patch,
        )
        .param::<GroupId>("id")
        .body::<PatchGroup>()
        .answers::<Group>(200)
        .fails(&[Code::AlreadyExists]),
        Route::delete(
            "/v1/iam/groups/{id}",
            "delete_group",
            "Delete a group that nothing depends on",
            Needs(Permission::AdminTenant),
            groups::delete,
        )
        .param::<GroupId>("id")
        .with_answer(204, Content::Nothing)
        .fails(&[Code::InUse]),
        Route::get(
            "/v1/iam/groups/{id}/members",
            "list_group_members",
            "Members of the group itself",
            Reads(Permission::AdminTenant),
            groups::members,
        )
        .param::<GroupId>("id")
        .query::<ListQuery>()
        .lists::<User>(),
        Route::put(
            "/v1/iam/groups/{id}/members/{user_id}",
            "add_group_member",
            "Make a user a member; no error if it is one",
            Needs(Permission::AdminTenant),
            groups::add_member,
        )
        .param::<GroupId>("id")
        .param::<UserId>("user_id")
        .with_answer(204, Content::Nothing),
        Route::delete(
            "/v1/iam/groups/{id}/members/{user_id}",
            "remove_group_member",
            "End a membership",
            Needs(Permission::AdminTenant),
            groups::remove_member,
        )
        .param::<GroupId>("id")
        .param::<UserId>("user_id")
        .with_answer(204, Content::Nothing),
    ]
}

fn api_keys() -> Vec<Route> {
    vec![
        Route::get(
            "/v1/iam/api-keys",
            "list_api_keys",
            "API keys in your reach; your own, if you are no admin",
            Authenticated,
            api_keys::list,
        )
        .query::<api_keys::ListApiKeysQuery>()
        .lists::<ApiKey>(),
        Route::post(
            "/v1/iam/api-keys",
            "create_api_key",
            "Make an API key; its text is in this answer alone",
            Authenticated,
            api_keys::create,
        )
        .with_idempotency()
        .body::<CreateApiKey>()
        .answers::<NewApiKey>(201)
        .fails(&[Code::NotFound]),
        Route::get(
            "/v1/iam/api-keys/{id}",
            "get_api_key",
            "What is known of an API key",
            Authenticated,
            api_keys::show,
        )
        .param::<ApiKeyId>("id")
        .answers::<ApiKey>(200),
        Route::delete(
            "/v1/iam/api-keys/{id}",
            "revoke_api_key",
            "Revoke an API key",
            Authenticated,
            api_keys::revoke,
        )
        .param::<ApiKeyId>("id")
        .with_answer(204, Content::Nothing),
    ]
}

fn custom_roles() -> Vec<Route> {
    vec![
        Route::get(
            "/v1/iam/custom-roles",
            "list_custom_roles",
            "Custom roles in your reach",
            Reads(Permission::AdminTenant),
            custom_roles::list,
        )
        .query::<TenantListQuery>()
        .lists::<CustomRole>(),
        Route::post(
            "/v1/iam/custom-roles",
            "create_custom_role",
            "Make a custom role",
            Needs(Permission::AdminTenant),
            custom_roles::create,
        )
        .with_idempotency()
        .body::<CreateCustomRole>()
        .answers::<CustomRole>(201)
        .fails(&[Code::AlreadyExists]),
        Route::get(
            "/v1/iam/custom-roles/{id}",
            "get_custom_role",
            "A custom role",
            Reads(Permission::AdminTenant),
            custom_roles::show,
        )
        .param::<CustomRoleId>("id")
        .answers::<CustomRole>(200),
        Route::patch(
            "/v1/iam/custom-roles/{id}",
            "update_custom_role",
            "Change a custom role, and what all who have it may do",
            Needs(Permission::AdminTenant),
            custom_roles::patch,
        )
        .param::<CustomRoleId>("id")
        .body::<PatchCustomRole>()
        .answers::<CustomRole>(200)
        .fails(&[Code::AlreadyExists, Code::InUse]),
        Route::delete(
            "/v1/iam/custom-roles/{id}",
            "delete_custom_role",
            "Delete a custom role that nobody has",
            Needs(Permission::AdminTenant),
            custom_roles::delete,
        )
        .param::<CustomRoleId>("id")
        .with_answer(204, Content::Nothing)
        .fails(&[Code::InUse]),
    ]
}
