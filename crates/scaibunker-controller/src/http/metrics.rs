//! `GET /metrics`.

use std::sync::Arc;

use axum::{
    extract::State,
    http::header,
    response::{IntoResponse, Response},
};
use scaibunker_api::error::{ErrorBody, ErrorCode};

use super::{fault::Fault, health_detailed::workers_by_status};
use crate::{app::App, failure::chain, metrics::CONTENT_TYPE};

pub(super) async fn metrics(State(app): State<Arc<App>>) -> Result<Response, Fault> {
    match app.store.count_live_bunkers().await {
        Ok(counts) => {
            app.metrics.set_bunkers(counts.into_iter().map(|(status, n)| (status.as_str(), n)));
        }
        // The rest is still worth having, most of all while the database is down.
        Err(error) => tracing::warn!(error = chain(&error), "bunkers cannot be counted"),
    }
    app.metrics.set_workers(workers_by_status(&app));
    let text = app.metrics.text().map_err(|error| {
        tracing::error!(%error, "the metrics cannot be written");
        ErrorBody::new(ErrorCode::Internal, "the metrics cannot be written")
    })?;
    Ok(([(header::CONTENT_TYPE, CONTENT_TYPE)], text).into_response())
}
