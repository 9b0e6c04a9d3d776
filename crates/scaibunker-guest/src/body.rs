//! Bodies of the agent's answers.

use std::{
    collections::VecDeque,
    convert::Infallible,
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
}

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
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let next = match self.get_mut() {
            Self::Whole(bytes) => Poll::Ready(bytes.take()),
            Self::Stream { first, rest } => match first.pop_front() {
                Some(bytes) => Poll::Ready(Some(bytes)),
                None => rest.poll_recv(cx),
            },
        };
        next.map(|bytes| bytes.map(|bytes| Ok(Frame::data(bytes))))
    }

    fn is_end_stream(&self) -> bool {
        matches!(self, Self::Whole(None))
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, Bytes::len) as u64),
            Self::Stream { .. } => SizeHint::new(),
        }
    }
}
