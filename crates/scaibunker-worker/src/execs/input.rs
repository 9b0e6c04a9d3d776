//! A command's standard input on its way to the guest: frames of several clients, each whole.

use std::sync::{Mutex, PoisonError};

use bytes::Bytes;
use scaibunker_guest_protocol::frame::{Frame, FrameKind};
use tokio::sync::mpsc;

/// Frames on their way to the guest, at most 64 KiB each.
const FRAMES_IN_FLIGHT: usize = 4;

/// Standard input takes nothing more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Closed;

/// The sending end; shared by all who feed the command.
#[derive(Debug)]
pub struct Input {
    /// `None` once it has ended.
    sender: Mutex<Option<mpsc::Sender<Bytes>>>,
}

impl Input {
    /// An input, and the frames of it, encoded.
    pub fn open() -> (Self, mpsc::Receiver<Bytes>) {
        let (sender, receiver) = mpsc::channel(FRAMES_IN_FLIGHT);
        (Self { sender: Mutex::new(Some(sender)) }, receiver)
    }

    /// One that takes nothing.
    pub fn closed() -> Self {
        Self { sender: Mutex::new(None) }
    }

    /// Whether it has not ended.
    pub fn is_open(&self) -> bool {
        let sender = self.sender.lock().unwrap_or_else(PoisonError::into_inner);
        sender.as_ref().is_some_and(|sender| !sender.is_closed())
    }

    /// Passes an encoded frame on, once there is room for it.
    pub async fn send(&self, frame: Bytes) -> Result<(), Closed> {
        let sender = self.sender.lock().unwrap_or_else(PoisonError::into_inner).clone();
        sender.ok_or(Closed)?.send(frame).await.map_err(|_| Closed)
    }

    /// Ends the input behind what was sent before.
    pub async fn end(&self) {
        if let Some(sender) = self.take() {
            // A command that reads no more needs no end either.
            let _ = sender.send(Frame::data(FrameKind::StdinEnd, Bytes::new()).encode()).await;
        }
    }

    /// Ends it without telling the guest.
    pub fn close(&self) {
        drop(self.take());
    }

    fn take(&self) -> Option<mpsc::Sender<Bytes>> {
        self.sender.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_ended_input_takes_nothing_more() {
        let (input, mut frames) = Input::open();
        let frame = Frame::data(FrameKind::Stdin, "a".into()).encode();
        assert_eq!(input.send(frame.clone()).await, Ok(()));
        input.end().await;
        input.end().await;
        assert_eq!(input.send(frame.clone()).await, Err(Closed));
        assert_eq!(frames.recv().await, Some(frame));
        assert_eq!(frames.recv().await.unwrap()[0], FrameKind::StdinEnd as u8);
        assert_eq!(frames.recv().await, None);
    }
}
