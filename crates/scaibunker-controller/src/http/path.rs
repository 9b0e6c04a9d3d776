//! Ids in paths.

use std::str::FromStr;

use axum::{extract::FromRequestParts, http::request::Parts};
use scaibunker_api::{
    error::{ErrorBody, ErrorCode},
    ids::{BunkerId, ExecId, InvalidId},
};

use super::fault::Fault;

/// The `{id}` of the route. What is no id is the id of nothing.
pub(super) struct PathId<T>(pub T);

impl<S: Send + Sync, T: FromStr<Err: std::fmt::Display>> FromRequestParts<S> for PathId<T> {
    type Rejection = Fault;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Fault> {
        let axum::extract::Path(text) =
            axum::extract::Path::<String>::from_request_parts(parts, state)
                .await
                .map_err(|_| not_found("the path cannot be read".to_owned()))?;
        text.parse().map(Self).map_err(|error: T::Err| not_found(error.to_string()))
    }
}

/// The `{id}` and `{exec_id}` of the route.
pub(super) struct PathExec(pub BunkerId, pub ExecId);

impl<S: Send + Sync> FromRequestParts<S> for PathExec {
    type Rejection = Fault;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Fault> {
        let axum::extract::Path((bunker, exec)) =
            axum::extract::Path::<(String, String)>::from_request_parts(parts, state)
                .await
                .map_err(|_| not_found("the path cannot be read".to_owned()))?;
        let bunker = bunker.parse().map_err(|error: InvalidId| not_found(error.to_string()))?;
        let no_exec =
            |error: InvalidId| Fault(ErrorBody::new(ErrorCode::ExecNotFound, error.to_string()));
        Ok(Self(bunker, exec.parse().map_err(no_exec)?))
    }
}

/// The two ids of the route, in their order.
pub(super) struct PathPair<A, B>(pub A, pub B);

impl<S, A, B> FromRequestParts<S> for PathPair<A, B>
where
    S: Send + Sync,
    A: FromStr<Err = InvalidId>,
    B: FromStr<Err = InvalidId>,
{
    type Rejection = Fault;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Fault> {
        let axum::extract::Path((first, second)) =
            axum::extract::Path::<(String, String)>::from_request_parts(parts, state)
                .await
                .map_err(|_| not_found("the path cannot be read".to_owned()))?;
        let invalid = |error: InvalidId| not_found(error.to_string());
        Ok(Self(first.parse().map_err(invalid)?, second.parse().map_err(invalid)?))
    }
}

pub(super) fn not_found(message: String) -> Fault {
    Fault(ErrorBody::new(ErrorCode::NotFound, message))
}
