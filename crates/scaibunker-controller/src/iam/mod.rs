//! Who there is: partners, tenants, users, groups, custom roles and API keys.
//!
//! An object outside of the caller's reach does not exist for it. Every change is weighed by
//! `domain::authority` and followed by all remembered accounts being forgotten.

mod api_keys;
mod custom_roles;
mod groups;
mod partners;
mod tenants;
mod users;

use std::sync::Arc;

use scaibunker_api::{
    error::{ErrorBody, ErrorCode},
    iam::{Me, Tenant},
    ids::TenantId,
};

use crate::{
    credentials::Credentials,
    domain::actor::Actor,
    failure::Failure,
    store::{Removed, Store, Updated},
};

/// The service; one for the process.
pub struct Iam {
    store: Store,
    credentials: Arc<Credentials>,
}

impl Iam {
    /// A service on `store`.
    #[must_use]
    pub fn new(store: Store, credentials: Arc<Credentials>) -> Self {
        Self { store, credentials }
    }

    /// The caller itself.
    pub async fn me(&self, actor: &Actor) -> Result<Me, Failure> {
        let user = self.store.user(actor.user_id).await?;
        let user = user.ok_or_else(|| not_found("user", actor.user_id))?.user;
        Ok(Me {
            user,
            tenant: self.tenant_in_reach(actor, actor.tenant_id).await?,
            api_key_id: actor.api_key_id,
            permissions: actor.permissions.to_vec(),
            group_ids: actor.group_ids.to_vec(),
        })
    }

    async fn tenant_in_reach(&self, actor: &Actor, id: TenantId) -> Result<Tenant, Failure> {
        match self.store.tenant(id).await? {
            Some(tenant) if actor.reach.covers(id) => Ok(tenant),
            _ => Err(not_found("tenant", id)),
        }
    }

    /// What was true of users until now may be so no more.
    fn changed(&self) {
        self.credentials.forget_all();
    }
}

pub(crate) fn not_found(what: &str, id: impl std::fmt::Display) -> Failure {
    Failure::new(ErrorCode::NotFound, format!("there is no {what} {id}"))
}

fn last_super_admin() -> Failure {
    Failure::new(
        ErrorCode::InUse,
        "this is the platform's last super admin; make another one first",
    )
}

/// Takes a change for done, or says why it is not. `Missing` is what the caller finds out about by
/// trying again.
fn updated(updated: Updated, what: &str, field: &str) -> Result<(), Failure> {
    match updated {
        Updated::Done => Ok(()),
        Updated::Missing => Err(Failure::new(ErrorCode::NotFound, format!("the {what} is gone"))),
        Updated::Exists => Err(crate::creation::already_exists(field)),
        Updated::LastSuperAdmin => Err(last_super_admin()),
    }
}

/// Takes a deletion for done, or says what stands against it.
pub(crate) fn removed(
    removed: Removed,
    what: &str,
    id: impl std::fmt::Display,
) -> Result<(), Failure> {
    match removed {
        Removed::Done => Ok(()),
        Removed::Missing => Err(not_found(what, id)),
        Removed::LastSuperAdmin => Err(last_super_admin()),
        Removed::InUse(users) => {
            let message = format!("the {what} {id} still has {users}; remove these first");
            Err(ErrorBody::new(ErrorCode::InUse, message).into())
        }
    }
}
