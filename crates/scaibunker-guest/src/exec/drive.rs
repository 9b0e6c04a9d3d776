//! Following one command from its start to its end.

use std::{
    convert::Infallible,
    future::pending,
    io,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
};

use bytes::Bytes;
use hyper::body::Incoming;
use rustix::process::Signal;
use scaibunker_guest_protocol::{
    exec::{Exit, KILL_GRACE_MS, Started},
    frame::{Frame, FrameKind},
    frame_reader::{FrameReader, ReadError},
};
use tokio::{
    sync::mpsc,
    time::{Duration, Instant, sleep},
};

use super::{
    command::{Command, Start, Starter, pid_of},
    running::Listed,
    streams::{Input, Outputs, Streams},
};
use crate::{
    cgroup::CommandCgroup,
    error::AgentError,
    hold::Hold,
    reaper::{Child, Ended},
};

/// A process left behind may hold the command's output open for ever: it is waited for until it
/// has been quiet for this long,
const QUIET: Duration = Duration::from_millis(100);

/// and for this long in all.
const DRAIN_LIMIT: Duration = Duration::from_secs(1);

/// Of a reason that quotes the caller's own, possibly very long, words.
const MAX_REASON_BYTES: usize = 1024;

/// Runs `command` to its end; `None` if its host went while it was held: it goes on alone. Only the exec's
/// last frame is left to send. `list` makes the command of the given process reachable for other requests.
pub async fn drive(
    command: &mut Command,
    starter: Starter,
    time_limit: Option<Duration>,
    frames: FrameReader<Incoming>,
    list: impl FnOnce(u32) -> Listed,
    hold: &Hold,
    to_host: &mpsc::Sender<Bytes>,
) -> Result<Option<Exit>, AgentError> {
    let begun = Instant::now();
    let Command { cgroup, streams, child, device, .. } = command;
    let timed_out = AtomicBool::new(false);

    let ended = tokio::select! {
        ended = async {
            let ended = match begin(starter, child, list, to_host).await? {
                Begun::Ended(ended) => ended,
                Begun::Runs(_listed) => follow(child, cgroup, streams, frames, hold, to_host).await,
            };
            if timed_out.load(Ordering::Relaxed) {
                // Whatever outlives the command now is killed in time: the answer says that the
                // time was up, and nothing of the command runs on after it.
                cgroup.emptied().await.map_err(AgentError::io("watch the cgroup"))?;
            }
            Ok::<_, AgentError>(ended)
        } => ended?,
        () = enforce(cgroup, time_limit, hold, to_host, &timed_out) => return Ok(None),
    };
    streams.stdin.close();
    *device = None;
    drain(&streams.output, to_host).await;

    let (exit_code, signal) = match ended {
        Ended::Exited(code) => (code, None),
        Ended::Signalled(signal) => (128 + signal, Some(signal)),
    };
    Ok(Some(Exit {
        exit_code,
        signal,
        timed_out: timed_out.load(Ordering::Relaxed),
        oom_killed: cgroup.was_oom_killed().map_err(AgentError::io("read the cgroup's events"))?,
        duration_ms: u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX),
    }))
}

enum Begun {
    Runs(Listed),
    /// Its program could not be executed.
    Ended(Ended),
}

/// Makes the process and tells the host, to whom it is reachable from then on.
async fn begin(
    starter: Starter,
    child: &mut Child,
    list: impl FnOnce(u32) -> Listed,
    to_host: &mpsc::Sender<Bytes>,
) -> Result<Begun, AgentError> {
    let start = starter.start().await?;
    let started = Started { pid: pid_of(child) };
    let listed = list(started.pid);
    let frame = Frame::json(FrameKind::Started, &started)
        .map_err(|e| AgentError::io("describe the process")(io::Error::other(e)))?;
    // A host that has gone is `enforce`'s to notice, here and below.
    let _ = to_host.send(frame.encode()).await;
    let Start::NotExecuted { exit_code, mut reason } = start else {
        return Ok(Begun::Runs(listed));
    };
    reason.truncate(reason.floor_char_boundary(MAX_REASON_BYTES));
    let text = Bytes::from(format!("scaibunker: {reason}\n"));
    let _ = to_host.send(Frame::data(FrameKind::Stderr, text).encode()).await;
    child.ended().await;
    Ok(Begun::Ended(Ended::Exited(exit_code)))
}

