//! Calls on files.

use http::{HeaderMap, HeaderValue, Method, Response};
use scaibunker_api::ids::BunkerId;
use scaibunker_guest_protocol::files::CALL_HEADER;
use serde::{Serialize, de::DeserializeOwned};

use super::{AnswerBody, Link, LinkError, RequestBody, read_json, request};

/// One of the calls of `scaibunker_guest_protocol::files`, or the worker's `commit`.
#[derive(Debug)]
pub struct FileRequest<C> {
    pub method: Method,
    /// What follows `/bunkers/{id}` in the worker's route.
    pub route: &'static str,
    pub call: C,
    pub headers: HeaderMap,
    pub body: RequestBody,
}

impl<C: Serialize> FileRequest<C> {
    /// A call without a body or further headers.
    pub fn new(method: Method, route: &'static str, call: C) -> Self {
        Self { method, route, call, headers: HeaderMap::new(), body: RequestBody::Empty }
    }
}

impl Link {
    /// Makes a call on a bunker's files; the answer's body comes as fast as it is read.
    pub async fn files<C: Serialize>(
        &self,
        id: BunkerId,
        asked: FileRequest<C>,
        request_id: &str,
    ) -> Result<Response<AnswerBody>, LinkError> {
        let FileRequest { method, route, call, headers, body } = asked;
        let call = serde_json::to_string(&call).map_err(LinkError::broken)?;
        let call = HeaderValue::try_from(call).map_err(LinkError::broken)?;
        let mut request = request(method, &format!("/bunkers/{id}{route}"), request_id, body);
        request.headers_mut().extend(headers);
        request.headers_mut().insert(CALL_HEADER, call);
        self.send(request).await
    }

    /// Makes a call whose answer is JSON.
    pub async fn files_json<C: Serialize, T: DeserializeOwned>(
        &self,
        id: BunkerId,
        asked: FileRequest<C>,
        request_id: &str,
    ) -> Result<T, LinkError> {
        read_json(self.files(id, asked, request_id).await?).await
    }
}
