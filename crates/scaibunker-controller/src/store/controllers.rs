//! The controllers that share the database, and which of them runs what.

use jiff::Timestamp;
use scaibunker_api::{ids::ControllerId, worker::ControllerAddress};

use super::{Store, StoreError, from_micros, parsed, select::Select, to_micros};

/// A controller, and when it was last seen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SeenController {
    pub id: ControllerId,
    pub url: Option<String>,
    pub seen_at: Timestamp,
}

impl SeenController {
    /// Where workers reach it.
    #[must_use]
    pub fn address(&self) -> Option<ControllerAddress> {
        Some(ControllerAddress { id: self.id, url: self.url.clone()? })
    }
}

#[derive(sqlx::FromRow)]
struct Row {
    id: String,
    url: Option<String>,
    seen_at: i64,
}

impl Store {
    /// Notes that a controller lives, and forgets those that were not seen since `oldest`.
    pub async fn note_controller(
        &self,
        controller: &SeenController,
        oldest: Timestamp,
    ) -> Result<(), StoreError> {
        let failed = || StoreError::query("note that a controller lives");
        sqlx::query(
            "INSERT INTO controllers (id, url, seen_at) VALUES ($1, $2, $3) \
             ON CONFLICT (id) DO UPDATE SET url = excluded.url, seen_at = excluded.seen_at",
        )
        .bind(controller.id.to_string())
        .bind(controller.url.as_deref())
        .bind(to_micros(controller.seen_at))
        .execute(&self.writer)
        .await
        .map_err(failed())?;
        sqlx::query("DELETE FROM controllers WHERE seen_at < $1")
            .bind(to_micros(oldest))
            .execute(&self.writer)
            .await
            .map_err(failed())?;
        Ok(())
    }

    /// The controllers that were seen lately.
    pub async fn controllers(&self) -> Result<Vec<SeenController>, StoreError> {
        let select = Select::new("SELECT id, url, seen_at FROM controllers ORDER BY id");
        let rows: Vec<Row> = select.fetch_all(&self.readers, "read the controllers").await?;
        let seen = |row: Row| {
            Ok(SeenController {
                id: parsed("controllers.id", &row.id)?,
                url: row.url,
                seen_at: from_micros("controllers.seen_at", row.seen_at)?,
            })
        };
        rows.into_iter().map(seen).collect()
    }

    /// Forgets a controller that ends, and gives its tasks to the others.
    pub async fn forget_controller(&self, id: ControllerId) -> Result<(), StoreError> {
        for statement in [
            "DELETE FROM task_leases WHERE holder_id = $1",
            "DELETE FROM controllers WHERE id = $1",
        ] {
            let gone = sqlx::query(statement).bind(id.to_string()).execute(&self.writer).await;
            gone.map_err(StoreError::query("forget a controller"))?;
        }
        Ok(())
    }

    /// Takes or keeps the right to run a task until `until`; `false` while it is another's.
    pub async fn hold_task(
        &self,
        name: &str,
        holder: ControllerId,
        now: Timestamp,
        until: Timestamp,
    ) -> Result<bool, StoreError> {
        let held = sqlx::query(
            "INSERT INTO task_leases (name, holder_id, until) VALUES ($1, $2, $3) \
             ON CONFLICT (name) DO UPDATE SET holder_id = excluded.holder_id, \
             until = excluded.until \
             WHERE task_leases.holder_id = excluded.holder_id OR task_leases.until < $4",
        )
        .bind(name)
        .bind(holder.to_string())
        .bind(to_micros(until))
        .bind(to_micros(now))
        .execute(&self.writer)
        .await
        .map_err(StoreError::query("take a task"))?;
        Ok(held.rows_affected() > 0)
    }
}
