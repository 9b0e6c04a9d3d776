//! Whole outputs of a command, streamed to the storage proxy while it runs.
//!
//! An output is held back until it is longer than an answer carries; from then on all of it, from
//! its first byte, goes out in segments:
//!
//! ```text
//! output/{bunker_id}/{exec_id}.stdout/000000, 000001, …
//! ```
//!
//! A segment appears at the proxy when it ends, so a crash loses no more than the last one. A
//! store that is slow holds the command back for a while; one that fails does not.

use std::{convert::Infallible, sync::Arc};

use axum::body::Body;
use bytes::{Bytes, BytesMut};
use futures_util::StreamExt as _;
use scaibunker_api::{
    exec::MAX_ANSWER_BYTES,
    ids::{BunkerId, ExecId},
    worker::KeptOutput,
};
use scaibunker_guest_protocol::frame::FrameKind;
use tokio::{
    sync::mpsc,
    task::JoinHandle,
    time::{Duration, Instant, timeout, timeout_at},
};
use tokio_stream::wrappers::ReceiverStream;

use crate::{chain, storage::StorageClient};

/// What is kept of one output at most.
const MAX_KEPT_BYTES: u64 = 4 << 30;
/// A segment ends at this size,
const SEGMENT_BYTES: u64 = 8 << 20;
/// or this long after its first byte.
const SEGMENT_AGE: Duration = Duration::from_secs(2);
/// A segment that the proxy has not taken after this long is given up.
const SEGMENT_LIMIT: Duration = Duration::from_secs(30);
/// Pieces on their way in each channel, at most 64 KiB each.
const PIECES_IN_FLIGHT: usize = 4;
/// Smaller pieces are put together.
const PIECE_BYTES: usize = 32 * 1024;

/// Keeps both outputs of one command.
pub struct Keeper {
    stdout: Output,
    stderr: Output,
}

impl Keeper {
    /// A keeper that has stored nothing yet.
    #[must_use]
    pub fn new(storage: &Arc<StorageClient>, bunker_id: BunkerId, exec_id: ExecId) -> Self {
        let output = |stream: &str| Output {
            storage: Arc::clone(storage),
            prefix: format!("output/{bunker_id}"),
            name: format!("{exec_id}.{stream}"),
            stage: Stage::Held(BytesMut::new()),
        };
        Self { stdout: output("stdout"), stderr: output("stderr") }
    }

    /// Takes a piece of output; waits for a store that is behind.
    pub async fn push(&mut self, kind: FrameKind, piece: &Bytes) {
        match kind {
            FrameKind::Stdout => self.stdout.push(piece).await,
            FrameKind::Stderr => self.stderr.push(piece).await,
            _ => {}
        }
    }

    /// Stores what is left and tells what was kept.
    pub async fn finish(self) -> KeptOutput {
        let (stdout, stderr) = tokio::join!(self.stdout.finish(), self.stderr.finish());
        let errors: Vec<String> = [stdout.error, stderr.error].into_iter().flatten().collect();
        KeptOutput {
            stdout: stdout.name,
            stderr: stderr.name,
            error: (!errors.is_empty()).then(|| errors.join("; ")),
        }
    }
}

struct Output {
    storage: Arc<StorageClient>,
    prefix: String,
    name: String,
    stage: Stage,
}

enum Stage {
    /// Short so far.
    Held(BytesMut),
    Stored {
        pieces: mpsc::Sender<Bytes>,
        storing: JoinHandle<Stored>,
    },
}

/// What became of one output.
#[derive(Debug, Default, PartialEq, Eq)]
struct Stored {
    segments: u32,
    error: Option<String>,
}

struct Kept {
    name: Option<String>,
    error: Option<String>,
}

