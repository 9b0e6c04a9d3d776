//! One request over a link and its answer.
//!
//! HTTP/2 is spoken without a client library in between, so that dropping an answer ends the
//! whole exchange, whatever of the request is still on its way: a command whose input nobody reads
//! is cancelled all the same.

use std::{
    future::poll_fn,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use h2::{Reason, RecvStream, SendStream, client::SendRequest};
use http::{Request, Response};
use http_body::{Body, Frame};
use http_body_util::{BodyExt as _, combinators::UnsyncBoxBody};
use tokio_util::task::AbortOnDropHandle;

use super::LinkError;

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// What a request carries.
#[derive(Debug)]
pub enum RequestBody {
    Empty,
    /// All of it, at most a few MiB: it is buffered until the worker takes it.
    Whole(Bytes),
    /// Sent as fast as the worker takes it. An error in it resets the request.
    Stream(UnsyncBoxBody<Bytes, BoxError>),
}

impl RequestBody {
    /// A body that is sent as it comes.
    pub fn stream<B>(body: B) -> Self
    where
        B: Body<Data = Bytes, Error: Into<BoxError>> + Send + 'static,
    {
        Self::Stream(UnsyncBoxBody::new(body.map_err(Into::into)))
    }
}

/// Sends a request and waits for the head of its answer. Dropping the future or the answer resets
/// the stream.
pub(super) async fn exchange(
    sender: SendRequest<Bytes>,
    request: Request<RequestBody>,
) -> Result<Response<AnswerBody>, LinkError> {
    let mut sender = sender.ready().await.map_err(LinkError::broken)?;
    let (head, body) = request.into_parts();
    let is_empty = matches!(body, RequestBody::Empty);
    let (answer, mut stream) =
        sender.send_request(Request::from_parts(head, ()), is_empty).map_err(LinkError::broken)?;
    let sending = match body {
        RequestBody::Empty => None,
        RequestBody::Whole(bytes) => {
            // Who answers before it has read the body has closed the stream to it; the answer says
            // what there is to say.
            let _ = stream.send_data(bytes, true);
            None
        }
        RequestBody::Stream(body) => Some(AbortOnDropHandle::new(tokio::spawn(send(body, stream)))),
    };
    let answer = answer.await.map_err(LinkError::broken)?;
    Ok(answer.map(|stream| AnswerBody { stream, _sending: sending }))
}

/// Carries a body into the stream. A stream that the worker has reset takes nothing more.
async fn send(mut body: UnsyncBoxBody<Bytes, BoxError>, mut stream: SendStream<Bytes>) {
    loop {
        let piece = tokio::select! {
            piece = body.frame() => piece,
            _ = poll_fn(|context| stream.poll_reset(context)) => return,
        };
        let goes_on = match piece {
            None => {
                // A stream that was reset meanwhile needs no end.
                let _ = stream.send_data(Bytes::new(), true);
                false
            }
            Some(Err(error)) => {
                tracing::debug!(%error, "a request to a worker is given up");
                stream.send_reset(Reason::CANCEL);
                false
            }
            Some(Ok(piece)) => match piece.into_data() {
                Ok(bytes) => send_all(bytes, &mut stream).await,
                Err(_) => true,
            },
        };
        if !goes_on {
            return;
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

impl Body for AnswerBody {
    type Data = Bytes;
    type Error = LinkError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, LinkError>>> {
        match ready!(self.stream.poll_data(context)) {
            None => Poll::Ready(None),
            Some(Err(error)) if error.reason() == Some(Reason::NO_ERROR) => Poll::Ready(None),
            Some(Err(error)) => Poll::Ready(Some(Err(LinkError::broken(error)))),
            Some(Ok(bytes)) => {
                // What was taken is never more than what came.
                let released = self.stream.flow_control().release_capacity(bytes.len());
                Poll::Ready(Some(match released {
                    Ok(()) => Ok(Frame::data(bytes)),
                    Err(error) => Err(LinkError::broken(error)),
                }))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.stream.is_end_stream()
    }
}
