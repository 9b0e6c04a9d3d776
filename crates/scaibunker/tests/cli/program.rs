//! Running the real binary.

use std::{process::Stdio, time::Duration};

use rustix::process::{Pid, Signal, kill_process};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader},
    process::{Child, Command},
    time::timeout,
};

use crate::fake_controller::{FakeController, KEY};

/// Far more than any test needs; what takes longer hangs.
const LIMIT: Duration = Duration::from_secs(60);

/// How the program ended.
#[derive(Debug)]
pub struct Ended {
    pub code: i32,
    pub stdout: Vec<u8>,
    pub stderr: String,
}

impl Ended {
    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.stdout).unwrap()
    }

    /// The one JSON document on standard output.
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.stdout).unwrap()
    }
}

/// The program with nothing of this process's environment, and no input.
pub fn program(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_scaibunker"));
    command.args(args).env_clear().stdin(Stdio::null()).kill_on_drop(true);
    command
}

/// The program as a client of `controller`.
pub fn client(controller: &FakeController, args: &[&str]) -> Command {
    let mut command = program(args);
    command.env("SCAIBUNKER_URL", &controller.url).env("SCAIBUNKER_API_KEY", KEY);
    command
}

pub async fn ended(command: &mut Command) -> Ended {
    let output = timeout(LIMIT, command.output()).await.expect("the program hangs").unwrap();
    Ended {
        code: output.status.code().unwrap(),
        stdout: output.stdout,
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
}

/// Runs a client command to its end.
pub async fn run(controller: &FakeController, args: &[&str]) -> Ended {
    ended(&mut client(controller, args)).await
}

/// The same with `input` piped in.
pub async fn run_with_input(controller: &FakeController, args: &[&str], input: &[u8]) -> Ended {
    let mut child = start(client(controller, args).stdin(Stdio::piped()));
    let mut stdin = child.stdin.take().unwrap();
    let input = input.to_vec();
    // The program may end before it has read all of it.
    let writer = tokio::spawn(async move { _ = stdin.write_all(&input).await });
    let ended = finish(child).await;
    writer.await.unwrap();
    ended
}

/// Starts the program with its output piped to the test.
pub fn start(command: &mut Command) -> Child {
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

pub async fn finish(child: Child) -> Ended {
    let output = timeout(LIMIT, child.wait_with_output()).await.expect("it hangs").unwrap();
    Ended {
        code: output.status.code().unwrap(),
        stdout: output.stdout,
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
}

/// Waits until the program says that it has been asked to stop.
pub async fn has_noticed(child: &mut Child) {
    let mut line = String::new();
    BufReader::new(child.stderr.as_mut().unwrap()).read_line(&mut line).await.unwrap();
    assert!(line.starts_with("stopping;"), "{line}");
}

pub fn send(child: &Child, signal: Signal) {
    let pid = Pid::from_raw(child.id().unwrap().cast_signed()).unwrap();
    kill_process(pid, signal).unwrap();
}
