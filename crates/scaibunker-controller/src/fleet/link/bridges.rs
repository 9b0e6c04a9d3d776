//! Calls on a worker's bridges.

use http::Method;
use scaibunker_api::worker::MakeBridge;

use super::{Link, LinkError, RequestBody, json_request, request};

impl Link {
    /// Has the worker make a bridge, or take the one that its host has.
    pub async fn make_bridge(
        &self,
        name: &str,
        bridge: MakeBridge,
        request_id: &str,
    ) -> Result<(), LinkError> {
        let path = format!("/bridges/{name}");
        self.tell(json_request(Method::PUT, &path, request_id, &bridge)?).await
    }

    /// Has the worker remove a bridge, if it has made it.
    pub async fn remove_bridge(&self, name: &str, request_id: &str) -> Result<(), LinkError> {
        let path = format!("/bridges/{name}");
        self.tell(request(Method::DELETE, &path, request_id, RequestBody::Empty)).await
    }
}
