//! The keys under which requests may be repeated.

use jiff::Timestamp;
use scaibunker_api::ids::UserId;
use sqlx::{Any, AnyConnection, Transaction, any::AnyQueryResult};

use super::{Inserted, Store, StoreError, storable, to_micros};

/// The key of a request that is being carried out.
#[derive(Debug, Clone)]
pub struct IdempotencyKey {
    pub user_id: UserId,
    pub key: String,
    /// Of the request's body.
    pub request_hash: String,
    /// The answer, where it is known before the work is done.
    pub answer: Option<String>,
}

/// A key that was used before.
#[derive(Debug, Clone)]
pub struct StoredKey {
    pub request_hash: String,
    /// What the first request made.
    pub resource_id: String,
    /// JSON of the first answer's data, once it was given.
    pub answer: Option<String>,
}

#[derive(sqlx::FromRow)]
struct KeyRow {
    request_hash: String,
    resource_id: String,
    answer: Option<String>,
}

impl IdempotencyKey {
    async fn insert(
        &self,
        connection: &mut AnyConnection,
        resource_id: &str,
        now: Timestamp,
    ) -> Result<bool, StoreError> {
        let done = sqlx::query(
            "INSERT INTO idempotency_keys (user_id, key, request_hash, resource_id, answer, \
             created_at) VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT (user_id, key) DO NOTHING",
        )
        .bind(self.user_id.to_string())
        .bind(&self.key)
        .bind(&self.request_hash)
        .bind(resource_id)
        .bind(&self.answer)
        .bind(to_micros(now))
        .execute(connection)
        .await
        .map_err(StoreError::query("insert an idempotency key"))?;
        Ok(done.rows_affected() == 1)
    }
}

impl Store {
    /// Ends the transaction in which an object was written: together with the key of its request,
    /// or with neither.
    pub(super) async fn finish_insert(
        &self,
        mut transaction: Transaction<'_, Any>,
        object: AnyQueryResult,
        key: Option<&IdempotencyKey>,
        resource_id: &str,
        now: Timestamp,
    ) -> Result<Inserted, StoreError> {
        let failed = || StoreError::query("finish an insert");
        let key_is_free = match key {
            Some(key) => key.insert(&mut transaction, resource_id, now).await?,
            None => true,
        };
        let inserted = match (key_is_free, object.rows_affected()) {
            (false, _) => Inserted::KeyTaken,
            (true, 0) => Inserted::Exists,
            (true, _) => {
                transaction.commit().await.map_err(failed())?;
                return Ok(Inserted::Done);
            }
        };
        transaction.rollback().await.map_err(failed())?;
        Ok(inserted)
    }

    /// What a key was used for.
    pub async fn idempotency_key(
        &self,
        user_id: UserId,
        key: &str,
    ) -> Result<Option<StoredKey>, StoreError> {
        let row: Option<KeyRow> = sqlx::query_as(
            "SELECT request_hash, resource_id, answer FROM idempotency_keys \
             WHERE user_id = $1 AND key = $2",
        )
        .bind(user_id.to_string())
        .bind(storable(key))
        .fetch_optional(&self.readers)
        .await
        .map_err(StoreError::query("read an idempotency key"))?;
        Ok(row.map(|row| StoredKey {
            request_hash: row.request_hash,
            resource_id: row.resource_id,
            answer: row.answer,
        }))
    }

    /// Keeps the answer that a key stands for from now on.
    pub async fn keep_answer(
        &self,
        user_id: UserId,
        key: &str,
        answer: &str,
    ) -> Result<(), StoreError> {
        sqlx::query(
            "UPDATE idempotency_keys SET answer = $3 \
             WHERE user_id = $1 AND key = $2 AND answer IS NULL",
        )
        .bind(user_id.to_string())
        .bind(key)
        .bind(answer)
        .execute(&self.writer)
        .await
        .map_err(StoreError::query("keep an answer"))?;
        Ok(())
    }

    /// Forgets the keys that were first used before `time`.
    pub async fn forget_keys_before(&self, time: Timestamp) -> Result<u64, StoreError> {
        let done = sqlx::query("DELETE FROM idempotency_keys WHERE created_at < $1")
            .bind(to_micros(time))
            .execute(&self.writer)
            .await
            .map_err(StoreError::query("forget idempotency keys"))?;
        Ok(done.rows_affected())
    }
}
