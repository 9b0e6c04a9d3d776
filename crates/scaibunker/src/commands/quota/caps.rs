//! The caps of a profile as options.

use clap::Args;
use scaibunker_api::quota::{CreateQuotaProfile, PatchQuotaProfile};

use crate::quantity::{OrNone, cpu_millicores, or_none, size_mb};

macro_rules! caps {
    ($($(#[$doc:meta])* $flag:ident sets $cap:ident by $reader:ident as $value:literal;)*) => {
        /// What a profile allows; `none` is no cap.
        #[derive(Debug, Args)]
        #[command(next_help_heading = "Caps (`none` for no cap)")]
        pub struct CapArgs {
            $($(#[$doc])* #[arg(long, value_name = $value, value_parser = or_none($reader))]
            $flag: Option<OrNone<u64>>,)*
        }

        impl CapArgs {
            /// The ids of the options.
            pub const FLAGS: &[&str] = &[$(stringify!($flag),)*];

            /// Gives a new profile the caps that were asked for.
            pub fn fill(&self, body: &mut CreateQuotaProfile) {
                $(body.$cap = self.$flag.and_then(|cap| cap.0);)*
            }

            /// Changes the caps that were asked for, and no others.
            pub fn change(&self, patch: &mut PatchQuotaProfile) {
                $(patch.$cap = self.$flag.map(|cap| cap.0);)*
            }
        }
    };
}

caps! {
    /// Bunkers at a time, paused ones too
    max_concurrent_bunkers sets max_concurrent_bunkers by count as "N";
    /// Of these, persistent ones
    max_persistent_bunkers sets max_persistent_bunkers by count as "N";
    /// CPU cores of all bunkers that run, such as 8 or 500m
    max_cpu sets max_cpu_millicores by cpu as "CORES";
    /// Memory of all bunkers, in MiB or such as 16g
    max_memory sets max_memory_mb by size as "SIZE";
    /// Disk of all bunkers, in MiB or such as 100g
    max_disk sets max_disk_mb by size as "SIZE";
    /// GPUs of all bunkers
    max_gpus sets max_gpu_count by count as "N";
    /// CPU cores of one bunker
    per_bunker_max_cpu sets per_bunker_max_cpu by cpu as "CORES";
    /// Memory of one bunker
    per_bunker_max_memory sets per_bunker_max_memory by size as "SIZE";
    /// Disk of one bunker
    per_bunker_max_disk sets per_bunker_max_disk by size as "SIZE";
    /// GPUs of one bunker
    per_bunker_max_gpus sets per_bunker_max_gpu by count as "N";
}

fn count(text: &str) -> Result<u64, String> {
    text.parse().map_err(|_| format!("`{text}` is no number such as 10"))
}

/// A cap of nothing is one, although no bunker has 0 cores.
fn cpu(text: &str) -> Result<u64, String> {
    if text == "0" { Ok(0) } else { cpu_millicores(text).map(u64::from) }
}

fn size(text: &str) -> Result<u64, String> {
    if text == "0" { Ok(0) } else { size_mb(text).map(u64::from) }
}
