//! One command: what is known of it, its last output, its input and its readers.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use bytes::Bytes;
use jiff::Timestamp;
use scaibunker_api::{
    error::{ErrorBody, ErrorCode},
    exec::{Command, ExecMode},
    ids::ExecId,
    worker::{ExecReport, ExecState},
};
use scaibunker_guest_protocol::frame::Frame;
use tokio::{
    sync::{Notify, mpsc},
    time::{Duration, Instant, sleep_until},
};
use tokio_util::sync::CancellationToken;

use super::{
    input::Input,
    journal::{Journal, NoRoom, Patience, ReaderId},
    shortened::shortened,
};

/// Output of a command that stays at hand.
const JOURNAL_BYTES: usize = 1024 * 1024;
/// Output of a shell that a client which comes back gets.
const SHELL_JOURNAL_BYTES: usize = 64 * 1024;
/// How long a shell waits for a client to come back.
const LINGER: Duration = Duration::from_secs(scaibunker_api::shell::LINGER_S);
const MAX_READERS: usize = 16;

/// A running or remembered command.
pub struct Exec {
    pub id: ExecId,
    pub mode: ExecMode,
    command: Option<Command>,
    started_at: Timestamp,
    input: Input,
    state: Mutex<State>,
    /// For readers: there is more output, an end, or they are not wanted any more.
    pub(super) news: Notify,
    /// For the driver: a reader came, went on or went.
    pub(super) moved: Notify,
    cancelled: CancellationToken,
}

pub(super) struct State {
    pub journal: Journal,
    pub pid: Option<u32>,
    pub end: Option<End>,
    /// Readers that get this instead of further output.
    pub expelled: HashMap<ReaderId, ErrorBody>,
    /// Why the command is to be ended.
    cancel: Option<ErrorBody>,
    /// The primary reader of an attached command, or the client of a shell.
    holder: Option<Holder>,
    /// When a shell's last client left.
    alone_since: Instant,
    last_reader: ReaderId,
}

struct Holder {
    id: ReaderId,
    /// Its going, for whoever feeds its input.
    gone: CancellationToken,
}

#[derive(Debug, Clone)]
pub(super) struct End {
    pub at: Timestamp,
    pub state: ExecState,
}

/// Where a new reader begins, and the token of its end.
pub(super) struct Place {
    pub id: ReaderId,
    pub next_seq: u64,
    pub gone: CancellationToken,
}

impl Exec {
    /// A command that is about to be started; what comes into `Input` goes to the receiver.
    pub(super) fn new(
        id: ExecId,
        mode: ExecMode,
        command: Option<&Command>,
    ) -> (Arc<Self>, mpsc::Receiver<Bytes>) {
        let (input, receiver) = Input::open();
        let capacity = if mode == ExecMode::Shell { SHELL_JOURNAL_BYTES } else { JOURNAL_BYTES };
        let exec = Self {
            id,
            mode,
            command: command.map(shortened),
            started_at: Timestamp::now(),
            input,
            state: Mutex::new(State::new(Journal::new(capacity, 0))),
            news: Notify::new(),
            moved: Notify::new(),
            cancelled: CancellationToken::new(),
        };
        (Arc::new(exec), receiver)
    }

