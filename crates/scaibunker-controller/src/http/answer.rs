//! Answers in the envelope.

use axum::{
    Json,
    http::StatusCode,
    response::{IntoResponse, Response},
};
use scaibunker_api::envelope::{Envelope, ListEnvelope, Meta, Status};
use serde::Serialize;

use super::request_context::current_request_id;

pub(super) fn meta() -> Meta {
    Meta { request_id: current_request_id() }
}

/// One object.
pub(super) struct Answer<T>(pub StatusCode, pub T);

impl<T> Answer<T> {
    pub(super) fn ok(data: T) -> Self {
        Self(StatusCode::OK, data)
    }
}

impl<T: Serialize> IntoResponse for Answer<T> {
    fn into_response(self) -> Response {
        let Self(code, data) = self;
        (code, Json(Envelope { status: Status::Ok, data, meta: meta() })).into_response()
    }
}

/// The id of what a request has made, among its answer's extensions.
#[derive(Debug, Clone)]
pub(super) struct MadeId(pub String);

/// An object that is new, and its id.
pub(super) struct Made<T>(pub String, pub T);

impl<T: Serialize> IntoResponse for Made<T> {
    fn into_response(self) -> Response {
        let Self(id, data) = self;
        let mut response = Answer(StatusCode::CREATED, data).into_response();
        response.extensions_mut().insert(MadeId(id));
        response
    }
}

/// A page of objects.
pub(super) struct ListAnswer<T> {
    pub data: Vec<T>,
    pub next_cursor: Option<String>,
}

impl<T: Serialize> IntoResponse for ListAnswer<T> {
    fn into_response(self) -> Response {
        Json(ListEnvelope {
            status: Status::Ok,
            data: self.data,
            has_more: self.next_cursor.is_some(),
            next_cursor: self.next_cursor,
            meta: meta(),
        })
        .into_response()
    }
}
