//! Objects of identity in memory, each made and changed as its wire types say.

use std::collections::BTreeMap;

use axum::{
    Json, Router,
    extract::{Path, Query, State},
    http::StatusCode,
    response::{IntoResponse as _, Response},
    routing::{get, put},
};
use scaibunker_api::{
    iam::{
        CreateApiKey, CreateCustomRole, CreateGroup, CreatePartner, CreateTenant, CreateUser,
        ModulePermissions, PatchCustomRole, PatchGroup, PatchPartner, PatchTenant, PatchUser,
    },
    ids::{ApiKeyId, CustomRoleId, GroupId, PartnerId, QuotaProfileId, TenantId, UserId},
    quota::{CreateQuotaProfile, PatchQuotaProfile},
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value, json};

use crate::fake_controller::{App, Seen, answer, error, page_answer};

/// The key that every new key's answer holds.
pub const NEW_KEY: &str = "sgk_made_just_now";

/// The caller's tenant, where objects are made unless the body names another.
pub const OWN_TENANT: &str = "ten_00000000000000000000000001";

type Parameters = Query<BTreeMap<String, String>>;

/// The routes below the root.
pub fn identity_routes() -> Router<App> {
    Router::new()
        .route("/v1/iam/me", get(me))
        .route("/v1/iam/{kind}", get(list).post(create))
        .route("/v1/iam/{kind}/{id}", get(read).patch(patch).delete(delete))
        .route("/v1/iam/groups/{id}/members", get(members))
        .route("/v1/iam/groups/{id}/members/{user_id}", put(add_member).delete(remove_member))
        .route("/v1/users/{id}/module-permissions", put(set_permissions))
}

async fn me() -> Response {
    let (created_at, key) = ("2026-01-02T03:04:05.678Z", "key_00000000000000000000000001");
    answer(
        StatusCode::OK,
        json!({
            "user": {
                "id": "usr_00000000000000000000000001", "tenant_id": OWN_TENANT, "name": "ada",
                "email": null, "role": "tenant_admin", "custom_role_ids": [],
                "module_permissions": ["scaibunker:root"], "oidc_subject": null,
                "status": "active", "created_at": created_at,
            },
            "tenant": {
                "id": OWN_TENANT, "partner_id": "prt_00000000000000000000000001", "name": "acme",
                "status": "active", "created_at": created_at,
            },
            "api_key_id": key,
            "permissions": ["scaibunker:create", "scaibunker:root"],
            "group_ids": ["grp_00000000000000000000000001"],
        }),
    )
}

pub async fn list(
    State(app): State<App>,
    Path(kind): Path<String>,
    Query(query): Parameters,
) -> Response {
    let seen = app.borrow();
    let objects = seen.records.get(&kind).map_or(&[][..], Vec::as_slice);
    let fits = |object: &&Value| {
        ["tenant_id", "partner_id", "user_id"]
            .into_iter()
            .all(|filter| query.get(filter).is_none_or(|id| object[filter] == *id))
    };
    let found: Vec<_> = objects.iter().rev().filter(fits).cloned().collect();
    page_answer(&found, &query)
}

pub async fn create(
    State(app): State<App>,
    Path(kind): Path<String>,
    Json(body): Json<Value>,
) -> Response {
    let mut made = None;
    app.send_modify(|seen| made = Some(make(seen, &kind, body)));
    match made.unwrap() {
        Ok(mut object) => {
            if kind == "api-keys" {
                object["key"] = NEW_KEY.into();
            }
            answer(StatusCode::CREATED, object)
        }
        Err(message) => error(StatusCode::UNPROCESSABLE_ENTITY, "VALIDATION_ERROR", &message),
    }
}

pub async fn read(State(app): State<App>, Path((kind, id)): Path<(String, String)>) -> Response {
    let seen = app.borrow();
    let found = seen.records.get(&kind).and_then(|all| all.iter().find(|one| one["id"] == *id));
    found.map_or_else(|| unknown(&id), |object| answer(StatusCode::OK, object.clone()))
}

pub async fn patch(
    State(app): State<App>,
    Path((kind, id)): Path<(String, String)>,
    Json(body): Json<Value>,
) -> Response {
    let checked = match kind.as_str() {
        "partners" => checked::<PatchPartner>(body),
        "tenants" => checked::<PatchTenant>(body),
        "users" => checked::<PatchUser>(body),
        "groups" => checked::<PatchGroup>(body),
        "custom-roles" => checked::<PatchCustomRole>(body),
        _ => checked::<PatchQuotaProfile>(body),
    };
    match checked {
        Ok(changes) => change(&app, &kind, &id, changes),
        Err(message) => error(StatusCode::UNPROCESSABLE_ENTITY, "VALIDATION_ERROR", &message),
    }
}

