//! `scaibunker logs`

use anyhow::Context as _;
use clap::Args;
use scaibunker_api::{
    exec::{ExecRecord, ExecStatus},
    ids::ExecId,
};

use crate::{
    attach, bunker_ref,
    cli::GlobalArgs,
    client::{Client, ExecStream},
    exit::Failure,
    output::Output,
    signals::Stop,
};

/// Show the output of a command that was started before
///
/// The newest 1 MiB is at hand. Ending this program leaves the command alone.
#[derive(Debug, Args)]
pub struct LogsArgs {
    /// Id, the beginning of one, or name of a bunker
    #[arg(value_name = "ID")]
    bunker: String,
    /// The command, see `scaibunker ps`
    exec_id: ExecId,
    /// Go on until the command ends; its exit code becomes this program's
    #[arg(long, short)]
    follow: bool,
}

pub async fn run(global: &GlobalArgs, args: &LogsArgs) -> Result<u8, Failure> {
    let (client, output) = (global.client()?, global.output());
    let stop = Stop::listen().context("cannot listen for signals")?;
    let id = bunker_ref::resolve(&client, &args.bunker).await?;
    let record = client.exec_record(id, args.exec_id).await?;
    let shown = async {
        if args.follow {
            let mut events = client.attach(id, args.exec_id, 0).await?;
            let outcome = attach::to_the_end(&mut events, output).await?;
            return Ok(attach::exit_code(&outcome));
        }
        if let Some(mut events) = stored(&client, id, &record).await? {
            show_stored(&mut events, &record, output).await?;
        }
        Ok(0)
    };
    tokio::select! {
        biased;
        signal = stop.requested() => Err(Failure::Stopped(signal)),
        code = shown => code,
    }
}

/// `None` when there is nothing to show yet.
async fn stored(
    client: &Client,
    id: scaibunker_api::ids::BunkerId,
    record: &ExecRecord,
) -> Result<Option<ExecStream>, Failure> {
    if record.next_seq == 0 {
        return Ok(None);
    }
    Ok(Some(client.attach(id, record.exec_id, 0).await?))
}

/// Shows what there was when the record was taken, and all of a command that had ended.
async fn show_stored(
    events: &mut ExecStream,
    record: &ExecRecord,
    output: Output,
) -> Result<(), Failure> {
    let has_ended = record.status != ExecStatus::Running;
    while has_ended || events.next_seq() < record.next_seq {
        match events.next().await? {
            Some(event) => {
                if attach::show(event, output).await?.is_some() {
                    break;
                }
            }
            None => break,
        }
    }
    Ok(())
}
