//! A command in a bunker as if it ran here: its input, output and exit code.

use std::{
    io::{self, IsTerminal as _},
    pin::pin,
    time::Duration,
};

use anyhow::{Context as _, anyhow};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use scaibunker_api::{
    exec::{ExecOutcome, ExecRequest},
    ids::BunkerId,
};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

use crate::{
    client::{Client, ExecEvent},
    exit::{self, Failure},
    output::{self, Output},
    signals::Stop,
};

/// Input that a command can be given. It travels in the request, so it is bounded like one.
const MAX_INPUT_BYTES: u64 = 1024 * 1024;

/// Silence on standard input after which a person is told what the program waits for.
const INPUT_PATIENCE: Duration = Duration::from_secs(2);

/// Runs the command and gives the code to exit with. Its output is passed on while it runs, or
/// printed as the API's answer with --json.
pub async fn run(
    client: &Client,
    id: BunkerId,
    request: ExecRequest,
    output: Output,
    stop: &Stop,
) -> Result<u8, Failure> {
    let timeout_s = request.timeout_s;
    let outcome = tokio::select! {
        biased;
        // Dropping the call closes its connection, which ends the command.
        signal = stop.requested() => return Err(Failure::Stopped(signal)),
        outcome = execute(client, id, request, output) => outcome?,
    };
    explain(&outcome, timeout_s, output);
    Ok(exit_code(&outcome))
}

async fn execute(
    client: &Client,
    id: BunkerId,
    request: ExecRequest,
    output: Output,
) -> Result<ExecOutcome, Failure> {
    if output.is_json() {
        let answer = client.exec(id, &request).await?;
        output.document(&answer)?;
        return Ok(answer.outcome);
    }
    let mut events = client.exec_stream(id, &ExecRequest { stream: true, ..request }).await?;
    let (mut stdout, mut stderr) = (tokio::io::stdout(), tokio::io::stderr());
    let mut outcome = None;
    loop {
        match events.next().await {
            Ok(Some(ExecEvent::Started(_))) => {}
            Ok(Some(ExecEvent::Stdout(bytes))) => write(&mut stdout, &bytes).await?,
            Ok(Some(ExecEvent::Stderr(bytes))) => write(&mut stderr, &bytes).await?,
            Ok(Some(ExecEvent::Exit(exit))) => outcome = Some(exit),
            Ok(None) => break,
            // How the command ended is known; what the connection does after that is nothing.
            Err(_) if outcome.is_some() => break,
            Err(error) => return Err(error.into()),
        }
    }
    Ok(outcome.context("the server ended the output without saying how the command ended")?)
}

/// Writes through: a person sees a prompt when the command prints it, and what comes on the two
/// outputs keeps its order.
async fn write(to: &mut (impl AsyncWrite + Unpin), bytes: &[u8]) -> Result<(), Failure> {
    to.write_all(bytes).await.map_err(output::write_failed)?;
    to.flush().await.map_err(output::write_failed)
}

/// What the exit code alone does not tell.
fn explain(outcome: &ExecOutcome, timeout_s: u64, output: Output) {
    if outcome.timed_out {
        output.note(&format!("the command was ended after {timeout_s} s; --timeout gives it more"));
    }
    if outcome.oom_killed {
        output.note("the bunker ran out of memory; --memory gives a new one more");
    }
    if let (true, Some(whole)) = (outcome.truncated, &outcome.full_output_ref) {
        output.note(&format!("the output was cut; the whole of it is at {whole}"));
    }
}

fn exit_code(outcome: &ExecOutcome) -> u8 {
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
            "standard input is larger than {MAX_INPUT_BYTES} bytes, the most a command can be \
             given; put the data into the image, or give it in parts to several commands"
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