/// Passes bytes on until the process has ended.
async fn follow(
    child: &mut Child,
    cgroup: &CommandCgroup,
    streams: &mut Streams,
    frames: FrameReader<Incoming>,
    hold: &Hold,
    to_host: &mpsc::Sender<Bytes>,
) -> Ended {
    let Streams { stdin, output } = streams;
    let chunks = AtomicU64::new(0);
    let output = async {
        output.pump(to_host, &chunks).await;
        pending::<Infallible>().await
    };
    let input = async {
        if feed(stdin, frames).await.is_err() && !hold.is_held() {
            // Killed before its input is closed: half an input must not look like a whole one.
            let _ = cgroup.kill();
        }
        pending::<Infallible>().await
    };
    tokio::select! {
        biased;
        ended = child.ended() => ended,
        never = output => match never {},
        never = input => match never {},
    }
}

/// The host's frames cannot be followed further.
#[derive(Debug, thiserror::Error)]
enum FeedError {
    #[error(transparent)]
    Read(#[from] ReadError<hyper::Error>),
    #[error("the host sent a {0:?} frame to a running command")]
    Unexpected(FrameKind),
}

/// Passes the host's frames on to the command until there are no more.
async fn feed(stdin: &mut Input, mut frames: FrameReader<Incoming>) -> Result<(), FeedError> {
    while let Some(frame) = frames.next().await? {
        match frame.kind {
            FrameKind::Stdin => stdin.write_all(frame.payload).await,
            FrameKind::StdinEnd => stdin.end().await,
            kind => return Err(FeedError::Unexpected(kind)),
        }
    }
    stdin.end().await;
    Ok(())
}

/// Ends the command's processes when its time is up or the host has given the stream up. Returns if that
/// happens while the command is held, which is not the command's end.
async fn enforce(
    cgroup: &CommandCgroup,
    time_limit: Option<Duration>,
    hold: &Hold,
    to_host: &mpsc::Sender<Bytes>,
    timed_out: &AtomicBool,
) {
    let time_is_up = async {
        match time_limit {
            Some(limit) => sleep(limit).await,
            None => pending().await,
        }
    };
    let in_time = tokio::select! {
        () = to_host.closed() => true,
        () = time_is_up => false,
    };
    if in_time && hold.is_held() {
        return;
    }
    if !in_time {
        timed_out.store(true, Ordering::Relaxed);
        // What cannot be asked to end is killed below all the same.
        let _ = cgroup.signal(Signal::TERM);
        tokio::select! {
            () = to_host.closed() => {}
            () = sleep(Duration::from_millis(KILL_GRACE_MS)) => {}
        }
    }
    // Fails only where the command's cgroup is gone, and with it the command.
    let _ = cgroup.kill();
    pending().await
}

/// Delivers what the command has written, and for a moment what its children still write.
async fn drain(output: &Outputs, to_host: &mpsc::Sender<Bytes>) {
    let chunks = AtomicU64::new(0);
    let give_up = Instant::now() + DRAIN_LIMIT;
    let is_quiet = async {
        loop {
            let before = chunks.load(Ordering::Relaxed);
            sleep(QUIET).await;
            if chunks.load(Ordering::Relaxed) == before || Instant::now() > give_up {
                return;
            }
        }
    };
    tokio::select! {
        biased;
        () = output.pump(to_host, &chunks) => {}
        () = is_quiet => {
            // A host slower than this is waited for: the command itself wrote these bytes.
            output.flush(to_host).await;
        }
    }
}
