//! A command in a bunker as if it ran here: its input, output and exit code.

use std::{
    io::{self, IsTerminal as _},
    pin::pin,
    time::Duration,
};

use anyhow::{Context as _, anyhow};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use scaibunker_api::{
    error::ErrorCode,
    exec::{ExecInput, ExecOutcome, ExecRequest},
    ids::{BunkerId, ExecId},
};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

use crate::{
    client::{Client, ClientError, ExecEvent, ExecStream},
    exit::{self, Failure},
    output::{self, Output},
    signals::Stop,
};

/// Input that a command can be given. It travels in the request, so it is bounded like one.
const MAX_INPUT_BYTES: u64 = 1024 * 1024;

/// Bytes of streamed input in one call.
const INPUT_PIECE: usize = 256 * 1024;

/// Silence on standard input after which a person is told what the program waits for.
const INPUT_PATIENCE: Duration = Duration::from_secs(2);

/// Where the command's standard input comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Input {
    /// It is in the request, or there is none.
    InRequest,
    /// From this program's standard input, while the command runs.
    Streamed,
}

/// Runs the command and gives the code to exit with. Its output is passed on while it runs, or
/// printed as the API's answer with --json.
pub async fn run(
    client: &Client,
    id: BunkerId,
    request: ExecRequest,
    input: Input,
    output: Output,
    stop: &Stop,
) -> Result<u8, Failure> {
    let timeout_s = request.timeout_s;
    let outcome = tokio::select! {
        biased;
        // Dropping the call closes its connection, which ends the command.
        signal = stop.requested() => return Err(Failure::Stopped(signal)),
        outcome = execute(client, id, request, input, output) => outcome?,
    };
    explain(&outcome, timeout_s, output);
    Ok(exit_code(&outcome))
}

async fn execute(
    client: &Client,
    id: BunkerId,
    request: ExecRequest,
    input: Input,
    output: Output,
) -> Result<ExecOutcome, Failure> {
    if output.is_json() {
        let answer = client.exec(id, &request).await?;
        output.document(&answer)?;
        return Ok(answer.outcome);
    }
    let stdin_open = (input == Input::Streamed).then_some(true);
    let request = ExecRequest { stream: true, stdin_open, ..request };
    let mut events = client.exec_stream(id, &request).await?;
    if input == Input::InRequest {
        return to_the_end(&mut events, output).await;
    }
    let started = match events.next().await? {
        Some(ExecEvent::Started(started)) => started,
        _ => return Err(anyhow!("the server did not say that the command has started").into()),
    };
    tokio::select! {
        biased;
        outcome = to_the_end(&mut events, output) => outcome,
        failure = feed(client, id, started.exec_id) => Err(failure),
    }
}

/// Shows what a command says until it ends.
pub async fn to_the_end(events: &mut ExecStream, output: Output) -> Result<ExecOutcome, Failure> {
    loop {
        match events.next().await? {
            Some(event) => {
                if let Some(outcome) = show(event, output).await? {
                    // How the command ended is known; what the connection does after that is
                    // nothing.
                    return Ok(outcome);
                }
            }
            None => {
                let silence = "the server ended the output without saying how the command ended";
                return Err(anyhow!(silence).into());
            }
        }
    }
}

/// Passes output on; gives the outcome once there is one.
pub async fn show(event: ExecEvent, output: Output) -> Result<Option<ExecOutcome>, Failure> {
    match event {
        ExecEvent::Started(_) => {}
        ExecEvent::Stdout(bytes) => write(&mut tokio::io::stdout(), &bytes).await?,
        ExecEvent::Stderr(bytes) => write(&mut tokio::io::stderr(), &bytes).await?,
        ExecEvent::Gap(_) => output.note("some output is missing here; it is no longer at hand"),
        ExecEvent::Exit(outcome) => return Ok(Some(outcome)),
    }
    Ok(None)
}

/// Writes through: a person sees a prompt when the command prints it, and what comes on the two
/// outputs keeps its order.
async fn write(to: &mut (impl AsyncWrite + Unpin), bytes: &[u8]) -> Result<(), Failure> {
    to.write_all(bytes).await.map_err(output::write_failed)?;
    to.flush().await.map_err(output::write_failed)
}

/// Passes standard input on to a running command; comes back only when that fails. A command that
/// takes no more is none of that.
async fn feed(client: &Client, id: BunkerId, exec_id: ExecId) -> Failure {
    match try_feed(client, id, exec_id).await {
        Ok(()) => std::future::pending().await,
        Err(Failure::Error(error)) if takes_no_more(&error) => std::future::pending().await,
        Err(failure) => failure,
    }
}

