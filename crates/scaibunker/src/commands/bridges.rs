//! `scaibunker bridges`

use clap::{Args, Subcommand};
use scaibunker_api::{
    bridge::{Bridge, CreateBridge},
    worker::Worker,
};

use crate::{cli::GlobalArgs, exit::Failure, object_ref::resolve, records, tables};

/// Bridges of workers, which `transit` bunkers are attached to
#[derive(Debug, Args)]
pub struct BridgesArgs {
    #[command(subcommand)]
    what: Option<Bridges>,
}

#[derive(Debug, Subcommand)]
enum Bridges {
    /// List bridges, newest first; with --quiet only their ids
    Ls,
    /// Make a bridge on a worker, or take one that its host has, and print its id
    Add {
        /// What the network device is called
        name: String,
        /// Id or name of the worker
        #[arg(long, value_name = "WORKER")]
        worker: String,
        /// Bytes of the largest packet
        #[arg(long, value_name = "BYTES")]
        mtu: Option<u32>,
    },
    /// Remove bridges that no bunker is attached to, and print their ids
    Rm {
        /// Id, or a name that only one bridge has
        #[arg(value_name = "BRIDGE", required = true)]
        bridges: Vec<String>,
    },
}

pub async fn run(global: &GlobalArgs, args: BridgesArgs) -> Result<(), Failure> {
    let (client, output) = (global.client()?, global.output());
    match args.what.unwrap_or(Bridges::Ls) {
        Bridges::Ls => {
            let bridges = client.list::<Bridge>().await?;
            records::list(output, &bridges, tables::bridges)
        }
        Bridges::Add { name, worker, mtu } => {
            let worker_id = resolve::<Worker>(&client, &worker).await?;
            let bridge = client.create_bridge(&CreateBridge { name, worker_id, mtu }).await?;
            records::made(output, &bridge)
        }
        Bridges::Rm { bridges } => records::remove::<Bridge>(&client, output, &bridges).await,
    }
}
