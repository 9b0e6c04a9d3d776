//! What a request carries: bytes in one piece, or a stream of them.

use std::io;

use bytes::Bytes;
use futures_util::{Stream, StreamExt as _};
use http::{Request, header, request};
use http_body_util::{BodyExt as _, Full, StreamBody, combinators::UnsyncBoxBody};
use hyper::body::Frame;

/// The body of every request.
pub(super) type RequestBody = UnsyncBoxBody<Bytes, io::Error>;

/// Bytes to send, and their number where it is known before.
#[derive(Debug)]
pub struct Content {
    length: Option<u64>,
    body: RequestBody,
}

impl From<Bytes> for Content {
    fn from(bytes: Bytes) -> Self {
        let length = Some(bytes.len() as u64);
        Self { length, body: Full::new(bytes).map_err(|never| match never {}).boxed_unsync() }
    }
}

impl Content {
    /// A stream that has `length` bytes, or ends when it ends.
    pub fn stream(
        length: Option<u64>,
        pieces: impl Stream<Item = io::Result<Bytes>> + Send + 'static,
    ) -> Self {
        Self {
            length,
            body: StreamBody::new(pieces.map(|piece| piece.map(Frame::data))).boxed_unsync(),
        }
    }

    pub(super) fn into_body(self) -> RequestBody {
        self.body
    }

    /// Completes a request.
    pub(super) fn onto(self, mut head: request::Builder) -> http::Result<Request<RequestBody>> {
        head = head.header(header::CONTENT_TYPE, "application/octet-stream");
        if let Some(length) = self.length {
            head = head.header(header::CONTENT_LENGTH, length);
        }
        head.body(self.body)
    }
}
