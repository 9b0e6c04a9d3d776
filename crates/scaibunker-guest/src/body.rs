//! Bodies of the agent's answers.

use std::{
    collections::VecDeque,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use hyper::body::{Frame, SizeHint};
use tokio::sync::mpsc;

/// A whole body, or one that is sent as it comes.
#[derive(Debug)]
pub enum Body {
    Whole(Option<Bytes>),
    Stream {
        first: VecDeque<Bytes>,
        /// Dropping it closes the channel, which tells the sender that the host is gone.
        rest: mpsc::Receiver<Bytes>,
    },
    /// What can break off: an error resets the stream, so that no part is taken for the whole.
    Transfer {
        first: Option<Bytes>,
        rest: mpsc::Receiver<Result<Bytes, CutOff>>,
    },
}

/// The rest of a body cannot be had.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the answer's body broke off")]
pub struct CutOff;

impl Body {
    pub fn whole(bytes: impl Into<Bytes>) -> Self {
        let bytes = bytes.into();
        Self::Whole((!bytes.is_empty()).then_some(bytes))
    }

    pub fn stream(first: Vec<Bytes>, rest: mpsc::Receiver<Bytes>) -> Self {
        Self::Stream { first: first.into(), rest }
    }
}

impl hyper::body::Body for Body {
    type Data = Bytes;
    type Error = CutOff;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, CutOff>>> {
        let next = match self.get_mut() {
            Self::Whole(bytes) => Poll::Ready(bytes.take().map(Ok)),
            Self::Stream { first, rest } => match first.pop_front() {
                Some(bytes) => Poll::Ready(Some(Ok(bytes))),
                None => rest.poll_recv(cx).map(|bytes| bytes.map(Ok)),
            },
            Self::Transfer { first, rest } => match first.take() {
                Some(bytes) => Poll::Ready(Some(Ok(bytes))),
                None => rest.poll_recv(cx),
            },
        };
        next.map(|piece| piece.map(|bytes| bytes.map(Frame::data)))
    }

    fn is_end_stream(&self) -> bool {
        matches!(self, Self::Whole(None))
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, Bytes::len) as u64),
            Self::Stream { .. } | Self::Transfer { .. } => SizeHint::new(),
        }
    }
}
