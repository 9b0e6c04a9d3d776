//! The audit log as a file.

use bytes::Bytes;
use futures_util::{Stream, stream};
use scaibunker_api::audit::AuditEntry;
use schemars::JsonSchema;
use serde::Deserialize;

use crate::{
    domain::actor::Scope,
    failure::chain,
    store::{AuditFilter, Store, StoreError},
};

/// Entries read at once.
const PAGE: usize = 500;

const CSV_HEAD: &str = "id,at,request_id,actor_id,api_key_id,tenant_id,action,resource_id,ip,\
     status,error\r\n";

/// How entries are written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Format {
    /// One JSON object a line.
    #[default]
    Ndjson,
    /// One JSON array.
    Json,
    /// RFC 4180, with a header.
    Csv,
}

impl Format {
    /// The media type.
    #[must_use]
    pub fn media_type(self) -> &'static str {
        match self {
            Self::Ndjson => "application/x-ndjson",
            Self::Json => "application/json",
            Self::Csv => "text/csv; charset=utf-8",
        }
    }

    /// The header that names the file.
    #[must_use]
    pub fn disposition(self) -> &'static str {
        match self {
            Self::Ndjson => "attachment; filename=\"audit-log.ndjson\"",
            Self::Json => "attachment; filename=\"audit-log.json\"",
            Self::Csv => "attachment; filename=\"audit-log.csv\"",
        }
    }
}

/// An export under way.
pub struct Export {
    store: Store,
    scope: Scope,
    filter: AuditFilter,
    format: Format,
    stage: Stage,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    Head,
    Entries { is_first: bool },
    Over,
}

impl Export {
    pub(super) fn new(store: Store, scope: Scope, filter: AuditFilter, format: Format) -> Self {
        Self { store, scope, filter, format, stage: Stage::Head }
    }

    /// The file, page by page, as fast as it is read. A page that cannot be read ends it with an
    /// error: a file that is cut off must not look whole.
    pub fn into_stream(self) -> impl Stream<Item = Result<Bytes, StoreError>> + Send {
        stream::try_unfold(self, |mut export| async move {
            let piece = export.next_piece().await.inspect_err(|error| {
                tracing::error!(error = chain(error), "an export of the audit log broke off");
            })?;
            Ok(piece.map(|piece| (piece, export)))
        })
    }

    async fn next_piece(&mut self) -> Result<Option<Bytes>, StoreError> {
        let is_first = match self.stage {
            Stage::Head => {
                self.stage = Stage::Entries { is_first: true };
                let head = match self.format {
                    Format::Ndjson => return Box::pin(self.next_piece()).await,
                    Format::Json => "[",
                    Format::Csv => CSV_HEAD,
                };
                return Ok(Some(Bytes::from_static(head.as_bytes())));
            }
            Stage::Entries { is_first } => is_first,
            Stage::Over => return Ok(None),
        };
        let entries = self.store.list_audit(self.scope, &self.filter, PAGE).await?;
        let mut out = Vec::new();
        for (index, entry) in entries.iter().enumerate() {
            self.format.write(&mut out, entry, is_first && index == 0);
        }
        match entries.last() {
            Some(last) if entries.len() == PAGE => {
                self.filter.before = Some(last.id);
                self.stage = Stage::Entries { is_first: false };
            }
            _ => {
                self.stage = Stage::Over;
                if self.format == Format::Json {
                    out.extend_from_slice(b"\n]\n");
                }
            }
        }
        Ok(Some(out.into()))
    }
}

impl Format {
    fn write(self, out: &mut Vec<u8>, entry: &AuditEntry, is_first: bool) {
        match self {
            Self::Ndjson => {
                out.extend(serde_json::to_vec(entry).unwrap_or_default());
                out.push(b'\n');
            }
            Self::Json => {
                out.extend_from_slice(if is_first { b"\n" } else { b",\n" });
                out.extend(serde_json::to_vec(entry).unwrap_or_default());
            }
            Self::Csv => out.extend(csv_line(entry).into_bytes()),
        }
    }
}

fn csv_line(entry: &AuditEntry) -> String {
    let optional = |text: Option<String>| text.unwrap_or_default();
    let cells = [
        entry.id.to_string(),
        format!("{:.3}", entry.at),
        entry.request_id.to_string(),
        optional(entry.actor_id.map(|id| id.to_string())),
        optional(entry.api_key_id.map(|id| id.to_string())),
        optional(entry.tenant_id.map(|id| id.to_string())),
        entry.action.clone(),
        optional(entry.resource_id.clone()),
        entry.ip.to_string(),
        entry.status.to_string(),
        optional(entry.error.map(|code| code.as_str().to_owned())),
    ];
    let mut line = cells.map(|text| cell(&text)).join(",");
    line.push_str("\r\n");
    line
}

/// A spreadsheet takes what starts with one of these characters for a formula and runs it; behind
/// a `'` it is text.
fn cell(text: &str) -> String {
    let mut text = text.to_owned();
    if text.starts_with(['=', '+', '-', '@', '\t', '\r']) {
        text.insert(0, '\'');
    }
    if text.contains(['"', ',', '\r', '\n']) {
        format!("\"{}\"", text.replace('"', "\"\""))
    } else {
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_are_quoted_and_never_a_formula() {
        for (text, written) in [
            ("", ""),
            ("plain", "plain"),
            ("a,b", "\"a,b\""),
            ("say \"x\"", "\"say \"\"x\"\"\""),
            ("two\r\nlines", "\"two\r\nlines\""),
            ("=1+1", "'=1+1"),
            ("+1", "'+1"),
            ("-1", "'-1"),
            ("@x,y", "\"'@x,y\""),
            ("::1", "::1"),
        ] {
            assert_eq!(cell(text), written);
        }
    }
}
