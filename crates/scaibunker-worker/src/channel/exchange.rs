//! One request to a guest agent and its answer.
//!
//! HTTP/2 is spoken without a client library in between, so that dropping an answer resets the
//! whole stream, whatever of the request is still on its way: a command whose input nobody reads
//! is cancelled all the same.

use std::{
    future::poll_fn,
    pin::Pin,
    task::{Context, Poll, ready},
};

use axum::body::Body;
use bytes::Bytes;
use h2::{Reason, RecvStream, SendStream, client::SendRequest};
use http::{Request, Response};
use http_body::{Frame, SizeHint};
use http_body_util::BodyExt as _;
use tokio_util::task::AbortOnDropHandle;

/// What a request carries.
#[derive(Debug, Default)]
pub enum GuestBody {
    #[default]
    Empty,
    /// All of it, at most a few MiB: it is buffered until the guest takes it.
    Whole(Bytes),
    /// Sent as fast as the guest takes it. An error in it resets the request.
    Stream(Body),
}

/// Sends a request and waits for the head of its answer. Dropping the future or the answer resets
/// the stream.
pub(super) async fn exchange(
    sender: SendRequest<Bytes>,
    request: Request<GuestBody>,
) -> Result<Response<AnswerBody>, h2::Error> {
    let mut sender = sender.ready().await?;
    let (head, body) = request.into_parts();
    let is_empty = matches!(body, GuestBody::Empty);
    let (answer, mut stream) = sender.send_request(Request::from_parts(head, ()), is_empty)?;
    let sending = match body {
        GuestBody::Empty => None,
        GuestBody::Whole(bytes) => {
            // A guest that answers before it has read the body has closed the stream to it.
            let _ = stream.send_data(bytes, true);
            None
        }
        GuestBody::Stream(body) => Some(AbortOnDropHandle::new(tokio::spawn(send(body, stream)))),
    };
    Ok(answer.await?.map(|stream| AnswerBody { stream, _sending: sending }))
}

/// Carries a body into the stream until the guest takes nothing more.
async fn send(mut body: Body, mut stream: SendStream<Bytes>) {
    loop {
        let piece = tokio::select! {
            piece = body.frame() => piece,
            _ = poll_fn(|context| stream.poll_reset(context)) => return,
        };
        match piece {
            None => {
                // A stream that was reset meanwhile needs no end.
                let _ = stream.send_data(Bytes::new(), true);
                return;
            }
            Some(Err(error)) => {
                tracing::debug!(%error, "a request to a guest is given up");
                return stream.send_reset(Reason::CANCEL);
            }
            Some(Ok(piece)) => {
                let Ok(bytes) = piece.into_data() else { continue };
                if !send_all(bytes, &mut stream).await {
                    return;
                }
            }
        }
    }
}

/// Whether all of `bytes` went into the stream.
async fn send_all(mut bytes: Bytes, stream: &mut SendStream<Bytes>) -> bool {
    while !bytes.is_empty() {
        stream.reserve_capacity(bytes.len());
        let room = match poll_fn(|context| stream.poll_capacity(context)).await {
            Some(Ok(room)) => room.min(bytes.len()),
            Some(Err(_)) | None => return false,
        };
        if stream.send_data(bytes.split_to(room), false).is_err() {
            return false;
        }
    }
    true
}

/// The body of an answer. Dropping it resets the stream if anything of it is still under way.
#[derive(Debug)]
pub struct AnswerBody {
    stream: RecvStream,
    _sending: Option<AbortOnDropHandle<()>>,
}

impl http_body::Body for AnswerBody {
    type Data = Bytes;
    type Error = h2::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, h2::Error>>> {
        match ready!(self.stream.poll_data(context)) {
            None => Poll::Ready(None),
            // The guest has said all it had to, and reads no more of the request.
            Some(Err(error)) if error.reason() == Some(Reason::NO_ERROR) => Poll::Ready(None),
            Some(Err(error)) => Poll::Ready(Some(Err(error))),
            Some(Ok(bytes)) => {
                let released = self.stream.flow_control().release_capacity(bytes.len());
                Poll::Ready(Some(released.map(|()| Frame::data(bytes))))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.stream.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::default()
    }
}
