//! Running commands.
//!
//! A command ends when its own process does. What it wrote until then is delivered, whatever the
//! host's pace; output of processes it leaves behind is delivered for a moment more. Those
//! processes live on, as after `server &` in a shell, with their output read and forgotten; the
//! time limit, a signal and a host that gives the stream up concern them no more.

mod command;
mod drive;
mod launch;
mod running;
mod spawn;
mod streams;
mod terminal;

use std::sync::Arc;

use bytes::Bytes;
use hyper::body::Incoming;
use scaibunker_guest_protocol::{
    exec::ExecSpec,
    frame::{Frame, FrameKind},
    frame_reader::FrameReader,
    log::LogLine,
};
use tokio::{
    sync::mpsc,
    time::{Duration, timeout},
};

pub use self::running::Running;
use self::{command::Command, drive::drive, launch::is_exec_id};
use crate::{body::Body, error::AgentError, root::BunkerRoot, server::Agent};

/// Frames on their way to the host.
const QUEUED_FRAMES: usize = 4;

/// A short command's whole answer goes to the host at once: each write costs both sides more
/// than all else the agent does for it. A longer one's beginning is held back for this long.
const COALESCE_LIMIT: Duration = Duration::from_millis(10);
const COALESCED_FRAMES: usize = 2;

/// A warm-up that takes longer is cut short.
const WARM_UP_LIMIT: Duration = Duration::from_secs(5);

/// Not an exec id, so no exec can be in its way.
const WARM_UP_NAME: &str = "warm-up";

/// Reads the specification and runs it; the answer's body carries its frames.
pub async fn serve(
    agent: Arc<Agent>,
    root: Arc<BunkerRoot>,
    body: Incoming,
) -> Result<Body, AgentError> {
    let mut frames = FrameReader::new(body);
    let spec = read_spec(&mut frames).await?;
    if !is_exec_id(&spec.exec_id) {
        return Err(AgentError::Invalid("an exec id is 1 to 64 of [a-z0-9_]".to_owned()));
    }
    let (to_host, mut from_command) = mpsc::channel(QUEUED_FRAMES);
    tokio::spawn(run(agent, root, spec, frames, to_host));
    let mut first = Vec::with_capacity(COALESCED_FRAMES);
    let gather = async {
        while first.len() < COALESCED_FRAMES && from_command.recv_many(&mut first, 1).await > 0 {}
    };
    // A command that takes longer is answered with what there is.
    let _ = timeout(COALESCE_LIMIT, gather).await;
    Ok(Body::stream(first, from_command))
}

/// The first frame, which says what to run.
async fn read_spec(frames: &mut FrameReader<Incoming>) -> Result<ExecSpec, AgentError> {
    let frame = frames.next().await;
    let frame = frame.map_err(|e| AgentError::Invalid(format!("cannot read the exec: {e}")))?;
    match frame {
        Some(frame) if frame.kind == FrameKind::Spec => {
            frame.parse().map_err(|e| AgentError::Invalid(e.to_string()))
        }
        _ => Err(AgentError::Invalid("an exec starts with its specification".to_owned())),
    }
}

async fn run(
    agent: Arc<Agent>,
    root: Arc<BunkerRoot>,
    spec: ExecSpec,
    frames: FrameReader<Incoming>,
    to_host: mpsc::Sender<Bytes>,
) {
    let log = |message: String| {
        let (request_id, exec_id) = (Some(spec.request_id.clone()), Some(spec.exec_id.clone()));
        agent.log.write(LogLine { message, request_id, exec_id });
    };
    let mut command = None;
    let outcome = async {
        let (prepared, starter) = Command::prepare(&agent, &root, &spec)?;
        let time_limit = spec.timeout_ms.map(Duration::from_millis);
        let terminal = prepared.terminal.clone();
        let list = |leader| agent.running.list(&spec.exec_id, leader, terminal);
        let command = command.insert(prepared);
        drive(command, starter, time_limit, frames, list, &agent.hold, &to_host).await
    };
    let last = match outcome.await {
        Ok(None) => {
            log("the exec's host has gone; the command goes on".to_owned());
            if let Some(command) = command {
                command.keep_company().await;
            }
            return;
        }
        Ok(Some(exit)) => {
            log(format!("exec ended with {} after {} ms", exit.exit_code, exit.duration_ms));
            Frame::json(FrameKind::Exit, &exit)
        }
        Err(error) => {
            log(format!("exec failed: {}", error.chain()));
            Frame::json(FrameKind::Error, &error.to_guest_error())
        }
    };
    if let Ok(frame) = last {
        // A host that has given the stream up gets no answer.
        let _ = to_host.send(frame.encode()).await;
    }
    drop(to_host);
    if let Some(command) = command {
        command.settle().await;
    }
}

/// Runs a command as root for its effect on the page cache alone.
pub async fn warm_up(agent: &Agent, root: &Arc<BunkerRoot>, argv: Vec<String>) {
    let spec = ExecSpec {
        exec_id: WARM_UP_NAME.to_owned(),
        request_id: String::new(),
        argv,
        cwd: None,
        default_cwd: String::new(),
        env: Default::default(),
        user: "0".to_owned(),
        timeout_ms: None,
        terminal: None,
    };
    let Ok((mut command, starter)) = Command::prepare(agent, root, &spec) else { return };
    command.streams.stdin.close();
    let run = async {
        if starter.start().await.is_ok() {
            command.child.ended().await;
        }
    };
    if timeout(WARM_UP_LIMIT, run).await.is_err() {
        agent.log.line("the warm-up was cut short");
    }
    // It has done its work, or never will.
    let _ = command.cgroup.kill();
    command.settle().await;
}
