//! The audit log as a table.

use comfy_table::Table;
use scaibunker_api::audit::AuditEntry;

use super::{or_dash, table, time};

/// Entries with the times in full: they are compared with other logs.
pub fn audit_entries(entries: &[AuditEntry]) -> Table {
    table(
        ["TIME", "ACTOR", "ACTION", "RESOURCE", "RESULT", "IP", "REQUEST"],
        entries.iter().map(|entry| {
            [
                time(entry.at),
                entry.actor_id.map_or_else(|| "(unknown)".to_owned(), |id| id.to_string()),
                entry.action.clone(),
                or_dash(entry.resource_id.clone().unwrap_or_default()),
                match entry.error {
                    Some(code) => format!("{} {}", entry.status, code.as_str()),
                    None => entry.status.to_string(),
                },
                entry.ip.to_string(),
                entry.request_id.to_string(),
            ]
        }),
    )
}