pub async fn delete(State(app): State<App>, Path((kind, id)): Path<(String, String)>) -> Response {
    // A key that is revoked stays in the records.
    if kind == "api-keys" {
        let revoked = json!({"revoked_at": "2026-01-02T03:04:06.000Z"});
        let is_known = change(&app, &kind, &id, revoked).status() == StatusCode::OK;
        return if is_known { StatusCode::NO_CONTENT.into_response() } else { unknown(&id) };
    }
    let is_gone = app.send_if_modified(|seen| {
        let objects = seen.records.entry(kind).or_default();
        let before = objects.len();
        objects.retain(|object| object["id"] != *id);
        objects.len() < before
    });
    if is_gone { StatusCode::NO_CONTENT.into_response() } else { unknown(&id) }
}

async fn set_permissions(
    State(app): State<App>,
    Path(id): Path<String>,
    Json(body): Json<ModulePermissions>,
) -> Response {
    change(&app, "users", &id, serde_json::to_value(body).unwrap())
}

async fn members(
    State(app): State<App>,
    Path(group): Path<String>,
    Query(query): Parameters,
) -> Response {
    let seen = app.borrow();
    let is_member = |user: &&Value| {
        let id = user["id"].as_str().unwrap().to_owned();
        seen.members.contains(&(group.clone(), id))
    };
    let found: Vec<_> = seen.records["users"].iter().filter(is_member).cloned().collect();
    page_answer(&found, &query)
}

async fn add_member(State(app): State<App>, Path(member): Path<(String, String)>) -> Response {
    app.send_modify(|seen| _ = seen.members.insert(member));
    StatusCode::NO_CONTENT.into_response()
}

async fn remove_member(State(app): State<App>, Path(member): Path<(String, String)>) -> Response {
    let was_member = app.send_if_modified(|seen| seen.members.remove(&member));
    if was_member { StatusCode::NO_CONTENT.into_response() } else { unknown(&member.1) }
}

/// Makes an object of a kind; the error says what of the body is wrong.
pub fn make(seen: &mut Seen, kind: &str, body: Value) -> Result<Value, String> {
    let mut object = match kind {
        "partners" => with_id(checked::<CreatePartner>(body)?, PartnerId::generate()),
        "tenants" => with_id(checked::<CreateTenant>(body)?, TenantId::generate()),
        "users" => with_id(checked::<CreateUser>(body)?, UserId::generate()),
        "groups" => with_id(checked::<CreateGroup>(body)?, GroupId::generate()),
        "custom-roles" => with_id(checked::<CreateCustomRole>(body)?, CustomRoleId::generate()),
        "api-keys" => with_id(checked::<CreateApiKey>(body)?, ApiKeyId::generate()),
        "quota-profiles" => {
            with_id(checked::<CreateQuotaProfile>(body)?, QuotaProfileId::generate())
        }
        other => return Err(format!("{other} cannot be made")),
    };
    let defaults = match kind {
        "tenants" => json!({"partner_id": PartnerId::generate(), "status": "active"}),
        "users" => json!({
            "tenant_id": OWN_TENANT, "email": null, "oidc_subject": null,
            "status": "active",
        }),
        "groups" => json!({"tenant_id": OWN_TENANT, "parent_id": null}),
        "custom-roles" => json!({"tenant_id": OWN_TENANT}),
        "api-keys" => json!({
            "user_id": UserId::generate(), "tenant_id": OWN_TENANT, "prefix": "sgk_made",
            "expires_at": null, "last_used_at": null, "revoked_at": null,
        }),
        "quota-profiles" => json!({
            "tenant_id": null, "description": null, "is_default": false,
            "max_concurrent_bunkers": null, "max_persistent_bunkers": null,
            "max_cpu_millicores": null, "max_memory_mb": null, "max_disk_mb": null,
            "max_gpu_count": null, "per_bunker_max_cpu": null, "per_bunker_max_memory": null,
            "per_bunker_max_disk": null, "per_bunker_max_gpu": null,
        }),
        _ => json!({}),
    };
    for (name, value) in defaults.as_object().unwrap() {
        object.as_object_mut().unwrap().entry(name).or_insert_with(|| value.clone());
    }
    seen.records.entry(kind.to_owned()).or_default().push(object.clone());
    Ok(object)
}

fn with_id(mut object: Value, id: impl Serialize) -> Value {
    object["id"] = json!(id);
    object["created_at"] = "2026-01-02T03:04:05.678Z".into();
    object
}

/// The body as the contract reads it.
fn checked<T: DeserializeOwned + Serialize>(body: Value) -> Result<Value, String> {
    let parsed: T = serde_json::from_value(body).map_err(|error| error.to_string())?;
    Ok(serde_json::to_value(parsed).unwrap())
}

fn change(app: &App, kind: &str, id: &str, changes: Value) -> Response {
    let mut changed = None;
    app.send_modify(|seen| {
        let objects = seen.records.entry(kind.to_owned()).or_default();
        if let Some(object) = objects.iter_mut().find(|object| object["id"] == *id) {
            object.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
            changed = Some(object.clone());
        }
    });
    changed.map_or_else(|| unknown(id), |object| answer(StatusCode::OK, object))
}

fn unknown(id: &str) -> Response {
    error(StatusCode::NOT_FOUND, "NOT_FOUND", &format!("there is no {id}"))
}
