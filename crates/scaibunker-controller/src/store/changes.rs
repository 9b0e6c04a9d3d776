//! What became of a change.

use sqlx::any::AnyQueryResult;

use super::StoreError;

/// What became of a new object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Inserted {
    Done,
    /// The idempotency key is already another object's; nothing was written.
    KeyTaken,
    /// What has to be unique is another object's; nothing was written.
    Exists,
}

/// What became of a change of an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Updated {
    Done,
    /// There is no such object, or somebody else changed it first.
    Missing,
    /// The platform would have no super admin left; nothing was written.
    LastSuperAdmin,
    /// What has to be unique is another object's; nothing was written.
    Exists,
}

impl Updated {
    pub(super) fn of(
        done: Result<AnyQueryResult, sqlx::Error>,
        action: &'static str,
    ) -> Result<Self, StoreError> {
        match done {
            Ok(done) if done.rows_affected() == 0 => Ok(Self::Missing),
            Ok(_) => Ok(Self::Done),
            Err(error) if is_taken(&error) => Ok(Self::Exists),
            Err(error) => Err(StoreError::query(action)(error)),
        }
    }
}

/// What became of the deletion of an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Removed {
    Done,
    Missing,
    /// Objects of this kind depend on it; nothing was deleted.
    InUse(&'static str),
    /// The platform would have no super admin left; nothing was deleted.
    LastSuperAdmin,
}

impl Removed {
    /// `users` names what can refer to the object.
    pub(super) fn of(
        done: Result<AnyQueryResult, sqlx::Error>,
        users: &'static str,
        action: &'static str,
    ) -> Result<Self, StoreError> {
        match done {
            Ok(done) if done.rows_affected() == 0 => Ok(Self::Missing),
            Ok(_) => Ok(Self::Done),
            Err(error) if is_referred_to(&error) => Ok(Self::InUse(users)),
            Err(error) => Err(StoreError::query(action)(error)),
        }
    }
}

fn is_taken(error: &sqlx::Error) -> bool {
    error.as_database_error().is_some_and(sqlx::error::DatabaseError::is_unique_violation)
}

fn is_referred_to(error: &sqlx::Error) -> bool {
    error.as_database_error().is_some_and(sqlx::error::DatabaseError::is_foreign_key_violation)
}
