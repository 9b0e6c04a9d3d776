//! `scaibunker set`

use std::collections::BTreeMap;

use clap::Args;
use jiff::Timestamp;
use scaibunker_api::bunker::{OnIdle, PatchBunker};

use crate::{
    bunker_ref,
    cli::GlobalArgs,
    exit::Failure,
    quantity::{self, OrNone, or_none},
    tables,
};

/// Change a bunker's name, labels or limits
#[derive(Debug, Args)]
pub struct SetArgs {
    /// Id, the beginning of one, or name of a bunker
    #[arg(value_name = "ID")]
    bunker: String,
    #[command(flatten)]
    changes: ChangeArgs,
}

#[derive(Debug, Args)]
#[group(required = true, multiple = true)]
struct ChangeArgs {
    /// Name to find it by; `none` takes the name away
    #[arg(long, value_parser = or_none(|text| Ok(text.to_owned())))]
    name: Option<OrNone<String>>,
    /// Label to find it by; repeatable, and in place of all labels it has
    #[arg(long, short, value_name = "NAME=VALUE", value_parser = quantity::pair)]
    label: Vec<(String, String)>,
    /// Take all labels away
    #[arg(long, conflicts_with = "label")]
    no_labels: bool,
    /// How long it may live since it started, such as 2h; `none` goes back to what its lifecycle
    /// mode has, which is no limit for persistent ones
    #[arg(long, value_name = "TIME", value_parser = or_none(quantity::duration_s))]
    max_lifetime: Option<OrNone<u64>>,
    /// How long it may have nothing to do, such as 10m; `none` as above
    #[arg(long, value_name = "TIME", value_parser = or_none(quantity::duration_s))]
    idle_timeout: Option<OrNone<u64>>,
    /// What becomes of it then: `pause` or `terminate`
    #[arg(long, value_name = "WHAT", value_parser = on_idle)]
    on_idle: Option<OnIdle>,
    /// How long it may be paused before its memory is written out, such as 30m; `none` goes back to an
    /// hour
    #[arg(long, value_name = "TIME", value_parser = or_none(quantity::duration_s))]
    evict_after: Option<OrNone<u64>>,
}

fn on_idle(text: &str) -> Result<OnIdle, String> {
    match text {
        "pause" => Ok(OnIdle::Pause),
        "terminate" => Ok(OnIdle::Terminate),
        _ => Err("give it as pause or terminate".to_owned()),
    }
}

impl ChangeArgs {
    fn into_patch(self) -> PatchBunker {
        let labels: BTreeMap<_, _> = self.label.into_iter().collect();
        PatchBunker {
            name: self.name.map(|name| name.0),
            label_set: (self.no_labels || !labels.is_empty()).then_some(Some(labels)),
            max_lifetime_s: self.max_lifetime.map(|limit| limit.0),
            idle_timeout_s: self.idle_timeout.map(|limit| limit.0),
            on_idle: self.on_idle.map(Some),
            pause_evict_after_s: self.evict_after.map(|limit| limit.0),
        }
    }
}

pub async fn run(global: &GlobalArgs, args: SetArgs) -> Result<(), Failure> {
    let (client, output) = (global.client()?, global.output());
    let id = bunker_ref::resolve(&client, &args.bunker).await?;
    let bunker = client.patch_bunker(id, &args.changes.into_patch()).await?;
    if output.is_json() {
        return output.document(&bunker);
    }
    if output.is_quiet() {
        return output.ids([bunker.id]);
    }
    output.table(&tables::bunkers(&[bunker], Timestamp::now()))
}