    /// A command of an earlier server, whose output is lost. One that still ran is ended with
    /// `lost`.
    pub(super) fn restored(report: ExecReport, lost: ErrorBody) -> Arc<Self> {
        let mut state = State::new(Journal::new(0, report.next_seq));
        state.pid = report.pid;
        state.end = Some(match report.state {
            ExecState::Running => {
                End { at: Timestamp::now(), state: ExecState::Failed { error: lost } }
            }
            state => End { at: report.ended_at.unwrap_or(report.started_at), state },
        });
        Arc::new(Self {
            id: report.exec_id,
            mode: report.mode,
            command: report.command,
            started_at: report.started_at,
            input: Input::closed(),
            state: Mutex::new(state),
            news: Notify::new(),
            moved: Notify::new(),
            cancelled: CancellationToken::new(),
        })
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is known of it.
    #[must_use]
    pub fn report(&self) -> ExecReport {
        let state = self.state();
        ExecReport {
            exec_id: self.id,
            mode: self.mode,
            command: self.command.clone(),
            pid: state.pid,
            started_at: self.started_at,
            ended_at: state.end.as_ref().map(|end| end.at),
            first_seq: state.journal.first_seq(),
            next_seq: state.journal.next_seq(),
            state: state.end.as_ref().map_or(ExecState::Running, |end| end.state.clone()),
        }
    }

    #[must_use]
    pub fn has_ended(&self) -> bool {
        self.state().end.is_some()
    }

    /// Asks for the command's end, of which `why` is told; the first reason counts.
    pub fn cancel(&self, why: ErrorBody) {
        self.state().cancel.get_or_insert(why);
        self.cancelled.cancel();
    }

    /// Returns why the command is to be ended, once it is.
    pub(super) async fn cancelled(&self) -> ErrorBody {
        self.cancelled.cancelled().await;
        let why = self.state().cancel.clone();
        why.unwrap_or_else(|| ErrorBody::new(ErrorCode::ExecEnded, "the command was cancelled"))
    }

    /// Returns once a shell has been without a client for too long; never for another command.
    pub(super) async fn abandoned(&self) -> ErrorBody {
        if self.mode != ExecMode::Shell {
            return std::future::pending().await;
        }
        loop {
            let mut moved = std::pin::pin!(self.moved.notified());
            moved.as_mut().enable();
            let Some(alone_since) = self.alone_since() else {
                moved.await;
                continue;
            };
            let deadline = alone_since + LINGER;
            if Instant::now() >= deadline {
                let message = format!("no client came back to the shell for {LINGER:?}");
                return ErrorBody::new(ErrorCode::ExecEnded, message);
            }
            tokio::select! {
                () = moved => {}
                () = sleep_until(deadline) => {}
            }
        }
    }

    /// Gives a shell's client its whole time to come back, after the shell stood still.
    pub(super) fn restart_linger(&self) {
        self.state().alone_since = Instant::now();
    }

    fn alone_since(&self) -> Option<Instant> {
        let state = self.state();
        state.holder.is_none().then_some(state.alone_since)
    }

    /// The command runs.
    pub(super) fn set_started(&self, pid: u32) {
        self.state().pid = Some(pid);
        self.news.notify_waiters();
    }

    /// Whether the guest has said that the command runs.
    pub(super) fn is_started(&self) -> bool {
        self.state().pid.is_some()
    }

    /// Returns once the command runs or has ended.
    pub async fn begun(&self) {
        loop {
            let mut news = std::pin::pin!(self.news.notified());
            news.as_mut().enable();
            let has_begun = {
                let state = self.state();
                state.pid.is_some() || state.end.is_some()
            };
            if has_begun {
                return;
            }
            news.await;
        }
    }

    /// Adds output, as soon as the readers that must be waited for leave room for it.
    pub(super) async fn push(&self, frame: Frame) {
        loop {
            let mut moved = std::pin::pin!(self.moved.notified());
            moved.as_mut().enable();
            let NoRoom { until } = {
                let (mut state, now) = (self.state(), Instant::now());
                match state.journal.make_room(frame.payload.len(), now) {
                    Ok(()) => {
                        state.journal.push(frame, now);
                        drop(state);
                        return self.news.notify_waiters();
                    }
                    Err(no_room) => no_room,
                }
            };
            match until {
                None => moved.await,
                Some(until) => tokio::select! {
                    () = moved => {}
                    () = sleep_until(until) => {}
                },
            }
        }
    }

    /// The command has ended; what it says is complete.
    pub(super) fn set_ended(&self, state: ExecState) {
        self.input.close();
        self.state().end = Some(End { at: Timestamp::now(), state });
        self.news.notify_waiters();
    }

    /// Returns once the command has ended.
    pub(super) async fn until_ended(&self) {
        loop {
            let mut news = std::pin::pin!(self.news.notified());
            news.as_mut().enable();
            if self.has_ended() {
                return;
            }
            news.await;
        }
    }

    /// When the command ended.
    pub(super) fn ended_at(&self) -> Option<Timestamp> {
        self.state().end.as_ref().map(|end| end.at)
    }

    /// Bytes of output at hand.
    pub(super) fn journal_bytes(&self) -> usize {
        self.state().journal.bytes()
    }

    /// Drops the output at hand unless somebody is reading it; the bytes that were freed.
    pub(super) fn clear_unread(&self) -> usize {
        let mut state = self.state();
        if state.journal.reader_count() > 0 {
            return 0;
        }
        let freed = state.journal.bytes();
        state.journal.clear();
        freed
    }

    /// Passes a frame to standard input; waits for the command to take what came before.
    pub async fn feed(&self, frame: &Frame) -> Result<(), ErrorBody> {
        self.input.send(frame.encode()).await.map_err(|_| self.input_refused())
    }

    /// Whether standard input takes anything still.
    pub fn takes_input(&self) -> Result<(), ErrorBody> {
        if self.input.is_open() { Ok(()) } else { Err(self.input_refused()) }
    }

    /// Ends standard input behind what came before; one that has ended is fine.
    pub async fn end_input(&self) {
        self.input.end().await;
    }

    /// Ends standard input where the guest learns of it otherwise.
    pub fn close_input(&self) {
        self.input.close();
    }

    fn input_refused(&self) -> ErrorBody {
        if self.has_ended() {
            return ended(self.id);
        }
        let message = format!("the standard input of command {} has been closed", self.id);
        ErrorBody::new(ErrorCode::StdinClosed, message)
    }

    /// Adds a reader. The first of an attached command is its primary; each of a shell takes it
    /// over.
    pub(super) fn place_reader(
        &self,
        from_seq: Option<u64>,
        is_first: bool,
    ) -> Result<Place, ErrorBody> {
        let gone = CancellationToken::new();
        let mut state = self.state();
        if state.journal.reader_count() >= MAX_READERS {
            let message = format!("command {} has {MAX_READERS} readers already", self.id);
            return Err(limited(message));
        }
        state.last_reader += 1;
        let id = state.last_reader;
        let holds = match self.mode {
            ExecMode::Attached => is_first,
            ExecMode::Detached => false,
            ExecMode::Shell => true,
        };
        if holds {
            let holder = Holder { id, gone: gone.clone() };
            if let Some(earlier) = state.holder.replace(holder) {
                let message = format!("another client has taken shell {} over", self.id);
                let error = ErrorBody::new(ErrorCode::ShellTakenOver, message);
                earlier.gone.cancel();
                state.journal.detach(earlier.id);
                state.expelled.insert(earlier.id, error);
            }
        }
        let patience = if holds { Patience::Endless } else { Patience::Limited };
        let next_seq = state.journal.attach(id, from_seq, patience, Instant::now());
        drop(state);
        self.news.notify_waiters();
        self.moved.notify_waiters();
        Ok(Place { id, next_seq, gone })
    }

    /// Gives a reader `error` in place of further output.
    pub fn expel(&self, id: ReaderId, error: ErrorBody) {
        let mut state = self.state();
        state.journal.detach(id);
        state.expelled.insert(id, error);
        drop(state);
        self.news.notify_waiters();
        self.moved.notify_waiters();
    }

    /// A reader has gone.
    pub(super) fn remove_reader(&self, id: ReaderId) {
        let mut state = self.state();
        state.journal.detach(id);
        state.expelled.remove(&id);
        let held = state.holder.as_ref().is_some_and(|holder| holder.id == id);
        if held {
            state.holder = None;
            state.alone_since = Instant::now();
        }
        let ends = held && self.mode == ExecMode::Attached && state.end.is_none();
        drop(state);
        self.moved.notify_waiters();
        if ends {
            let message = format!("command {} was cancelled: its caller went away", self.id);
            self.cancel(ErrorBody::new(ErrorCode::ExecEnded, message));
        }
    }
}

impl State {
    fn new(journal: Journal) -> Self {
        Self {
            journal,
            pid: None,
            end: None,
            expelled: HashMap::new(),
            cancel: None,
            holder: None,
            alone_since: Instant::now(),
            last_reader: 0,
        }
    }
}

/// What a call that needs a running command is answered.
#[must_use]
pub fn ended(id: ExecId) -> ErrorBody {
    ErrorBody::new(ErrorCode::ExecEnded, format!("command {id} has ended already"))
}

/// A bound was reached that a call a moment later may not meet.
#[must_use]
pub fn limited(message: impl Into<String>) -> ErrorBody {
    ErrorBody { retry_after: Some(1), ..ErrorBody::new(ErrorCode::RateLimited, message) }
}
