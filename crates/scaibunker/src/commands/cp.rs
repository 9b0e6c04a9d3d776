//! `scaibunker cp`

use anyhow::{Context as _, anyhow};
use clap::{
    Args,
    builder::{OsStringValueParser, TypedValueParser as _},
};

use crate::{
    bunker_ref,
    cli::GlobalArgs,
    copy::{self, Copying, Place},
    exit::Failure,
    signals::Stop,
};

/// Copy a file or directory into a bunker or out of one
///
/// One of the two is `BUNKER:/path`; the other a local path, or `-` for standard input or output.
/// A copy goes into a directory that exists, and otherwise gets the name that is given. Directories
/// come with all that is in them, links as links. `DIR/.` stands for what is in DIR.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  scaibunker cp ./src web:/home/bunker/       a directory into a bunker
  scaibunker cp web:/var/log/app.log .        a file out of one
  scaibunker cp web:/data - | tar tv          a directory as tar
  pg_dump db | scaibunker cp - web:/tmp/dump  a stream")]
pub struct CpArgs {
    #[arg(value_name = "SRC", value_parser = place())]
    from: Place,
    #[arg(value_name = "DST", value_parser = place())]
    to: Place,
}

fn place() -> impl clap::builder::TypedValueParser<Value = Place> {
    OsStringValueParser::new().try_map(Place::parse)
}

pub async fn run(global: &GlobalArgs, args: CpArgs) -> Result<(), Failure> {
    let (client, output) = (global.client()?, global.output());
    let stop = Stop::listen().context("cannot listen for signals")?;
    let name = match (&args.from, &args.to) {
        (Place::Bunker { .. }, Place::Bunker { .. }) => {
            return Err(anyhow!(
                "one of the two has to be on this machine; between two bunkers, `scaibunker cp \
                 A:/path - | scaibunker cp - B:/path` copies a file"
            )
            .into());
        }
        (Place::Bunker { bunker, .. }, _) | (_, Place::Bunker { bunker, .. }) => bunker,
        _ => {
            return Err(anyhow!("neither names a bunker; one has to be `BUNKER:/path`").into());
        }
    };
    let bunker = bunker_ref::resolve(&client, name).await?;
    let copying = Copying { client: &client, bunker, output };
    let copied = async {
        match (&args.from, &args.to) {
            (Place::Bunker { path, .. }, to) => copy::out_of_bunker(&copying, path, to).await,
            (from, Place::Bunker { path, .. }) => copy::into_bunker(&copying, from, path).await,
            _ => Ok(()),
        }
    };
    tokio::select! {
        biased;
        // Dropping the copy closes its connection and removes what is half written.
        signal = stop.requested() => Err(Failure::Stopped(signal)),
        copied = copied => copied,
    }
}