async fn try_feed(client: &Client, id: BunkerId, exec_id: ExecId) -> Result<(), Failure> {
    let mut stdin = tokio::io::stdin();
    let mut piece = vec![0; INPUT_PIECE];
    loop {
        let length = stdin.read(&mut piece).await.context("cannot read standard input")?;
        let data_base64 = (length > 0).then(|| STANDARD.encode(&piece[..length]));
        let input = ExecInput { data: None, data_base64, eof: length == 0 };
        client.exec_input(id, exec_id, &input).await?;
        if length == 0 {
            return Ok(());
        }
    }
}

fn takes_no_more(error: &anyhow::Error) -> bool {
    let ended = [ErrorCode::StdinClosed, ErrorCode::ExecEnded, ErrorCode::ExecNotFound];
    error
        .downcast_ref::<ClientError>()
        .is_some_and(|error| ended.iter().any(|code| code.as_str() == error.code()))
}

/// What the exit code alone does not tell.
fn explain(outcome: &ExecOutcome, timeout_s: u64, output: Output) {
    if outcome.timed_out {
        output.note(&format!("the command was ended after {timeout_s} s; --timeout gives it more"));
    }
    if outcome.oom_killed {
        output.note("the bunker ran out of memory; --memory gives a new one more");
    }
    match (&outcome.full_output_ref, &outcome.full_output_error) {
        (Some(whole), _) if outcome.truncated => {
            output.note(&format!("the output was cut; the whole of it is at {whole}"));
        }
        (None, Some(error)) => {
            output.note(&format!(
                "the output was cut, and the whole of it could not be kept: {error}"
            ));
        }
        _ => {}
    }
}

/// The code that tells how a command ended.
pub fn exit_code(outcome: &ExecOutcome) -> u8 {
    if outcome.timed_out {
        return exit::TIMED_OUT;
    }
    u8::try_from(outcome.exit_code).unwrap_or(u8::MAX)
}

/// What is piped into this program, in base64; `None` when there is nothing, or a terminal.
pub async fn piped_input(output: Output, stop: &Stop) -> Result<Option<String>, Failure> {
    if io::stdin().is_terminal() {
        return Ok(None);
    }
    let mut input = pin!(read_bounded(tokio::io::stdin()));
    let bytes = tokio::select! {
        bytes = &mut input => bytes?,
        signal = stop.requested() => return Err(Failure::Stopped(signal)),
        () = tokio::time::sleep(INPUT_PATIENCE) => {
            output.note("waiting for the end of standard input; `</dev/null` gives the command none");
            tokio::select! {
                bytes = input => bytes?,
                signal = stop.requested() => return Err(Failure::Stopped(signal)),
            }
        }
    };
    Ok((!bytes.is_empty()).then(|| STANDARD.encode(bytes)))
}

async fn read_bounded(input: impl AsyncRead + Unpin) -> anyhow::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let read = input.take(MAX_INPUT_BYTES + 1).read_to_end(&mut bytes).await;
    read.context("cannot read standard input")?;
    if bytes.len() as u64 > MAX_INPUT_BYTES {
        return Err(anyhow!(
            "standard input is larger than {MAX_INPUT_BYTES} bytes, the most that goes with \
             the call; `scaibunker exec -i` streams any amount, `scaibunker cp` copies files"
        ));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(exit_code: i32, timed_out: bool) -> ExecOutcome {
        ExecOutcome {
            exec_id: scaibunker_api::ids::ExecId::generate(),
            exit_code,
            signal: None,
            timed_out,
            oom_killed: false,
            truncated: false,
            full_output_ref: None,
            full_stderr_ref: None,
            full_output_error: None,
            duration_ms: 1,
        }
    }

    #[test]
    fn exit_codes_are_the_commands_own_unless_its_time_was_up() {
        for (code, timed_out, shown) in [
            (0, false, 0),
            (137, false, 137),
            (143, true, 124),
            (256, false, 255),
            (-1, false, 255),
        ] {
            assert_eq!(exit_code(&outcome(code, timed_out)), shown);
        }
    }

    #[tokio::test]
    async fn input_is_read_up_to_its_bound() {
        let most = vec![7; MAX_INPUT_BYTES as usize];
        assert_eq!(read_bounded(most.as_slice()).await.unwrap(), most);
        let error = read_bounded(tokio::io::repeat(7)).await.unwrap_err();
        assert!(error.to_string().contains("larger than 1048576 bytes"), "{error}");
    }
}
