//! Partners.

use jiff::Timestamp;
use scaibunker_api::{iam::Partner, ids::PartnerId};

use super::{
    IdempotencyKey, Inserted, Removed, Store, StoreError, Updated, from_micros, parsed,
    select::Select, to_micros,
};

#[derive(sqlx::FromRow)]
struct PartnerRow {
    id: String,
    name: String,
    created_at: i64,
}

impl TryFrom<PartnerRow> for Partner {
    type Error = StoreError;

    fn try_from(row: PartnerRow) -> Result<Self, StoreError> {
        Ok(Self {
            id: parsed("partners.id", &row.id)?,
            name: row.name,
            created_at: from_micros("partners.created_at", row.created_at)?,
        })
    }
}

impl Store {
    /// Writes a new partner down, together with the idempotency key of its request.
    pub async fn insert_partner(
        &self,
        partner: &Partner,
        key: Option<&IdempotencyKey>,
    ) -> Result<Inserted, StoreError> {
        let failed = || StoreError::query("insert a partner");
        let mut transaction = self.writer.begin().await.map_err(failed())?;
        let done = sqlx::query(
            "INSERT INTO partners (id, name, created_at) VALUES ($1, $2, $3) \
             ON CONFLICT DO NOTHING",
        )
        .bind(partner.id.to_string())
        .bind(&partner.name)
        .bind(to_micros(partner.created_at))
        .execute(&mut *transaction)
        .await
        .map_err(failed())?;
        let id = partner.id.to_string();
        self.finish_insert(transaction, done, key, &id, partner.created_at).await
    }

    /// One partner.
    pub async fn partner(&self, id: PartnerId) -> Result<Option<Partner>, StoreError> {
        let row: Option<PartnerRow> = sqlx::query_as("SELECT * FROM partners WHERE id = $1")
            .bind(id.to_string())
            .fetch_optional(&self.readers)
            .await
            .map_err(StoreError::query("read a partner"))?;
        row.map(Partner::try_from).transpose()
    }

    /// The newest `limit` partners made before `before`; only `only`, where one is given.
    pub async fn list_partners(
        &self,
        only: Option<PartnerId>,
        before: Option<PartnerId>,
        limit: usize,
    ) -> Result<Vec<Partner>, StoreError> {
        let mut query = Select::new("SELECT * FROM partners WHERE 1 = 1");
        if let Some(only) = only {
            query.push(" AND id = ").bind(only.to_string());
        }
        query.page(before, limit);
        let rows: Vec<PartnerRow> = query.fetch_all(&self.readers, "list partners").await?;
        rows.into_iter().map(Partner::try_from).collect()
    }

    /// Gives a partner another name.
    pub async fn rename_partner(&self, id: PartnerId, name: &str) -> Result<Updated, StoreError> {
        let done = sqlx::query("UPDATE partners SET name = $2 WHERE id = $1")
            .bind(id.to_string())
            .bind(name)
            .execute(&self.writer)
            .await;
        Updated::of(done, "rename a partner")
    }

    /// Deletes a partner without tenants.
    pub async fn delete_partner(&self, id: PartnerId) -> Result<Removed, StoreError> {
        let done = sqlx::query("DELETE FROM partners WHERE id = $1")
            .bind(id.to_string())
            .execute(&self.writer)
            .await;
        Removed::of(done, "tenants", "delete a partner")
    }

    /// The first partner; made if there is none.
    pub(super) async fn first_partner(&self, now: Timestamp) -> Result<PartnerId, StoreError> {
        let read = || async {
            let row: Option<(String,)> =
                sqlx::query_as("SELECT id FROM partners ORDER BY id LIMIT 1")
                    .fetch_optional(&self.writer)
                    .await
                    .map_err(StoreError::query("read the first partner"))?;
            row.map(|(id,)| parsed("partners.id", &id)).transpose()
        };
        if let Some(id) = read().await? {
            return Ok(id);
        }
        let name = "default".to_owned();
        let partner = Partner { id: PartnerId::generate(), name, created_at: now };
        self.insert_partner(&partner, None).await?;
        // Another controller may have been quicker.
        Ok(read().await?.unwrap_or(partner.id))
    }
}
