//! `scaibunker partners`

use clap::{Args, Subcommand};
use jiff::Timestamp;
use scaibunker_api::iam::{CreatePartner, Partner};

use crate::{cli::GlobalArgs, exit::Failure, records, tables};

/// List, make and delete partners, who have tenants
#[derive(Debug, Args)]
pub struct PartnersArgs {
    #[command(subcommand)]
    what: Partners,
}

#[derive(Debug, Subcommand)]
enum Partners {
    /// List the partners you see, newest first; with --quiet only their ids
    Ls,
    /// Make a partner and print its id
    Create { name: String },
    /// Delete partners without tenants, and print their ids
    Rm {
        /// Id or name
        #[arg(value_name = "PARTNER", required = true)]
        partners: Vec<String>,
    },
}

pub async fn run(global: &GlobalArgs, args: PartnersArgs) -> Result<(), Failure> {
    let (client, output) = (global.client()?, global.output());
    match args.what {
        Partners::Ls => records::list(output, &client.list().await?, |all| {
            tables::partners(all, Timestamp::now())
        }),
        Partners::Create { name } => {
            records::made(output, &client.create::<Partner>(&CreatePartner { name }).await?)
        }
        Partners::Rm { partners } => records::remove::<Partner>(&client, output, &partners).await,
    }
}