impl Output {
    async fn push(&mut self, piece: &Bytes) {
        match &mut self.stage {
            Stage::Held(held) if held.len() + piece.len() <= MAX_ANSWER_BYTES => {
                held.extend_from_slice(piece);
            }
            Stage::Held(held) => {
                let held = std::mem::take(held).freeze();
                let (pieces, receiver) = mpsc::channel(PIECES_IN_FLIGHT);
                let segments = Segments {
                    storage: Arc::clone(&self.storage),
                    prefix: format!("{}/{}", self.prefix, self.name),
                    most: MAX_KEPT_BYTES,
                };
                let storing = tokio::spawn(segments.store(receiver));
                for piece in [held, piece.clone()] {
                    // Why nobody takes it is told at the end.
                    let _ = pieces.send(piece).await;
                }
                self.stage = Stage::Stored { pieces, storing };
            }
            Stage::Stored { pieces, .. } => {
                let _ = pieces.send(piece.clone()).await;
            }
        }
    }

    async fn finish(self) -> Kept {
        let Stage::Stored { pieces, storing } = self.stage else {
            return Kept { name: None, error: None };
        };
        drop(pieces);
        let stored = storing.await.unwrap_or_else(|error| Stored {
            segments: 0,
            error: Some(format!("storing the output failed: {error}")),
        });
        let name = (stored.segments > 0).then_some(self.name);
        Kept { name, error: stored.error }
    }
}

/// Stores one output.
struct Segments {
    storage: Arc<StorageClient>,
    /// The segments' keys without their numbers.
    prefix: String,
    /// Bytes that are kept at most.
    most: u64,
}

impl Segments {
    async fn store(self, mut pieces: mpsc::Receiver<Bytes>) -> Stored {
        let (mut segments, mut kept) = (0, 0);
        let error = loop {
            let Some(first) = pieces.recv().await else { break None };
            if kept >= self.most {
                break Some(format!("only the first {} MiB of the output were kept", kept >> 20));
            }
            let key = format!("{}/{segments:06}", self.prefix);
            let most = SEGMENT_BYTES.min(self.most - kept);
            let segment = self.segment(&key, first, &mut pieces, most);
            match timeout(SEGMENT_LIMIT, segment).await {
                Ok(Ok(bytes)) => kept += bytes,
                Ok(Err(error)) => break Some(self.failed(&key, &error)),
                Err(_) => break Some(self.failed(&key, "the storage proxy is too slow")),
            }
            segments += 1;
        };
        Stored { segments, error }
    }

    fn failed(&self, key: &str, error: &str) -> String {
        tracing::warn!(key, error, "an output is not kept any further");
        format!("the output could not be stored: {error}")
    }

    /// Stores one segment; its size.
    async fn segment(
        &self,
        key: &str,
        first: Bytes,
        pieces: &mut mpsc::Receiver<Bytes>,
        most: u64,
    ) -> Result<u64, String> {
        let (to_body, body) = mpsc::channel(1);
        let body = ReceiverStream::new(body).map(Ok::<Bytes, Infallible>);
        let fill = async move {
            let (deadline, mut piece) = (Instant::now() + SEGMENT_AGE, first);
            let mut bytes = 0;
            loop {
                bytes += piece.len() as u64;
                // The answer says why nobody takes it.
                if to_body.send(piece).await.is_err() || bytes >= most {
                    return bytes;
                }
                match timeout_at(deadline, next_piece(pieces)).await {
                    Ok(Some(next)) => piece = next,
                    Ok(None) | Err(_) => return bytes,
                }
            }
        };
        let put = self.storage.put(key, Body::from_stream(body));
        let (bytes, stored) = tokio::join!(fill, put);
        stored.map(|()| bytes).map_err(|error| chain(&error))
    }
}

