//! The simulated worker's registry of commands, and how they are followed.

use std::{
    convert::Infallible,
    sync::{Arc, Mutex, MutexGuard, atomic::Ordering},
};

use axum::{
    Json,
    body::Body,
    extract::{Path, Query, Request, State},
    http::StatusCode,
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use futures_util::stream;
use jiff::Timestamp;
use scaibunker_api::{
    error::{ErrorBody, ErrorCode},
    exec::{ExecMode, OutputGap},
    ids::{BunkerId, ExecId},
    worker::{
        ExecEnd, ExecReport, ExecStarted, ExecState, ResizeTerminal, SendSignal, StartExec,
        WorkerBunkerState,
    },
};
use scaibunker_guest_protocol::{
    frame::{Frame, FrameKind},
    frame_reader::FrameReader,
};
use serde::Deserialize;
use tokio::sync::{Notify, mpsc};
use tokio_util::sync::CancellationToken;

use super::{Refused, SimWorker, commands, refusal};

/// Frames that a command is ahead of its reader, at most.
const AHEAD: usize = 4;

/// A command, from its start until it is forgotten.
pub struct SimExec {
    pub id: ExecId,
    pub bunker: BunkerId,
    pub start: StartExec,
    state: Mutex<Log>,
    pub changed: Notify,
    pub cancelled: CancellationToken,
    input: Mutex<Option<mpsc::Sender<Bytes>>>,
}

#[derive(Default)]
struct Log {
    frames: Vec<Frame>,
    /// Output before this is forgotten.
    first: usize,
    /// How far the last reader is.
    read: usize,
    end: Option<End>,
    signals: Vec<i32>,
    sizes: Vec<ResizeTerminal>,
    /// Counts the clients of a shell; only the last one is served.
    clients: usize,
}

/// How a command's stream ends.
#[derive(Clone)]
pub enum End {
    Exited(ExecEnd),
    Failed(ErrorBody),
    /// The stream ends without a word.
    Silence,
    /// The stream is reset.
    Reset,
}

impl SimExec {
    fn log(&self) -> MutexGuard<'_, Log> {
        self.state.lock().unwrap()
    }

    pub fn frames(&self) -> usize {
        self.log().frames.len()
    }

    pub fn signals(&self) -> Vec<i32> {
        self.log().signals.clone()
    }

    pub fn sizes(&self) -> Vec<ResizeTerminal> {
        self.log().sizes.clone()
    }

    /// Adds output, once the reader is not too far behind.
    pub async fn print(&self, kind: FrameKind, bytes: impl Into<Bytes>) {
        let waits = self.start.mode != ExecMode::Detached;
        while waits && self.is_too_far_ahead() {
            self.changed.notified().await;
        }
        self.log().frames.push(Frame::data(kind, bytes.into()));
        self.changed.notify_waiters();
    }

    fn is_too_far_ahead(&self) -> bool {
        let log = self.log();
        log.frames.len() > log.read + AHEAD
    }

    pub fn forget_output(&self) {
        let mut log = self.log();
        log.first = log.frames.len();
    }

    pub fn finish(&self, end: End) {
        self.log().end.get_or_insert(end);
        self.input.lock().unwrap().take();
        self.changed.notify_waiters();
    }

    fn report(&self) -> ExecReport {
        let log = self.log();
        ExecReport {
            exec_id: self.id,
            mode: self.start.mode,
            command: self.start.command.clone(),
            pid: Some(42),
            started_at: Timestamp::UNIX_EPOCH,
            ended_at: log.end.is_some().then_some(Timestamp::UNIX_EPOCH),
            first_seq: log.first as u64,
            next_seq: log.frames.len() as u64,
            state: match &log.end {
                None => ExecState::Running,
                Some(End::Exited(end)) => ExecState::Exited { end: end.clone() },
                Some(End::Failed(error)) => ExecState::Failed { error: error.clone() },
                Some(End::Silence | End::Reset) => {
                    let error = ErrorBody::new(ErrorCode::BunkerLost, "gone");
                    ExecState::Failed { error }
                }
            },
        }
    }

    /// Writes to standard input.
    async fn feed(&self, frame: Frame) -> Result<(), ErrorBody> {
        let sender = self.input.lock().unwrap().clone();
        let closed = || match self.log().end {
            Some(_) => ErrorBody::new(ErrorCode::ExecEnded, "it has ended"),
            None => ErrorBody::new(ErrorCode::StdinClosed, "standard input is closed"),
        };
        match frame.kind {
            FrameKind::StdinEnd => drop(self.input.lock().unwrap().take()),
            _ => sender.ok_or_else(closed)?.send(frame.payload).await.map_err(|_| closed())?,
        }
        Ok(())
    }
}

