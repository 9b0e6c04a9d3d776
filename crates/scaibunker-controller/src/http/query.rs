//! Query parameters, with faults that name the parameter.

use std::error::Error as _;

use axum::{extract::FromRequestParts, http::request::Parts};
use scaibunker_api::error::ErrorBody;
use schemars::JsonSchema;
use serde::{Deserialize, de::DeserializeOwned};

use super::{body::field_of, fault::Fault};

/// The query of a route that takes none: a parameter that does nothing would mislead.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct NoQuery {}

/// The query, read as `T`.
pub(super) struct Query<T>(pub T);

impl<S: Sync, T: DeserializeOwned> FromRequestParts<S> for Query<T> {
    type Rejection = Fault;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Fault> {
        match axum::extract::Query::<T>::try_from_uri(&parts.uri) {
            Ok(axum::extract::Query(query)) => Ok(Self(query)),
            Err(rejection) => {
                let message = match rejection.source() {
                    Some(cause) => cause.to_string(),
                    None => rejection.body_text(),
                };
                Err(invalid(&message).into())
            }
        }
    }
}

/// A fault's text begins with the path of what it is about.
fn invalid(message: &str) -> ErrorBody {
    let (path, text) = match message.split_once(": ") {
        Some((path, text)) if !path.contains([' ', '`']) => (path, text),
        _ => ("", message),
    };
    let field = match field_of(path, text) {
        field if field == "body" => "query".to_owned(),
        field => field,
    };
    ErrorBody::invalid(field, text)
}
