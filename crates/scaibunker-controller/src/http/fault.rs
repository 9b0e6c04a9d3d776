//! Errors in the envelope.

use std::any::Any;

use axum::{
    Json,
    http::{HeaderValue, header},
    response::{IntoResponse, Response},
};
use scaibunker_api::{
    envelope::{ErrorEnvelope, Status},
    error::{ErrorBody, ErrorCode},
};

use super::answer::meta;
use crate::failure::{Failure, chain, not_ready};

/// What a handler fails with.
#[derive(Debug)]
pub struct Fault(pub ErrorBody);

impl From<ErrorBody> for Fault {
    fn from(error: ErrorBody) -> Self {
        Self(error)
    }
}

impl From<Failure> for Fault {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Refused(error) => Self(error),
            Failure::Store(error) if error.is_passing() => {
                tracing::error!(error = chain(&error), "the database does not serve");
                Self(not_ready(
                    "the database does not serve at the moment, so it is not certain that this was \
                     done; try again shortly",
                ))
            }
            Failure::Store(error) => {
                tracing::error!(error = chain(&error), "the database failed a request");
                let message = "the database failed; the log has the cause under the request id";
                Self(ErrorBody::new(ErrorCode::Internal, message))
            }
        }
    }
}

impl IntoResponse for Fault {
    fn into_response(self) -> Response {
        let Self(error) = self;
        let (code, status, retry_after) = (error.code, error.code.http_status(), error.retry_after);
        let mut response =
            (status, Json(ErrorEnvelope { status: Status::Error, error, meta: meta() }))
                .into_response();
        // For the audit log.
        response.extensions_mut().insert(code);
        if let Some(seconds) = retry_after {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
    }
}

/// The answer to a request whose handler panicked.
pub(super) fn of_panic(panic: Box<dyn Any + Send>) -> Response {
    let text = panic
        .downcast_ref::<String>()
        .map(String::as_str)
        .or_else(|| panic.downcast_ref::<&str>().copied())
        .unwrap_or("no message");
    tracing::error!(panic = text, "a request handler panicked");
    let message = "a bug ended this request; the log has the cause under the request id";
    Fault(ErrorBody::new(ErrorCode::Internal, message)).into_response()
}

#[cfg(test)]
mod tests {
    use axum::{Router, body::Body, extract::Request, http::StatusCode, middleware, routing::get};
    use http_body_util::BodyExt as _;
    use scaibunker_api::REQUEST_ID_HEADER;
    use tower::ServiceExt as _;
    use tower_http::catch_panic::CatchPanicLayer;

    use super::*;
    use crate::http::request_context::with_request_id;

    async fn broken() {
        panic!("a bug with /secret/details");
    }

    #[tokio::test]
    async fn a_panic_is_answered_in_the_envelope_without_its_text() {
        let router: Router = Router::new()
            .route("/", get(broken))
            .layer(CatchPanicLayer::custom(of_panic))
            .layer(middleware::from_fn(with_request_id));
        let response = router.oneshot(Request::new(Body::empty())).await.unwrap();
        assert_eq!(response.status(), StatusCode::INTERNAL_SERVER_ERROR);
        let request_id = response.headers()[REQUEST_ID_HEADER].to_str().unwrap().to_owned();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        let answer: ErrorEnvelope = serde_json::from_slice(&body).unwrap();
        assert_eq!(answer.error.code, ErrorCode::Internal);
        assert_eq!(answer.meta.request_id.to_string(), request_id);
        assert!(!answer.error.message.contains("secret"));
    }
}