/// Counts a command for as long as it runs.
struct Running(SimWorker);

impl Running {
    fn new(worker: SimWorker) -> Self {
        worker.running_commands.fetch_add(1, Ordering::Relaxed);
        Self(worker)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.0.running_commands.fetch_sub(1, Ordering::Relaxed);
    }
}

pub async fn start(
    State(worker): State<SimWorker>,
    Path(bunker): Path<BunkerId>,
    request: Request,
) -> Response {
    if worker.held().get(&bunker) != Some(&WorkerBunkerState::Running) {
        return refusal(ErrorCode::BunkerNotRunning, "it does not run here").into_response();
    }
    let mut frames = FrameReader::new(request.into_body());
    let start: StartExec = frames.next().await.unwrap().unwrap().parse().unwrap();
    if start.user.as_deref() == Some("nobody-at-all") {
        return refusal(ErrorCode::ValidationError, "there is no such user").into_response();
    }
    let (sender, input) = mpsc::channel(2);
    let exec = Arc::new(SimExec {
        id: start.exec_id,
        bunker,
        start,
        state: Mutex::default(),
        changed: Notify::new(),
        cancelled: CancellationToken::new(),
        input: Mutex::new(Some(sender)),
    });
    worker.execs.lock().unwrap().insert(exec.id, Arc::clone(&exec));
    let (running, commanded) = (Running::new(worker.clone()), Arc::clone(&exec));
    tokio::spawn(async move {
        tokio::select! {
            end = commands::run(&worker, &commanded, input) => commanded.finish(end),
            () = commanded.cancelled.cancelled() => {
                let error = ErrorBody::new(ErrorCode::ExecFailed, "cancelled");
                commanded.finish(End::Failed(error));
            }
        }
        drop(running);
    });
    follow(exec, frames, 0, true)
}

#[derive(Deserialize)]
pub struct AttachQuery {
    from_seq: usize,
}

pub async fn attach(
    State(worker): State<SimWorker>,
    Path((_, id)): Path<(BunkerId, ExecId)>,
    Query(query): Query<AttachQuery>,
    request: Request,
) -> Response {
    match find(&worker, id) {
        Ok(exec) => follow(exec, FrameReader::new(request.into_body()), query.from_seq, false),
        Err(refused) => refused.into_response(),
    }
}

fn find(worker: &SimWorker, id: ExecId) -> Result<Arc<SimExec>, Refused> {
    let found = worker.execs.lock().unwrap().get(&id).cloned();
    found.ok_or_else(|| refusal(ErrorCode::ExecNotFound, format!("no command {id}")))
}

/// Ends an attached command with its first reader.
struct Follower {
    exec: Arc<SimExec>,
    at: usize,
    is_primary: bool,
    client: usize,
    has_begun: bool,
    is_over: bool,
}

impl Drop for Follower {
    fn drop(&mut self) {
        if self.is_primary && self.exec.start.mode == ExecMode::Attached {
            self.exec.cancelled.cancel();
        }
    }
}

fn follow(
    exec: Arc<SimExec>,
    mut input: FrameReader<Body>,
    from: usize,
    is_primary: bool,
) -> Response {
    let fed = Arc::clone(&exec);
    let client = {
        let mut log = exec.log();
        log.clients += 1;
        log.clients
    };
    exec.changed.notify_waiters();
    tokio::spawn(async move {
        while let Ok(Some(frame)) = input.next().await {
            if fed.feed(frame).await.is_err() {
                return;
            }
        }
        if is_primary && fed.start.mode == ExecMode::Attached {
            fed.input.lock().unwrap().take();
        }
    });
    let follower =
        Follower { exec, at: from, is_primary, client, has_begun: false, is_over: false };
    let frames = stream::unfold(follower, async |mut follower| {
        let piece = follower.next().await?;
        Some((piece, follower))
    });
    Body::from_stream(frames).into_response()
}

impl Follower {
    async fn next(&mut self) -> Option<Result<Bytes, std::io::Error>> {
        if self.is_over {
            return None;
        }
        let exec = Arc::clone(&self.exec);
        loop {
            let mut changed = std::pin::pin!(exec.changed.notified());
            changed.as_mut().enable();
            if let Some(piece) = self.at_hand() {
                exec.changed.notify_waiters();
                return piece;
            }
            changed.await;
        }
    }

