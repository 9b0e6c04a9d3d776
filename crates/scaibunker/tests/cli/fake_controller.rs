//! A controller with one tenant, no workers and a memory of what it was asked.
//!
//! What a create brings is chosen by the image: `broken` fails, `full` is refused, `slow` waits
//! until the test allows it. What a command does is chosen by its first word, `fake_commands`.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use axum::{
    Json, Router,
    body::Body,
    extract::{DefaultBodyLimit, Path, Query, Request, State},
    http::{HeaderMap, StatusCode, header},
    middleware::{self, Next},
    response::{IntoResponse as _, Response},
    routing::{get, post, put},
};
use scaibunker_api::{
    API_PREFIX, REQUEST_ID_HEADER,
    ids::{BunkerId, ImageId, RequestId, TenantId, UserId, WorkerId},
};
use serde_json::{Value, json};
use tokio::{net::TcpListener, sync::watch, task::JoinHandle};

use crate::{
    fake_audit, fake_commands,
    fake_files::{self, Node},
    fake_lifecycle, fake_objects, fake_quotas, fake_shell,
};

pub const KEY: &str = "sgk_test";

/// What the controller was asked, in the order of the calls.
#[derive(Debug, Default, Clone)]
pub struct Seen {
    pub creates: Vec<Value>,
    pub execs: Vec<Value>,
    pub deletes: Vec<String>,
    /// Streamed commands whose client went away.
    pub cancelled: usize,
    pub bunkers: BTreeMap<String, Value>,
    /// Lets the creates of `slow` go on.
    pub slow_creates_may_go_on: bool,
    /// Commands that were started with `detach` or left input open, by id.
    pub started: BTreeMap<String, Value>,
    /// Input and signals of commands, with their ids.
    pub inputs: Vec<Value>,
    pub signals: Vec<(String, Value)>,
    /// The query of every shell, and what was typed into them.
    pub shells: Vec<BTreeMap<String, String>>,
    pub typed: Vec<u8>,
    /// The files of the bunkers, and what was done to them.
    pub files: BTreeMap<String, Node>,
    pub puts: Vec<String>,
    pub uploads: Vec<Value>,
    pub commits: Vec<Value>,
    /// What was sent to signed URLs, by key.
    pub objects: BTreeMap<String, Vec<u8>>,
    /// Objects that have a list route, oldest first, by the last part of that route.
    pub records: BTreeMap<String, Vec<Value>>,
    /// Groups and the users in them.
    pub members: BTreeSet<(String, String)>,
    /// Quota assignments, with their profiles in them.
    pub assignments: Vec<Value>,
    /// The queries of calls about the audit log.
    pub audit_queries: Vec<BTreeMap<String, String>>,
    /// Signed URLs are refused.
    pub store_is_full: bool,
}

impl Seen {
    /// Bunkers that nobody has ended.
    pub fn live(&self) -> usize {
        self.bunkers.values().filter(|bunker| is_live(bunker)).count()
    }
}

#[derive(Debug, Clone)]
pub struct FakeController {
    pub url: String,
    pub seen: Arc<watch::Sender<Seen>>,
    server: Arc<AbortOnDrop>,
}