/// The next piece, and those behind it while they are small and there already. Cancel-safe.
async fn next_piece(pieces: &mut mpsc::Receiver<Bytes>) -> Option<Bytes> {
    let first = pieces.recv().await?;
    if first.len() >= PIECE_BYTES {
        return Some(first);
    }
    let mut piece = BytesMut::from(first);
    while piece.len() < PIECE_BYTES
        && let Ok(next) = pieces.try_recv()
    {
        piece.extend_from_slice(&next);
    }
    Some(piece.freeze())
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;
    use crate::test_server::{TOKEN, serve, storage_proxy};

    fn keeper(url: &str) -> (Keeper, String) {
        let storage = Arc::new(StorageClient::new(url, TOKEN).unwrap());
        let (bunker_id, exec_id) = (BunkerId::generate(), ExecId::generate());
        (Keeper::new(&storage, bunker_id, exec_id), format!("output/{bunker_id}/{exec_id}"))
    }

    /// `count` bytes, none like its neighbours.
    fn pattern(count: usize) -> Vec<u8> {
        (0..count as u32)
            .flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes())
            .take(count)
            .collect()
    }

    #[tokio::test]
    async fn a_long_output_is_stored_whole_and_a_short_one_not_at_all() {
        let dir = tempfile::tempdir().unwrap();
        let (mut keeper, prefix) = keeper(&storage_proxy(dir.path()).await);
        let output = pattern(20 << 20);
        keeper.push(FrameKind::Stderr, &Bytes::from_static(b"short")).await;
        for piece in output.chunks(60_000) {
            keeper.push(FrameKind::Stdout, &Bytes::copy_from_slice(piece)).await;
        }
        let kept = keeper.finish().await;
        assert_eq!((kept.stderr, kept.error), (None, None));
        let name = kept.stdout.unwrap();
        assert!(prefix.ends_with(name.trim_end_matches(".stdout")));
        let segments = dir.path().join(format!("scaibunker/{prefix}.stdout"));
        let mut names: Vec<_> =
            std::fs::read_dir(&segments).unwrap().map(|entry| entry.unwrap().path()).collect();
        names.sort();
        assert!(names.len() >= 3 && names[0].ends_with("000000"), "{names:?}");
        let stored: Vec<u8> = names.iter().flat_map(|name| std::fs::read(name).unwrap()).collect();
        assert!(stored == output, "{} bytes of {}", stored.len(), output.len());
        assert!(!dir.path().join(format!("scaibunker/{prefix}.stderr")).exists());
    }

    #[tokio::test]
    async fn a_segment_ends_two_seconds_after_its_first_byte() {
        let dir = tempfile::tempdir().unwrap();
        let (mut keeper, prefix) = keeper(&storage_proxy(dir.path()).await);
        keeper.push(FrameKind::Stdout, &pattern(MAX_ANSWER_BYTES + 1).into()).await;
        let segment = dir.path().join(format!("scaibunker/{prefix}.stdout/000000"));
        let appears = async {
            while !segment.exists() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        timeout(SEGMENT_AGE * 3, appears).await.unwrap();
        assert_eq!(std::fs::read(&segment).unwrap(), pattern(MAX_ANSWER_BYTES + 1));
        keeper.finish().await;
    }

    #[tokio::test]
    async fn only_so_much_is_kept() {
        let dir = tempfile::tempdir().unwrap();
        let url = storage_proxy(dir.path()).await;
        let storage = Arc::new(StorageClient::new(&url, TOKEN).unwrap());
        let segments = Segments { storage, prefix: "output/bnk/exe".to_owned(), most: 2 << 20 };
        let (pieces, receiver) = mpsc::channel(1);
        let storing = tokio::spawn(segments.store(receiver));
        while pieces.send(vec![0; 1 << 20].into()).await.is_ok() {}
        let stored = storing.await.unwrap();
        assert_eq!(stored.segments, 1);
        assert!(stored.error.unwrap().contains("only the first 2 MiB"));
    }

    #[tokio::test]
    async fn a_store_that_fails_is_told_and_holds_nothing_up() {
        let refusing = axum::Router::new()
            .fallback(async || (axum::http::StatusCode::INSUFFICIENT_STORAGE, "disk full"));
        let nobody = {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            format!("http://{}", listener.local_addr().unwrap())
        };
        for url in [serve(refusing).await, nobody] {
            let (mut keeper, _) = keeper(&url);
            let pushes = async {
                for _ in 0..200 {
                    keeper.push(FrameKind::Stderr, &pattern(60_000).into()).await;
                }
            };
            timeout(Duration::from_secs(20), pushes).await.unwrap();
            let kept = keeper.finish().await;
            assert_eq!((kept.stdout, kept.stderr), (None, None));
            assert!(kept.error.unwrap().contains("could not be stored"));
        }
    }
}
