//! Bridges.

use scaibunker_api::{bridge::Bridge, ids::BridgeId};

use super::{
    Store, StoreError, from_micros, parsed,
    select::Select,
    to_micros,
    workers::{signed, unsigned},
};

#[derive(sqlx::FromRow)]
struct BridgeRow {
    id: String,
    name: String,
    worker_id: String,
    mtu: Option<i64>,
    created_at: i64,
}

impl TryFrom<BridgeRow> for Bridge {
    type Error = StoreError;

    fn try_from(row: BridgeRow) -> Result<Self, StoreError> {
        Ok(Self {
            id: parsed("bridges.id", &row.id)?,
            name: row.name,
            worker_id: parsed("bridges.worker_id", &row.worker_id)?,
            mtu: row.mtu.map(|mtu| unsigned("bridges.mtu", mtu)).transpose()?,
            created_at: from_micros("bridges.created_at", row.created_at)?,
        })
    }
}

impl Store {
    /// Writes a new bridge down; `false` if the worker has one of that name.
    pub async fn insert_bridge(&self, bridge: &Bridge) -> Result<bool, StoreError> {
        let done = sqlx::query(
            "INSERT INTO bridges (id, name, worker_id, mtu, created_at) \
             VALUES ($1, $2, $3, $4, $5) ON CONFLICT DO NOTHING",
        )
        .bind(bridge.id.to_string())
        .bind(&bridge.name)
        .bind(bridge.worker_id.to_string())
        .bind(bridge.mtu.map(|mtu| signed(mtu.into())))
        .bind(to_micros(bridge.created_at))
        .execute(&self.writer)
        .await
        .map_err(StoreError::query("insert a bridge"))?;
        Ok(done.rows_affected() == 1)
    }

    /// One bridge.
    pub async fn bridge(&self, id: BridgeId) -> Result<Option<Bridge>, StoreError> {
        let mut select = Select::new("SELECT * FROM bridges WHERE id = ");
        select.bind(id.to_string());
        Ok(self.bridges(select).await?.pop())
    }

    /// The newest `limit` bridges made before `before`.
    pub async fn list_bridges(
        &self,
        before: Option<BridgeId>,
        limit: usize,
    ) -> Result<Vec<Bridge>, StoreError> {
        let mut select = Select::new("SELECT * FROM bridges WHERE 1 = 1");
        select.page(before, limit);
        self.bridges(select).await
    }

    /// Every bridge of that name.
    pub async fn bridges_named(&self, name: &str) -> Result<Vec<Bridge>, StoreError> {
        let mut select = Select::new("SELECT * FROM bridges WHERE name = ");
        select.bind(name.to_owned());
        self.bridges(select).await
    }

    async fn bridges(&self, select: Select) -> Result<Vec<Bridge>, StoreError> {
        let rows: Vec<BridgeRow> = select.fetch_all(&self.readers, "read bridges").await?;
        rows.into_iter().map(Bridge::try_from).collect()
    }

    /// Forgets a bridge.
    pub async fn delete_bridge(&self, id: BridgeId) -> Result<(), StoreError> {
        sqlx::query("DELETE FROM bridges WHERE id = $1")
            .bind(id.to_string())
            .execute(&self.writer)
            .await
            .map_err(StoreError::query("delete a bridge"))?;
        Ok(())
    }
}
