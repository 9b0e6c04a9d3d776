//! `scaibunker whoami`

use crate::{cli::GlobalArgs, exit::Failure, tables};

pub async fn run(global: &GlobalArgs) -> Result<(), Failure> {
    let (client, output) = (global.client()?, global.output());
    let me = client.me().await?;
    if output.is_json() {
        return output.document(&me);
    }
    if output.is_quiet() {
        return output.ids([me.user.id]);
    }
    output.table(&tables::me(&me))
}
