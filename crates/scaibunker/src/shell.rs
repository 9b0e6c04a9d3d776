//! A shell in a bunker as if it ran in this terminal.
//!
//! A connection that breaks is made again while the shell waits for it, but only for people: the
//! shell repeats its last output to a client that comes back, and what was on the way to it is
//! lost, which a person sees and a program does not.

use std::{io::Write as _, pin::pin, time::Duration};

use anyhow::{Context as _, anyhow};
use bytes::Bytes;
use scaibunker_api::{error::ErrorCode, ids::ExecId, shell::LINGER_S};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, Stdin},
    signal::unix::{Signal, SignalKind, signal},
    time::{Instant, MissedTickBehavior, interval_at, sleep, timeout_at},
};

use crate::{
    client::{Client, ClientError, ShellEvent, ShellReceiver, ShellSender, ShellTarget},
    exit::Failure,
    output::{self, Output},
    signals::Stop,
    terminal::{self, RawMode},
};

/// What a terminal takes for the end of input, and for Ctrl-C.
const END_OF_INPUT: u8 = 0x04;
const INTERRUPT: u8 = 0x03;

/// Bytes read from standard input at a time.
const INPUT_PIECE: usize = 16 * 1024;

/// How often an idle connection shows that it is in use: what is on the way forgets idle ones.
const PING_INTERVAL: Duration = Duration::from_secs(25);

/// First pause between two attempts to come back; it doubles up to the longest.
const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

const CLEAR_SCREEN: &[u8] = b"\x1b[H\x1b[2J";

/// Runs the shell to its end and gives the code to exit with.
pub async fn run(
    client: &Client,
    mut target: ShellTarget,
    output: Output,
    stop: &Stop,
) -> Result<u8, Failure> {
    let mut keyboard = Keyboard::open().context("cannot follow the size of the terminal")?;
    let mut connection = tokio::select! {
        signal = stop.requested() => return Err(Failure::Stopped(signal)),
        connected = client.shell(&target, terminal::size()) => connected?,
    };
    let _raw = RawMode::enter().context("cannot make the terminal raw")?;
    loop {
        let broken = tokio::select! {
            biased;
            signal = stop.requested() => return Err(Failure::Stopped(signal)),
            ended = relay(&mut connection, &mut keyboard, &mut target.shell_id) => match ended {
                Ok(code) => return Ok(code),
                Err(Failure::Error(error)) => error,
                Err(failure) => return Err(failure),
            },
        };
        let can_return = terminal::is_interactive() && target.shell_id.is_some();
        if !can_return || !is_passing(&broken) {
            return Err(Failure::Error(broken));
        }
        tell(output, &format!("{broken:#}; coming back to the shell, Ctrl-C gives up"));
        connection = tokio::select! {
            signal = stop.requested() => return Err(Failure::Stopped(signal)),
            () = keyboard.interrupted() => return Err(Failure::Error(broken)),
            returned = come_back(client, &target) => returned?,
        };
        write(CLEAR_SCREEN).await?;
        tell(output, "back in the shell; what was typed meanwhile is lost");
    }
}

/// Passes bytes and sizes on in both directions, neither waiting for the other, until the shell
/// ends or the connection breaks.
async fn relay(
    (sender, receiver): &mut (ShellSender, ShellReceiver),
    keyboard: &mut Keyboard,
    shell_id: &mut Option<ExecId>,
) -> Result<u8, Failure> {
    let mut down = pin!(show(receiver, shell_id));
    tokio::select! {
        biased;
        ended = &mut down => ended,
        failure = keyboard.feed(sender) => match failure {
            // The shell may have said how it ended before the connection took no more.
            Failure::Error(error) if error.is::<ClientError>() => down.await,
            failure => Err(failure),
        },
    }
}

async fn show(receiver: &mut ShellReceiver, shell_id: &mut Option<ExecId>) -> Result<u8, Failure> {
    loop {
        match receiver.next().await? {
            ShellEvent::Ready(id) => *shell_id = Some(id),
            ShellEvent::Output(bytes) => write(&bytes).await?,
            ShellEvent::Exit(code) => return Ok(u8::try_from(code).unwrap_or(u8::MAX)),
        }
    }
}

async fn write(bytes: &[u8]) -> Result<(), Failure> {
    let mut stdout = tokio::io::stdout();
    stdout.write_all(bytes).await.map_err(output::write_failed)?;
    stdout.flush().await.map_err(output::write_failed)
}

/// What comes from this side: keys, and changes of the window.
struct Keyboard {
    stdin: Stdin,
    ended: bool,
    resized: Signal,
}

impl Keyboard {
    fn open() -> std::io::Result<Self> {
        let resized = signal(SignalKind::window_change())?;
        Ok(Self { stdin: tokio::io::stdin(), ended: false, resized })
    }

    /// Sends until that fails.
    async fn feed(&mut self, sender: &mut ShellSender) -> Failure {
        match self.try_feed(sender).await {
            Ok(never) => match never {},
            Err(failure) => failure,
        }
    }

    async fn try_feed(
        &mut self,
        sender: &mut ShellSender,
    ) -> Result<std::convert::Infallible, Failure> {
        let mut piece = vec![0; INPUT_PIECE];
        let mut pings = interval_at(Instant::now() + PING_INTERVAL, PING_INTERVAL);
        pings.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                read = self.stdin.read(&mut piece), if !self.ended => {
                    match read.context("cannot read standard input")? {
                        0 => {
                            self.ended = true;
                            sender.input(Bytes::from_static(&[END_OF_INPUT])).await?;
                        }
                        length => sender.input(Bytes::copy_from_slice(&piece[..length])).await?,
                    }
                }
                _ = self.resized.recv() => sender.resize(terminal::size()).await?,
                _ = pings.tick() => sender.ping().await?,
            }
        }
    }

    /// Waits for Ctrl-C, which raw terminals pass on as a byte; other keys are lost.
    async fn interrupted(&mut self) {
        let mut piece = [0; 64];
        while let Ok(length @ 1..) = self.stdin.read(&mut piece).await {
            if piece[..length].contains(&INTERRUPT) {
                return;
            }
        }
        // Without input there is no Ctrl-C.
        std::future::pending().await
    }
}

/// Tries again and again for as long as the shell waits.
async fn come_back(
    client: &Client,
    target: &ShellTarget,
) -> Result<(ShellSender, ShellReceiver), Failure> {
    let deadline = Instant::now() + Duration::from_secs(LINGER_S);
    let mut pause = FIRST_PAUSE;
    loop {
        sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
        let attempt = timeout_at(deadline, client.shell(target, terminal::size())).await;
        match attempt {
            Ok(Ok(connection)) => return Ok(connection),
            Ok(Err(error)) if Instant::now() + pause < deadline && may_pass(&error) => {}
            Ok(Err(error)) => return Err(error.into()),
            Err(_) => {
                return Err(anyhow!(
                    "the server was not back after {LINGER_S} s, and the shell has ended"
                )
                .into());
            }
        }
    }
}

/// Whether the connection broke and not the shell.
fn is_passing(error: &anyhow::Error) -> bool {
    error.downcast_ref().is_some_and(may_pass)
}

fn may_pass(error: &ClientError) -> bool {
    match error {
        ClientError::Refused(refusal) => refusal.code == ErrorCode::ShuttingDown.as_str(),
        ClientError::Tls(_) => false,
        _ => true,
    }
}

/// A note on a line of its own: a raw terminal does not return the carriage.
fn tell(output: Output, text: &str) {
    if !output.is_quiet() {
        let _ = write!(std::io::stderr(), "\r\n{}\r\n", output::printable(text));
    }
}
