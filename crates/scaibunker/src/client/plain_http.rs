//! HTTP with servers that are no controllers: they get no credential of ours.

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt as _, Limited};

use super::{
    content::Content,
    error::{ClientError, root_cause},
    transport::{Pool, pool},
};

/// Largest answer that is read.
const MAX_ANSWER_BYTES: usize = 1024 * 1024;

/// A call without an answer.
#[derive(Debug, thiserror::Error)]
#[error("no answer from {authority}: {reason}")]
pub struct NoAnswer {
    authority: String,
    reason: String,
}

/// A connection pool, with the TLS of the calls to the controller.
#[derive(Clone, Debug)]
pub struct PlainHttp(Pool);

impl PlainHttp {
    /// A pool for servers whose certificates are checked with the roots of this machine.
    pub fn new(is_https: bool) -> Result<Self, ClientError> {
        pool(is_https).map(Self)
    }

    /// One call; every status is an answer.
    pub async fn send(&self, request: Request<Bytes>) -> Result<Response<Bytes>, NoAnswer> {
        let authority = request.uri().authority().map_or_else(String::new, ToString::to_string);
        let no_answer = |reason: String| NoAnswer { authority: authority.clone(), reason };
        let request = request.map(|body| Content::from(body).into_body());
        let answer = self.0.request(request).await;
        let (head, body) = answer.map_err(|error| no_answer(root_cause(&error)))?.into_parts();
        let body = Limited::new(body, MAX_ANSWER_BYTES).collect().await;
        let body = body.map_err(|error| no_answer(root_cause(error.as_ref())))?;
        Ok(Response::from_parts(head, body.to_bytes()))
    }
}
