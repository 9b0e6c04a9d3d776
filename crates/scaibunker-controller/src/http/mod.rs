//! Routes and extractors. A handler reads, authorises, calls one service function, answers.

mod actor;
mod answer;
mod body;
mod bunkers;
mod exec;
mod exec_events;
mod fault;
mod files;
mod health;
mod images;
mod page;
mod path;
mod query;
mod request_context;
mod shell;
mod sse;
mod storage;
mod worker_side;
mod workers;

use std::sync::Arc;

use axum::{
    Router,
    http::{Method, Uri},
    middleware,
    routing::{get, post},
};
use scaibunker_api::{
    API_PREFIX,
    error::{ErrorBody, ErrorCode},
};
use tower_http::catch_panic::CatchPanicLayer;

use self::fault::Fault;
use crate::app::App;

/// Every route of the process, `storage` among them, each in the envelope and under a request id.
pub fn router(app: Arc<App>, storage: Router) -> Router {
    let outputs = middleware::from_fn_with_state(Arc::clone(&app), storage::serve_outputs);
    let storage = storage.layer(outputs);
    let api = Router::new()
        .route("/bunkers", get(bunkers::list).post(bunkers::create))
        .route("/bunkers/{id}", get(bunkers::show).patch(bunkers::patch).delete(bunkers::end))
        .route("/bunkers/{id}/exec", post(exec::run))
        .route("/bunkers/{id}/execs", get(exec::list))
        .route("/bunkers/{id}/execs/{exec_id}", get(exec::show).delete(exec::end))
        .route("/bunkers/{id}/execs/{exec_id}/stream", get(exec::stream))
        .route("/bunkers/{id}/execs/{exec_id}/input", post(exec::input))
        .route("/bunkers/{id}/execs/{exec_id}/signal", post(exec::signal))
        .route("/bunkers/{id}/shell", get(shell::open))
        .route("/images", get(images::list))
        .route("/images/{id}", get(images::show))
        .route("/workers", get(workers::list))
        .route("/workers/{id}", get(workers::show))
        .route("/workers/register", post(worker_side::register))
        .route("/workers/{id}/heartbeat", post(worker_side::heartbeat))
        .route("/workers/{id}/link", get(worker_side::link))
        .merge(files::routes());
    Router::new()
        .nest(API_PREFIX, api)
        .route("/health", get(health::alive))
        .route("/health/ready", get(health::ready))
        .with_state(app)
        .nest(API_PREFIX, storage)
        .fallback(unknown_route)
        .method_not_allowed_fallback(unknown_method)
        .layer(CatchPanicLayer::custom(fault::of_panic))
        .layer(middleware::from_fn(request_context::with_request_id))
}

async fn unknown_route(method: Method, uri: Uri) -> Fault {
    let message = format!("there is no route {method} {}", shortened(uri.path()));
    ErrorBody::new(ErrorCode::NotFound, message).into()
}

async fn unknown_method(method: Method, uri: Uri) -> Fault {
    let message = format!(
        "{} does not take {method}; the `Allow` header has those it does",
        shortened(uri.path())
    );
    ErrorBody::new(ErrorCode::MethodNotAllowed, message).into()
}

fn shortened(path: &str) -> String {
    path.chars().take(200).collect()
}