    /// `None` when there is nothing yet.
    fn at_hand(&mut self) -> Option<Option<Result<Bytes, std::io::Error>>> {
        let exec = Arc::clone(&self.exec);
        let mut log = exec.log();
        let frame = |frame: Frame| Some(Some(Ok(frame.encode())));
        if !self.has_begun {
            self.has_begun = true;
            let started = ExecStarted { exec_id: exec.id, pid: 42, next_seq: self.at as u64 };
            return frame(Frame::json(FrameKind::Started, &started).unwrap());
        }
        if exec.start.mode == ExecMode::Shell && log.clients != self.client {
            self.is_over = true;
            let error = ErrorBody::new(ErrorCode::ShellTakenOver, "another client has the shell");
            return frame(Frame::json(FrameKind::Error, &error).unwrap());
        }
        if self.at < log.first {
            self.at = log.first;
            let gap = OutputGap { next_seq: self.at as u64 };
            return frame(Frame::json(FrameKind::Gap, &gap).unwrap());
        }
        if let Some(output) = log.frames.get(self.at).cloned() {
            self.at += 1;
            log.read = log.read.max(self.at);
            return frame(output);
        }
        let end = log.end.clone()?;
        self.is_over = true;
        match end {
            End::Exited(end) => frame(Frame::json(FrameKind::Exit, &end).unwrap()),
            End::Failed(error) => frame(Frame::json(FrameKind::Error, &error).unwrap()),
            End::Silence => Some(None),
            End::Reset => Some(Some(Err(std::io::Error::other("hung up")))),
        }
    }
}

pub async fn list(State(worker): State<SimWorker>, Path(bunker): Path<BunkerId>) -> Response {
    let execs = worker.execs.lock().unwrap();
    let of_bunker = execs.values().filter(|exec| exec.bunker == bunker);
    Json(of_bunker.map(|exec| exec.report()).collect::<Vec<_>>()).into_response()
}

pub async fn show(
    State(worker): State<SimWorker>,
    Path((_, id)): Path<(BunkerId, ExecId)>,
) -> Response {
    find(&worker, id).map(|exec| Json(exec.report())).into_response()
}

pub async fn end(
    State(worker): State<SimWorker>,
    Path((_, id)): Path<(BunkerId, ExecId)>,
) -> Response {
    match find(&worker, id) {
        Err(refused) => refused.into_response(),
        Ok(exec) => {
            exec.cancelled.cancel();
            worker.execs.lock().unwrap().remove(&id);
            StatusCode::NO_CONTENT.into_response()
        }
    }
}

pub async fn input(
    State(worker): State<SimWorker>,
    Path((_, id)): Path<(BunkerId, ExecId)>,
    request: Request,
) -> Response {
    let exec = match find(&worker, id) {
        Ok(exec) => exec,
        Err(refused) => return refused.into_response(),
    };
    let mut frames = FrameReader::new(request.into_body());
    while let Ok(Some(frame)) = frames.next().await {
        if let Err(error) = exec.feed(frame).await {
            return Refused(error).into_response();
        }
    }
    StatusCode::NO_CONTENT.into_response()
}

pub async fn signal(
    State(worker): State<SimWorker>,
    Path((_, id)): Path<(BunkerId, ExecId)>,
    Json(SendSignal { signal }): Json<SendSignal>,
) -> Response {
    note(&worker, id, |log| log.signals.push(signal))
}

pub async fn resize(
    State(worker): State<SimWorker>,
    Path((_, id)): Path<(BunkerId, ExecId)>,
    Json(size): Json<ResizeTerminal>,
) -> Response {
    note(&worker, id, |log| log.sizes.push(size))
}

fn note(worker: &SimWorker, id: ExecId, write: impl FnOnce(&mut Log)) -> Response {
    let exec = match find(worker, id) {
        Ok(exec) => exec,
        Err(refused) => return refused.into_response(),
    };
    let mut log = exec.log();
    if log.end.is_some() {
        return refusal(ErrorCode::ExecEnded, "it has ended").into_response();
    }
    write(&mut log);
    drop(log);
    exec.changed.notify_waiters();
    StatusCode::NO_CONTENT.into_response()
}

/// Waits until `ready` says so of the exec.
pub async fn until(exec: &SimExec, ready: impl Fn(&SimExec) -> bool) {
    loop {
        let mut changed = std::pin::pin!(exec.changed.notified());
        changed.as_mut().enable();
        if ready(exec) {
            return;
        }
        changed.await;
    }
}

/// For ends that never come.
pub async fn forever() -> End {
    match std::future::pending::<Infallible>().await {}
}
