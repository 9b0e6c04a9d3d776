//! Creates that may be repeated: the same `Idempotency-Key` gets the first answer again.

use scaibunker_api::{
    error::{ErrorBody, ErrorCode},
    ids::UserId,
};
use serde::Serialize;
use serde_json::Value;
use sha2::{Digest as _, Sha256};

use crate::{
    domain::actor::Actor,
    failure::Failure,
    store::{IdempotencyKey, Inserted, Store},
};

/// The data of the answer to a create.
#[derive(Debug, Serialize)]
#[serde(untagged)]
pub enum Created<T> {
    New(T),
    /// What an earlier request with the same idempotency key was answered.
    Repeated(Value),
}

impl<T> Created<T> {
    /// The object's id, where `of` has that of a new one.
    pub fn id(&self, of: impl FnOnce(&T) -> String) -> String {
        match self {
            Self::New(object) => of(object),
            Self::Repeated(answer) => answer["id"].as_str().unwrap_or_default().to_owned(),
        }
    }
}

/// A create whose request is checked and whose object is not written down yet.
pub struct Creation<'a> {
    store: &'a Store,
    user_id: UserId,
    /// The client's key, and the hash of what it may be used for again.
    key: Option<(String, String)>,
}

impl<'a> Creation<'a> {
    /// Begins a create of a `kind` of object, or finds what an earlier one was answered.
    pub async fn begin<T>(
        store: &'a Store,
        actor: &Actor,
        key: Option<String>,
        kind: &str,
        request: &impl Serialize,
    ) -> Result<Result<Self, Created<T>>, Failure> {
        let key = key.map(|key| {
            // Spaces and the order of fields do not count.
            let meaning = serde_json::to_vec(&(kind, request)).unwrap_or_default();
            (key, crate::hex(&Sha256::digest(meaning)))
        });
        let creation = Self { store, user_id: actor.user_id, key };
        Ok(match creation.repeated().await? {
            Some(answer) => Err(Created::Repeated(answer)),
            None => Ok(creation),
        })
    }

    /// What is to be written down with the object, whose create is answered with `answer`.
    pub fn key(&self, answer: &impl Serialize) -> Option<IdempotencyKey> {
        let (key, request_hash) = self.key.clone()?;
        let answer = serde_json::to_string(answer).ok();
        Some(IdempotencyKey { user_id: self.user_id, key, request_hash, answer })
    }

    /// The answer, by what became of the object. `field` is what has to be unique.
    pub async fn finish<T>(
        self,
        inserted: Inserted,
        object: T,
        field: &str,
    ) -> Result<Created<T>, Failure> {
        match inserted {
            Inserted::Done => Ok(Created::New(object)),
            Inserted::Exists => Err(already_exists(field)),
            Inserted::KeyTaken => match self.repeated().await? {
                Some(answer) => Ok(Created::Repeated(answer)),
                None => Err(conflict()),
            },
        }
    }

    async fn repeated(&self) -> Result<Option<Value>, Failure> {
        let Some((key, hash)) = &self.key else { return Ok(None) };
        let Some(stored) = self.store.idempotency_key(self.user_id, key).await? else {
            return Ok(None);
        };
        let answer = stored.answer.and_then(|answer| serde_json::from_str(&answer).ok());
        match answer {
            Some(answer) if stored.request_hash == *hash => Ok(Some(answer)),
            _ => Err(conflict()),
        }
    }
}

fn conflict() -> Failure {
    Failure::new(
        ErrorCode::IdempotencyConflict,
        "this Idempotency-Key was used before for something else; choose a new key",
    )
}

/// The refusal of an object whose `field` another one has already.
pub fn already_exists(field: &str) -> Failure {
    let message = format!("`{field}` is another one's already");
    let detail = ErrorBody::invalid(field, "is another one's already").details;
    ErrorBody { details: detail, ..ErrorBody::new(ErrorCode::AlreadyExists, message) }.into()
}
