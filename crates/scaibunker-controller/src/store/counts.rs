//! What a look at the whole installation counts.

use scaibunker_api::bunker::BunkerStatus;

use super::{Store, StoreError, select::Select};

impl Store {
    /// How many bunkers there are in each status that is not terminal.
    pub async fn count_live_bunkers(&self) -> Result<Vec<(BunkerStatus, u64)>, StoreError> {
        let live = BunkerStatus::ALL.into_iter().filter(|status| !status.is_terminal());
        let mut query = Select::new("SELECT status, COUNT(*) FROM bunkers WHERE status");
        query.within(live.clone().map(BunkerStatus::as_str)).push(" GROUP BY status");
        let rows: Vec<(String, i64)> = query.fetch_all(&self.readers, "count bunkers").await?;
        let count = |status: BunkerStatus| {
            let row = rows.iter().find(|(name, _)| name == status.as_str());
            (status, row.map_or(0, |(_, count)| count.unsigned_abs()))
        };
        Ok(live.map(count).collect())
    }

    /// The database's kind: `sqlite` or `postgres`.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        if self.writer.connect_options().database_url.scheme() == "sqlite" {
            "sqlite"
        } else {
            "postgres"
        }
    }
}
