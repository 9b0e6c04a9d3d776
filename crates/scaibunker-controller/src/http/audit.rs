//! `/v1/audit-log`.

use std::sync::Arc;

use axum::{
    body::Body,
    extract::State,
    http::{HeaderValue, header},
    response::{IntoResponse, Response},
};
use jiff::Timestamp;
use scaibunker_api::{
    audit::AuditEntry,
    ids::{TenantId, UserId},
};
use schemars::JsonSchema;
use serde::Deserialize;

use super::{answer::ListAnswer, fault::Fault, page::Page, query::Query};
use crate::{app::App, audit::Format, domain::actor::Actor, store::AuditFilter};

/// Which results are asked for.
#[derive(Debug, Clone, Copy, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum Outcome {
    Ok,
    Refused,
}

macro_rules! audit_queries {
    ($($(#[$doc:meta])* $name:ident { $($(#[$field_doc:meta])* $field:ident: $kind:ty,)* })*) => {$(
        $(#[$doc])*
        #[derive(Debug, Default, Deserialize, JsonSchema)]
        #[serde(default, deny_unknown_fields)]
        pub(super) struct $name {
            $($(#[$field_doc])* $field: $kind,)*
            tenant_id: Option<TenantId>,
            actor_id: Option<UserId>,
            /// An operation, such as `create_bunker`.
            action: Option<String>,
            resource_id: Option<String>,
            status: Option<Outcome>,
            /// Inclusive, to the millisecond.
            since: Option<Timestamp>,
            /// Exclusive, to the millisecond.
            until: Option<Timestamp>,
        }

        impl $name {
            fn filter(self) -> AuditFilter {
                AuditFilter {
                    tenant_id: self.tenant_id,
                    actor_id: self.actor_id,
                    action: self.action,
                    resource_id: self.resource_id,
                    is_refused: self.status.map(|status| matches!(status, Outcome::Refused)),
                    since: self.since,
                    until: self.until,
                    before: None,
                }
            }
        }
    )*};
}

// Unknown parameters cannot be refused in a struct that flattens another one, hence the repetition.
audit_queries! {
    /// The query of the list.
    AuditQuery {
        /// Entries in a page; 50 unless given.
        #[schemars(range(min = 1, max = 200))]
        limit: Option<usize>,
        /// `next_cursor` of the page before.
        cursor: Option<String>,
    }
    /// The query of an export.
    ExportQuery {
        format: Format,
    }
}

pub(super) async fn list(
    State(app): State<Arc<App>>,
    actor: Actor,
    Query(query): Query<AuditQuery>,
) -> Result<ListAnswer<AuditEntry>, Fault> {
    let page = Page::parse(query.limit, query.cursor.as_deref())?;
    let filter = AuditFilter { before: page.after, ..query.filter() };
    let found = app.audit.list(&actor, &filter, page.limit + 1).await?;
    Ok(page.answer(found, |entry| entry.id))
}

pub(super) async fn export(
    State(app): State<Arc<App>>,
    actor: Actor,
    Query(query): Query<ExportQuery>,
) -> Result<Response, Fault> {
    let format = query.format;
    let export = app.audit.export(&actor, query.filter(), format);
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static(format.media_type())),
        (header::CONTENT_DISPOSITION, HeaderValue::from_static(format.disposition())),
        (header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
    ];
    Ok((headers, Body::from_stream(export.into_stream())).into_response())
}