#[derive(Debug)]
struct AbortOnDrop(JoinHandle<()>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

pub type App = Arc<watch::Sender<Seen>>;

impl FakeController {
    pub async fn start() -> Self {
        let seen: App = Arc::default();
        seen.send_modify(|seen| seen.files = fake_files::tree());
        let routes = Router::new()
            .route("/bunkers", post(create).get(list))
            .route("/bunkers/{id}", get(read).delete(delete).patch(fake_lifecycle::patch))
            .merge(fake_lifecycle::routes())
            .merge(fake_quotas::routes())
            .route("/bunkers/{id}/exec", post(fake_commands::exec))
            .route("/bunkers/{id}/execs", get(fake_commands::list))
            .route("/bunkers/{id}/execs/{exec_id}", get(fake_commands::record))
            .route("/bunkers/{id}/execs/{exec_id}/stream", get(fake_commands::attach))
            .route("/bunkers/{id}/execs/{exec_id}/input", post(fake_commands::input))
            .route("/bunkers/{id}/execs/{exec_id}/signal", post(fake_commands::signal))
            .route("/bunkers/{id}/shell", get(fake_shell::shell))
            .route("/bunkers/{id}/files/", get(fake_files::get).put(fake_files::put))
            .route(
                "/bunkers/{id}/files/{*path}",
                get(fake_files::get)
                    .put(fake_files::put)
                    .post(fake_files::post)
                    .delete(fake_files::delete),
            )
            .route("/images", get(images))
            .route("/workers", get(workers))
            .layer(middleware::from_fn(authorise))
            .layer(DefaultBodyLimit::disable())
            .with_state(Arc::clone(&seen));
        let signed = Router::new()
            .route("/signed/{*key}", put(fake_files::put_signed))
            .layer(DefaultBodyLimit::disable())
            .with_state(Arc::clone(&seen));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let platform = fake_objects::identity_routes()
            .merge(fake_audit::routes())
            .layer(middleware::from_fn(authorise))
            .with_state(Arc::clone(&seen));
        let app = Router::new().nest(API_PREFIX, routes).merge(platform).merge(signed);
        let server = tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
        Self { url, seen, server: Arc::new(AbortOnDrop(server)) }
    }

    /// Lets nobody in any more; connections that are open stay.
    pub fn stop_listening(&self) {
        self.server.0.abort();
    }

    pub fn seen(&self) -> Seen {
        self.seen.borrow().clone()
    }

    /// Waits until what was seen fits.
    pub async fn until(&self, fits: impl FnMut(&Seen) -> bool) {
        self.seen.subscribe().wait_for(fits).await.unwrap();
    }

    /// Makes bunkers without the program's help.
    pub fn add_bunker(&self, body: Value) -> String {
        let bunker = record(&body, "running", None);
        let id = bunker["id"].as_str().unwrap().to_owned();
        self.seen.send_modify(|seen| _ = seen.bunkers.insert(id.clone(), bunker));
        id
    }
}

async fn authorise(headers: HeaderMap, request: Request, next: Next) -> Response {
    match headers.get(header::AUTHORIZATION) {
        Some(key) if key.as_bytes() == format!("Bearer {KEY}").as_bytes() => {
            next.run(request).await
        }
        _ => error(StatusCode::UNAUTHORIZED, "UNAUTHORIZED", "the key is not known"),
    }
}

async fn create(
    State(app): State<App>,
    Query(query): Query<BTreeMap<String, String>>,
    Json(body): Json<Value>,
) -> Response {
    assert_eq!(query.get("wait").map(String::as_str), Some("true"));
    app.send_modify(|seen| seen.creates.push(body.clone()));
    let (status, reason) = match body["image"].as_str().unwrap() {
        "full" => {
            let message = "no worker has 256 MiB free; try later";
            return error(StatusCode::SERVICE_UNAVAILABLE, "WORKER_UNAVAILABLE", message);
        }
        "broken" => ("failed", Some("the kernel \u{1b}[31mpanicked")),
        "stuck" => ("provisioning", None),
        "slow" => {
            let mut seen = app.subscribe();
            seen.wait_for(|seen| seen.slow_creates_may_go_on).await.unwrap();
            ("running", None)
        }
        _ => ("running", None),
    };
    let bunker = record(&body, status, reason);
    let id = bunker["id"].as_str().unwrap().to_owned();
    app.send_modify(|seen| _ = seen.bunkers.insert(id, bunker.clone()));
    answer(StatusCode::CREATED, bunker)
}

fn record(body: &Value, status: &str, reason: Option<&str>) -> Value {
    let or = |field: &str, default: Value| match &body[field] {
        Value::Null => default,
        given => given.clone(),
    };
    json!({
        "id": BunkerId::generate(),
        "tenant_id": TenantId::generate(),
        "owner_id": UserId::generate(),
        "status": status,
        "status_reason": reason,
        "worker_id": null,
        "image_id": ImageId::generate(),
        "image": or("image", "busybox".into()),
        "snapshot_id": body["snapshot_id"],
        "parent_id": null,
        "lifecycle_mode": "ephemeral",
        "name": body["name"],
        "label_set": or("label_set", json!({})),
        "network_profile": or("network_profile", "isolated".into()),
        "network_allowlist": body["network_allowlist"],
        "interfaces": null,
        "cpu_millicores": or("cpu_millicores", 1000.into()),
        "memory_mb": or("memory_mb", 512.into()),
        "disk_mb": or("disk_mb", 1024.into()),
        "gpu_count": 0,
        "gpu_type": null,
        "max_lifetime_s": 3600,
        "idle_timeout_s": 300,
        "on_idle": or("on_idle", "terminate".into()),
        "pause_evict_after_s": body["pause_evict_after_s"],
        "session_type": "standalone",
        "session_ref": null,
        "env_vars": or("env_vars", json!({})),
        "bandwidth_mbit": null,
        "egress_audit": false,
        "created_at": "2026-01-02T03:04:05.678Z",
        "started_at": null,
        "last_active_at": null,
        "expires_at": null,
        "terminated_at": null,
        "evicted": false,
        "ip_address": null,
    })
}

async fn list(State(app): State<App>, Query(query): Query<BTreeMap<String, String>>) -> Response {
    let seen = app.borrow();
    let fitting = seen
        .bunkers
        .values()
        .rev()
        .filter(|bunker| query.get("status").is_none_or(|status| bunker["status"] == *status));
    page_answer(&fitting.cloned().collect::<Vec<_>>(), &query)
}

async fn read(State(app): State<App>, Path(id): Path<String>) -> Response {
    match app.borrow().bunkers.get(&id) {
        Some(bunker) => answer(StatusCode::OK, bunker.clone()),
        None => error(StatusCode::NOT_FOUND, "NOT_FOUND", "no such bunker"),
    }
}

async fn delete(State(app): State<App>, Path(id): Path<String>) -> Response {
    let mut found = false;
    app.send_modify(|seen| {
        seen.deletes.push(id.clone());
        if let Some(bunker) = seen.bunkers.get_mut(&id) {
            bunker["status"] = "terminated".into();
            found = true;
        }
    });
    if found {
        answer(StatusCode::OK, app.borrow().bunkers[&id].clone())
    } else {
        error(StatusCode::NOT_FOUND, "NOT_FOUND", "no such bunker")
    }
}

async fn images() -> Response {
    list_answer(json!([{
        "id": ImageId::generate(), "name": "busybox", "digest": "sha256:00", "scope": "platform",
        "created_at": "2026-01-02T03:04:05.678Z", "source": { "kind": "built_in" },
        "status": "ready", "size_bytes": 4_194_304, "size_mib": 2048, "default_cpu_millicores": 500,
        "default_memory_mb": 128, "default_disk_mb": 64, "lazy_pull": false, "entrypoint_env": {},
        "scan_status": "pending",
    }]))
}

async fn workers() -> Response {
    let capacity = json!({"cpu_millicores": 2000, "memory_mb": 24_064, "disk_mb": 50_000});
    list_answer(json!([{
        "id": WorkerId::generate(), "name": "here", "status": "online",
        "last_heartbeat": "2026-01-02T03:04:05.678Z", "version": "0.1.0",
        "engine": "fake 1 (tcg)", "capacity": capacity, "allocated": capacity, "images": [],
        "bunkers": 0, "drained_at": null,
    }]))
}

pub fn is_live(bunker: &Value) -> bool {
    bunker["status"] != "terminated" && bunker["status"] != "failed"
}

pub fn list_answer(data: Value) -> Response {
    let mut body = envelope(data);
    body["has_more"] = false.into();
    body["next_cursor"] = Value::Null;
    respond(StatusCode::OK, &body)
}

/// Two objects a page, so that cursors are followed.
pub fn page_answer(all: &[Value], query: &BTreeMap<String, String>) -> Response {
    let limit: usize = query.get("limit").map_or(50, |limit| limit.parse().unwrap());
    assert!((1..=200).contains(&limit));
    let start: usize = query
        .get("cursor")
        .map_or(0, |cursor| cursor.strip_prefix("at/").unwrap().parse().unwrap());
    let end = all.len().min(start + limit.min(2));
    let has_more = end < all.len();
    let mut body = envelope(json!(&all[start..end]));
    body["has_more"] = has_more.into();
    body["next_cursor"] = has_more.then(|| format!("at/{end}")).into();
    respond(StatusCode::OK, &body)
}

fn envelope(data: Value) -> Value {
    json!({"status": "ok", "data": data, "meta": {"request_id": RequestId::generate()}})
}

pub fn answer(status: StatusCode, data: Value) -> Response {
    respond(status, &envelope(data))
}

pub fn error(status: StatusCode, code: &str, message: &str) -> Response {
    let body = json!({
        "status": "error",
        "error": {"code": code, "message": message},
        "meta": {"request_id": RequestId::generate()},
    });
    respond(status, &body)
}

fn respond(status: StatusCode, body: &Value) -> Response {
    let id = body["meta"]["request_id"].as_str().unwrap().to_owned();
    let headers = [(REQUEST_ID_HEADER, id), ("content-type", "application/json".to_owned())];
    (status, headers, Body::from(body.to_string())).into_response()
}
