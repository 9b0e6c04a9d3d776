//! Calls about the audit log.

use http::Method;
use jiff::Timestamp;
use scaibunker_api::{
    audit::AuditEntry,
    ids::{TenantId, UserId},
};

use super::{Client, ClientError, Download, query_value};

/// Which entries are asked for; the default is all.
#[derive(Debug, Clone, Default)]
pub struct AuditQuery {
    pub tenant_id: Option<TenantId>,
    pub actor_id: Option<UserId>,
    pub action: Option<String>,
    pub resource_id: Option<String>,
    /// `ok` or `refused`.
    pub status: Option<&'static str>,
    /// Inclusive.
    pub since: Option<Timestamp>,
    /// Exclusive.
    pub until: Option<Timestamp>,
}

impl AuditQuery {
    /// Query parameters, each with `&` behind it.
    fn parameters(&self) -> String {
        [
            ("tenant_id", self.tenant_id.map(|id| id.to_string())),
            ("actor_id", self.actor_id.map(|id| id.to_string())),
            ("action", self.action.clone()),
            ("resource_id", self.resource_id.clone()),
            ("status", self.status.map(str::to_owned)),
            ("since", self.since.map(|at| at.to_string())),
            ("until", self.until.map(|at| at.to_string())),
        ]
        .into_iter()
        .filter_map(|(name, value)| Some(format!("{name}={}&", query_value(&value?))))
        .collect()
    }
}

impl Client {
    /// The newest entries, at most so many.
    pub async fn audit_entries(
        &self,
        query: &AuditQuery,
        at_most: usize,
    ) -> Result<Vec<AuditEntry>, ClientError> {
        self.first_of_pages(&format!("/v1/audit-log?{}", query.parameters()), at_most).await
    }

    /// All entries as a file, newest first; `format` is `csv`, `json` or `ndjson`.
    pub async fn export_audit_log(
        &self,
        query: &AuditQuery,
        format: &str,
    ) -> Result<Download, ClientError> {
        let path = format!("/v1/audit-log/export?{}format={format}", query.parameters());
        Ok(Download::of(self.transport.open(Method::GET, &path, None::<&()>).await?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_escaped_and_absent_ones_are_left_out() {
        let query = AuditQuery {
            action: Some("a&b".to_owned()),
            since: Timestamp::from_second(0).ok(),
            ..AuditQuery::default()
        };
        assert_eq!(query.parameters(), "action=a%26b&since=1970-01-01T00%3A00%3A00Z&");
        assert_eq!(AuditQuery::default().parameters(), "");
    }
}
