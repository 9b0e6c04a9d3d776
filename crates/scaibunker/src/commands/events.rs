//! `scaibunker events`

use anyhow::{Context as _, anyhow};
use clap::Args;
use scaibunker_api::bunker::StatusEvent;

use crate::{
    bunker_ref,
    cli::GlobalArgs,
    exit::Failure,
    output::{self, Output},
    signals::Stop,
};

/// Show a bunker's status, now and whenever it changes, until it has ended
///
/// With --json each event is a JSON object on a line of its own.
#[derive(Debug, Args)]
pub struct EventsArgs {
    /// Id, the beginning of one, or name of a bunker
    #[arg(value_name = "ID")]
    bunker: String,
}

pub async fn run(global: &GlobalArgs, args: &EventsArgs) -> Result<(), Failure> {
    let (client, output) = (global.client()?, global.output());
    let stop = Stop::listen().context("cannot listen for signals")?;
    let id = bunker_ref::resolve(&client, &args.bunker).await?;
    let followed = async {
        let mut events = client.status_events(id).await?;
        let mut has_ended = false;
        while let Some(event) = events.next().await? {
            show(&event, output)?;
            has_ended = event.status.is_terminal();
        }
        if has_ended {
            return Ok(());
        }
        // A server that is stopped sends its clients to another one.
        Err(anyhow!("the server stops serving; follow the bunker again: `scaibunker events {id}`")
            .into())
    };
    tokio::select! {
        biased;
        signal = stop.requested() => Err(Failure::Stopped(signal)),
        followed = followed => followed,
    }
}

fn show(event: &StatusEvent, output: Output) -> Result<(), Failure> {
    if output.is_json() {
        let json = serde_json::to_string(event)
            .map_err(|error| anyhow!("cannot write the event as JSON: {error}"))?;
        return output.line(&json);
    }
    let status = event.status.as_str();
    if output.is_quiet() {
        return output.line(status);
    }
    let reason = event.status_reason.as_deref().map(|reason| format!("  {reason}"));
    let line = format!("{:.3}  {status}{}", event.at, reason.unwrap_or_default());
    output.line(&output::printable(&line))
}
