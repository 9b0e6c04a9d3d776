//! What all reports have in common.

use std::collections::BTreeMap;

use comfy_table::Table;
use serde::Serialize;

use super::{BenchBunkerArgs, machine::Setting, stats::Summary};
use crate::{client::Client, exit::Failure, output::Output};

/// What a report begins with.
#[derive(Debug, Serialize)]
pub struct Header<'a> {
    bench: &'static str,
    #[serde(flatten)]
    setting: Setting,
    image: &'a str,
    memory_mb: u32,
}

impl<'a> Header<'a> {
    /// Looks at this machine and asks the controller, which also opens the connection that the
    /// first attempt uses.
    pub async fn of(bench: &'static str, client: &Client, bunker: &'a BenchBunkerArgs) -> Self {
        let setting = Setting::of(client).await;
        Self { bench, setting, image: &bunker.image, memory_mb: bunker.memory }
    }
}

/// Prints a report: as the document it is, or as its header, a line about its figures and a table.
pub fn print(
    output: Output,
    report: &impl Serialize,
    header: &Header<'_>,
    about: &str,
    table: &Table,
) -> Result<(), Failure> {
    if output.is_json() {
        return output.document(report);
    }
    output.line(&header.setting.line())?;
    output.line(&format!("{}, {} MiB{about}", header.image, header.memory_mb))?;
    output.table(table)
}

/// One figure of a summary, with one decimal.
pub fn shown(summary: Option<Summary>, figure: fn(Summary) -> f64) -> String {
    summary.map_or_else(|| "-".to_owned(), |summary| format!("{:.1}", figure(summary)))
}

/// Failed attempts by error code.
pub fn shown_failures(failures: &BTreeMap<String, usize>) -> String {
    if failures.is_empty() {
        return "0".to_owned();
    }
    let counts: Vec<_> = failures.iter().map(|(code, count)| format!("{count} × {code}")).collect();
    counts.join(", ")
}
