//! A client's body on its way into a bunker, counted.

use std::{
    pin::Pin,
    sync::{Arc, OnceLock},
    task::{Context, Poll, ready},
    time::Duration,
};

use axum::body::{Body, Bytes};
use http_body::{Body as _, Frame};
use http_body_util::{BodyExt as _, Limited};
use scaibunker_api::{
    error::{ErrorBody, ErrorCode},
    file::MAX_PUT_BYTES,
};
use tokio::time::timeout;

/// What is read of a body that was refused.
const MAX_DISCARDED_BYTES: usize = 256 * 1024 * 1024;
const DISCARD_LIMIT: Duration = Duration::from_secs(10);

/// A body that ends with an error when it is too long, so that what it was for is given up.
#[derive(Debug)]
pub(super) struct PutBody {
    body: Body,
    /// Bytes that may still come.
    left: u64,
    fault: BodyFault,
}

/// What was wrong with a body, once something is.
#[derive(Debug, Clone, Default)]
pub(super) struct BodyFault(Arc<OnceLock<ErrorBody>>);

impl BodyFault {
    pub(super) fn get(&self) -> Option<ErrorBody> {
        self.0.get().cloned()
    }

    fn set(&self, error: ErrorBody) -> ErrorBody {
        self.0.get_or_init(|| error).clone()
    }
}

impl PutBody {
    /// A file's body; one that announces too many bytes is refused before any is read.
    pub(super) fn of_file(body: Body) -> Result<Self, ErrorBody> {
        if body.size_hint().lower() > MAX_PUT_BYTES {
            discard(body);
            return Err(too_large());
        }
        Ok(Self { body, left: MAX_PUT_BYTES, fault: BodyFault::default() })
    }

    /// A tar file's body, which may have any length.
    pub(super) fn of_archive(body: Body) -> Self {
        Self { body, left: u64::MAX, fault: BodyFault::default() }
    }

    /// Where a fault will be.
    pub(super) fn fault(&self) -> BodyFault {
        self.fault.clone()
    }
}

impl http_body::Body for PutBody {
    type Data = Bytes;
    type Error = ErrorBody;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, ErrorBody>>> {
        let error = match ready!(Pin::new(&mut self.body).poll_frame(context)) {
            None => return Poll::Ready(None),
            Some(Ok(frame)) => {
                let bytes = frame.data_ref().map_or(0, Bytes::len) as u64;
                match self.left.checked_sub(bytes) {
                    Some(left) => {
                        self.left = left;
                        return Poll::Ready(Some(Ok(frame)));
                    }
                    None => {
                        discard(std::mem::take(&mut self.body));
                        too_large()
                    }
                }
            }
            Some(Err(error)) => {
                tracing::debug!(%error, "a client's body broke off");
                let message = "the body broke off; send the request again";
                ErrorBody::new(ErrorCode::BadRequest, message)
            }
        };
        Poll::Ready(Some(Err(self.fault.set(error))))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }
}

/// Reads the rest of a body for nothing, within bounds: many clients send all of it before they look
/// at the answer, and would see a broken connection instead.
fn discard(body: Body) {
    let reading = async move {
        let mut pieces = Limited::new(body, MAX_DISCARDED_BYTES);
        while let Some(Ok(_)) = pieces.frame().await {}
    };
    tokio::spawn(timeout(DISCARD_LIMIT, reading));
}

fn too_large() -> ErrorBody {
    let message = format!(
        "the body is larger than the {} MiB that a file call takes: ask `POST \
         /bunkers/{{id}}/files/upload` for a URL, send the file there, then put it in place with \
         `POST /bunkers/{{id}}/files/commit`",
        MAX_PUT_BYTES / (1024 * 1024)
    );
    ErrorBody::new(ErrorCode::FileTooLarge, message)
}

#[cfg(test)]
mod tests {
    use futures_util::stream;

    use super::*;

    fn pieces(count: u64) -> Body {
        let piece = Bytes::from(vec![0; 1024 * 1024]);
        Body::from_stream(stream::iter((0..count).map(move |_| Ok::<_, ErrorBody>(piece.clone()))))
    }

    #[tokio::test]
    async fn a_file_has_at_most_its_limit() {
        let whole = PutBody::of_file(pieces(10)).unwrap();
        let fault = whole.fault();
        assert_eq!(whole.collect().await.unwrap().to_bytes().len() as u64, MAX_PUT_BYTES);
        assert_eq!(fault.get(), None);

        let long = PutBody::of_file(pieces(11)).unwrap();
        let fault = long.fault();
        assert_eq!(long.collect().await.unwrap_err().code, ErrorCode::FileTooLarge);
        let message = fault.get().unwrap().message;
        assert!(message.contains("/files/upload") && message.contains("/files/commit"));

        let announced = Body::from(vec![0; MAX_PUT_BYTES as usize + 1]);
        assert_eq!(PutBody::of_file(announced).unwrap_err().code, ErrorCode::FileTooLarge);
        assert!(PutBody::of_archive(pieces(11)).collect().await.is_ok());
    }
}
