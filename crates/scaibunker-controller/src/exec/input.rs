//! What goes to a command: frames of its standard input.

use std::convert::Infallible;

use bytes::{Bytes, BytesMut};
use futures_util::{StreamExt as _, stream};
use http_body::Frame as BodyFrame;
use http_body_util::StreamBody;
use scaibunker_api::worker::StartExec;
use scaibunker_guest_protocol::frame::{Frame, FrameError, FrameKind, MAX_DATA_BYTES};
use tokio::sync::mpsc;

use crate::{domain::exec::PreparedExec, fleet::RequestBody};

/// Frames on their way to a shell, at most 64 KiB each.
const FRAMES_IN_FLIGHT: usize = 2;

/// The whole input of an attached command: what to run, then its standard input, which ends there
/// or stays open for as long as the command is followed.
pub(super) fn of_attached(prepared: &PreparedExec) -> Result<RequestBody, FrameError> {
    let mut input = BytesMut::from(&*Frame::json(FrameKind::Spec, &prepared.start)?.encode());
    input.extend_from_slice(&of_bytes(&prepared.stdin, !prepared.is_input_open));
    let input = input.freeze();
    if !prepared.is_input_open {
        return Ok(RequestBody::Whole(input));
    }
    let first = stream::iter([Ok::<_, Infallible>(BodyFrame::data(input))]);
    Ok(RequestBody::stream(StreamBody::new(first.chain(stream::pending()))))
}

/// What to run detached. Its standard input is fed by a call of its own, since nobody stays with
/// this one.
pub(super) fn of_detached(prepared: &PreparedExec) -> Result<RequestBody, FrameError> {
    let mut input = BytesMut::from(&*Frame::json(FrameKind::Spec, &prepared.start)?.encode());
    if prepared.stdin.is_empty() && !prepared.is_input_open {
        input.extend_from_slice(&of_bytes(&[], true));
    }
    Ok(RequestBody::Whole(input.freeze()))
}

/// Frames with `bytes`, and the end of the input after them if they are the last.
pub(super) fn of_bytes(bytes: &[u8], is_last: bool) -> Bytes {
    let mut input = BytesMut::new();
    for piece in bytes.chunks(MAX_DATA_BYTES) {
        let frame = Frame::data(FrameKind::Stdin, Bytes::copy_from_slice(piece));
        input.extend_from_slice(&frame.encode());
    }
    if is_last {
        input.extend_from_slice(&Frame::data(FrameKind::StdinEnd, Bytes::new()).encode());
    }
    input.freeze()
}

/// A shell's input, which ends with this value.
#[derive(Debug)]
pub struct ShellInput(mpsc::Sender<Bytes>);

impl ShellInput {
    /// Waits until the shell has room for `bytes`. A shell that has ended takes anything; its
    /// stream says that it has.
    pub async fn write(&self, mut bytes: Bytes) {
        while !bytes.is_empty() {
            let piece = bytes.split_to(bytes.len().min(MAX_DATA_BYTES));
            let frame = Frame::data(FrameKind::Stdin, piece);
            if self.0.send(frame.encode()).await.is_err() {
                return;
            }
        }
    }
}

/// The input of a shell, with what to start unless it runs already.
pub(super) fn of_shell(start: Option<&StartExec>) -> Result<(ShellInput, RequestBody), FrameError> {
    let first = start.map(|start| Frame::json(FrameKind::Spec, start)).transpose()?;
    let (sender, receiver) = mpsc::channel(FRAMES_IN_FLIGHT);
    let later = stream::unfold(receiver, async |mut receiver: mpsc::Receiver<Bytes>| {
        Some((receiver.recv().await?, receiver))
    });
    let frames = stream::iter(first.map(|frame| frame.encode())).chain(later);
    let body = frames.map(|frame| Ok::<_, Infallible>(BodyFrame::data(frame)));
    Ok((ShellInput(sender), RequestBody::stream(StreamBody::new(body))))
}
