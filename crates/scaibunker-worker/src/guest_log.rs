//! Carries a guest agent's own log lines into this process's log, so that one request id finds
//! the lines of every tier.

use std::sync::{Arc, OnceLock};

use bytes::BytesMut;
use http::Method;
use http_body_util::BodyExt as _;
use scaibunker_api::ids::BunkerId;
use scaibunker_guest_protocol::log::LogLine;
use tokio::time::{Duration, Instant};

use crate::channel::{GuestBody, GuestChannel, printable};

/// An agent writes a few lines a command; a guest that writes more than this a second is flooding.
const MAX_LINES_A_SECOND: u32 = 200;
const MAX_LINE_BYTES: usize = 16 * 1024;

/// Whose lines they are; empty until the VM is claimed.
pub type Owner = Arc<OnceLock<BunkerId>>;

/// Logs the agent's lines until the session ends, or until the guest breaks the bounds.
pub async fn follow(channel: GuestChannel, owner: Owner) {
    let sent = channel.send(Method::GET, "/log", GuestBody::Empty, "").await;
    let Ok(response) = sent else { return };
    let mut body = response.into_body();
    let mut pending = BytesMut::new();
    let mut budget = Budget::new();
    while let Some(Ok(piece)) = body.frame().await {
        let Some(bytes) = piece.data_ref() else { continue };
        pending.extend_from_slice(bytes);
        while let Some(end) = pending.iter().position(|byte| *byte == b'\n') {
            let line = pending.split_to(end + 1);
            if !budget.take() {
                tracing::warn!(
                    bunker_id = name(&owner),
                    "the guest floods its log; it is not read any more"
                );
                return;
            }
            log(&owner, &line);
        }
        if pending.len() > MAX_LINE_BYTES {
            tracing::warn!(
                bunker_id = name(&owner),
                "the guest's log has an endless line; it is not read any more"
            );
            return;
        }
    }
}

fn name(owner: &Owner) -> String {
    owner.get().map(BunkerId::to_string).unwrap_or_default()
}

fn log(owner: &Owner, line: &[u8]) {
    let Ok(line) = serde_json::from_slice::<LogLine>(line) else { return };
    let text = |field: Option<String>| field.map(|text| printable(&text)).unwrap_or_default();
    tracing::info!(
        target: "guest_agent",
        bunker_id = name(owner),
        request_id = text(line.request_id),
        exec_id = text(line.exec_id),
        "{}",
        printable(&line.message)
    );
}

/// Lines that may still come in the current second.
struct Budget {
    since: Instant,
    left: u32,
}

impl Budget {
    fn new() -> Self {
        Self { since: Instant::now(), left: MAX_LINES_A_SECOND }
    }

    fn take(&mut self) -> bool {
        if self.since.elapsed() > Duration::from_secs(1) {
            *self = Self::new();
        }
        self.left = self.left.saturating_sub(1);
        self.left > 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_flood_is_noticed_and_a_trickle_is_not() {
        let mut budget = Budget::new();
        assert!((0..MAX_LINES_A_SECOND - 1).all(|_| budget.take()));
        assert!(!budget.take());
        tokio::time::advance(Duration::from_secs(2)).await;
        assert!(budget.take());
    }
}
