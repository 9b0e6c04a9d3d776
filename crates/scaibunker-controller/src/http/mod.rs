//! Routes and extractors. A handler reads, authorises, calls one service function, answers.

mod actor;
mod answer;
mod audit;
mod availability_groups;
mod body;
mod bridges;
mod bunkers;
mod client_ip;
mod exec;
mod exec_events;
mod fault;
mod files;
mod guard;
mod health;
mod health_detailed;
mod iam;
mod idempotency;
mod images;
mod lifecycle;
mod metrics;
mod openapi;
mod page;
mod path;
mod query;
mod quotas;
mod request_context;
mod route;
mod routes;
mod shell;
mod snapshots;
mod sse;
mod storage;
mod worker_side;
mod workers;

use std::sync::Arc;

use axum::{
    Router,
    http::{Method, Uri},
    middleware,
};
use scaibunker_api::{
    API_PREFIX,
    error::{ErrorBody, ErrorCode},
};
use tower_http::catch_panic::CatchPanicLayer;

pub use self::client_ip::Peer;
use self::{fault::Fault, guard::Guard, route::Route};
use crate::app::App;

/// Every route of the process, `storage` among them, each in the envelope and under a request id.
pub fn router(app: Arc<App>, storage: Router) -> Router {
    let outputs = guarded(&app, [routes::output()]);
    let to_outputs = middleware::from_fn_with_state(
        storage::Outputs { app: Arc::clone(&app), router: outputs },
        storage::serve_outputs,
    );
    let output = routes::output().info.operation;
    let api = routes::all().into_iter().filter(|route| route.info.operation != output);
    guarded(&app, api)
        .merge(Router::new().nest(API_PREFIX, storage).layer(to_outputs))
        .fallback(unknown_route)
        .method_not_allowed_fallback(unknown_method)
        .layer(CatchPanicLayer::custom(fault::of_panic))
        .layer(middleware::from_fn(request_context::with_request_id))
}

/// A router of the table's entries, each behind its guard.
fn guarded(app: &Arc<App>, routes: impl IntoIterator<Item = Route>) -> Router {
    let mut router = Router::new();
    for Route { info, aliases, handler } in routes {
        let Some(handler) = handler else { continue };
        let path = info.path;
        let guard = Guard { app: Arc::clone(app), route: Arc::new(info) };
        let handler = handler
            .route_layer(CatchPanicLayer::custom(fault::of_panic))
            .route_layer(middleware::from_fn_with_state(guard, guard::pass));
        for path in aliases.into_iter().chain([path]) {
            router = router.route(path, handler.clone());
        }
    }
    router.with_state(Arc::clone(app))
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
