//! Queries whose conditions depend on the request.

use sqlx::{AnyPool, AssertSqlSafe, FromRow, any::AnyRow};

use super::{StoreError, storable};
use crate::domain::actor::Scope;

/// A `SELECT` that grows. Values are always parameters, numbered as both databases take them;
/// sqlx's own builder writes `?` for a database that is known at run time only.
#[derive(Debug)]
pub(super) struct Select {
    text: String,
    values: Vec<Value>,
}

/// A parameter.
#[derive(Debug)]
pub(super) enum Value {
    Text(String),
    Number(i64),
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Self::Text(storable(text))
    }
}

impl From<String> for Value {
    fn from(text: String) -> Self {
        text.as_str().into()
    }
}

impl From<i64> for Value {
    fn from(number: i64) -> Self {
        Self::Number(number)
    }
}

impl Select {
    /// Begins with `text`, which has no parameters.
    pub(super) fn new(text: &'static str) -> Self {
        Self { text: text.to_owned(), values: Vec::new() }
    }

    /// Adds text. It is never a caller's: those are [bound](Self::bind).
    pub(super) fn push(&mut self, text: &'static str) -> &mut Self {
        self.text.push_str(text);
        self
    }

    /// Adds a parameter.
    pub(super) fn bind(&mut self, value: impl Into<Value>) -> &mut Self {
        self.values.push(value.into());
        self.text.push('$');
        self.text.push_str(&self.values.len().to_string());
        self
    }

    /// Adds ` IN (…)`, or what is never true for no values.
    pub(super) fn within<V: Into<Value>>(
        &mut self,
        values: impl IntoIterator<Item = V>,
    ) -> &mut Self {
        self.push(" IN (");
        let mut separator = "";
        for value in values {
            self.push(separator).bind(value);
            separator = ", ";
        }
        if separator.is_empty() {
            self.push("NULL");
        }
        self.push(")")
    }

    /// Adds that the tenant is within `scope`.
    pub(super) fn in_tenants_of(&mut self, scope: Scope) -> &mut Self {
        match scope {
            Scope::Everything => self,
            Scope::Partner(partner) => self
                .push(" AND tenant_id IN (SELECT id FROM tenants WHERE partner_id = ")
                .bind(partner.to_string())
                .push(")"),
            Scope::Tenant(tenant) | Scope::Own(tenant, _) => {
                self.push(" AND tenant_id = ").bind(tenant.to_string())
            }
        }
    }

    /// Adds that the object is within `scope`; `owned_by` begins the condition on its user.
    pub(super) fn in_scope(&mut self, scope: Scope, owned_by: &'static str) -> &mut Self {
        self.in_tenants_of(scope);
        match scope {
            Scope::Own(_, owner) => self.push(owned_by).bind(owner.to_string()),
            Scope::Everything | Scope::Partner(_) | Scope::Tenant(_) => self,
        }
    }

    /// Adds the end of a page: at most `limit` rows.
    pub(super) fn limit(&mut self, limit: usize) -> &mut Self {
        self.push(" LIMIT ").bind(i64::try_from(limit).unwrap_or(i64::MAX))
    }

    /// Adds the end of a page of the newest objects made before `before`.
    pub(super) fn page<Id: std::fmt::Display>(&mut self, before: Option<Id>, limit: usize) {
        if let Some(before) = before {
            self.push(" AND id < ").bind(before.to_string());
        }
        self.push(" ORDER BY id DESC").limit(limit);
    }

    /// The rows.
    pub(super) async fn fetch_all<R>(
        self,
        pool: &AnyPool,
        action: &'static str,
    ) -> Result<Vec<R>, StoreError>
    where
        R: for<'r> FromRow<'r, AnyRow> + Send + Unpin,
    {
        // Every piece of the text is a literal of this program.
        let mut query = sqlx::query_as(AssertSqlSafe(self.text));
        for value in self.values {
            query = match value {
                Value::Text(text) => query.bind(text),
                Value::Number(number) => query.bind(number),
            };
        }
        query.fetch_all(pool).await.map_err(StoreError::query(action))
    }
}
