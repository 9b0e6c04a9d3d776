//! `scaibunker workers`

use jiff::Timestamp;

use crate::{cli::GlobalArgs, exit::Failure, tables};

pub async fn workers(global: &GlobalArgs) -> Result<(), Failure> {
    let output = global.output();
    let workers = global.client()?.workers().await?;
    if output.is_json() {
        output.document(&workers)
    } else {
        output.table(&tables::workers(&workers, Timestamp::now()))
    }
}
