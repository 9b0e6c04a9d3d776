//! `scaibunker pause` and `scaibunker resume`

use clap::Args;
use scaibunker_api::{bunker::Bunker, ids::BunkerId};

use crate::{
    bunker_ref,
    cli::GlobalArgs,
    client::{Client, ClientError},
    exit::Failure,
};

#[derive(Debug, Args)]
pub struct PauseArgs {
    /// Id, the beginning of one, or name of a bunker
    #[arg(value_name = "ID", required = true)]
    bunkers: Vec<String>,
}

pub async fn pause(global: &GlobalArgs, args: &PauseArgs) -> Result<(), Failure> {
    each(global, args, async |client, id| client.pause_bunker(id).await).await
}

pub async fn resume(global: &GlobalArgs, args: &PauseArgs) -> Result<(), Failure> {
    each(global, args, async |client, id| client.resume_bunker(id).await).await
}

/// The others follow also when one fails; the first failure is the one that is shown.
async fn each(
    global: &GlobalArgs,
    args: &PauseArgs,
    call: impl AsyncFn(&Client, BunkerId) -> Result<Bunker, ClientError>,
) -> Result<(), Failure> {
    let (client, output) = (global.client()?, global.output());
    let (mut changed, mut failure) = (Vec::new(), None);
    for id in bunker_ref::resolve_all(&client, &args.bunkers).await? {
        match call(&client, id).await {
            Ok(bunker) => changed.push(bunker),
            Err(error) => failure = failure.or(Some(error)),
        }
    }
    if output.is_json() {
        output.document(&changed)?;
    } else {
        output.ids(changed.iter().map(|bunker| bunker.id))?;
    }
    failure.map_or(Ok(()), |error| Err(error.into()))
}
