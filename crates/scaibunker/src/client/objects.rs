//! The calls that every kind of object has, and what the kinds are.

use std::{fmt::Display, str::FromStr};

use http::Method;
use scaibunker_api::{
    bridge::{Bridge, CreateBridge},
    envelope::Envelope,
    iam::{
        ApiKey, CreateCustomRole, CreateGroup, CreatePartner, CreateTenant, CreateUser, CustomRole,
        Group, Partner, PatchCustomRole, PatchGroup, PatchPartner, PatchTenant, PatchUser, Tenant,
        User,
    },
    ids::{
        ApiKeyId, BridgeId, BunkerId, CustomRoleId, GroupId, ImageId, PartnerId, QuotaProfileId,
        SnapshotId, TenantId, UserId, WorkerId,
    },
    image::{CreateImage, Image, PatchImage},
    quota::{CreateQuotaProfile, PatchQuotaProfile, QuotaProfile},
    snapshot::{CreateSnapshot, Snapshot, SnapshotCheck},
    worker::Worker,
};
use serde::{Serialize, de::DeserializeOwned};

use super::{Client, ClientError, SNAPSHOT_LIMIT};

/// A kind of object with a list route of its own.
pub trait Object: Serialize + DeserializeOwned {
    type Id: Copy + Eq + Display + FromStr;

    /// What people call it.
    const KIND: &'static str;
    /// Where it is listed, made, and with its id appended read and deleted.
    const ROUTE: &'static str;
    /// The command that lists it.
    const LIST_COMMAND: &'static str;

    fn id(&self) -> Self::Id;

    fn name(&self) -> &str;

    /// Whether people mean this one by `text`.
    fn is_called(&self, text: &str) -> bool {
        self.name() == text
    }
}

/// A kind of object that is made and changed by bodies of its own.
pub trait Editable: Object {
    type Create: Serialize;
    type Patch: Serialize;
}

macro_rules! objects {
    ($($kind:ident, $id:ident, $name:literal at $route:literal, $command:literal $({ $($extra:tt)* })?;)*) => {$(
        impl Object for $kind {
            type Id = $id;

            const KIND: &'static str = $name;
            const ROUTE: &'static str = $route;
            const LIST_COMMAND: &'static str = $command;

            fn id(&self) -> $id {
                self.id
            }

            fn name(&self) -> &str {
                &self.name
            }

            $($($extra)*)?
        }
    )*};
}

objects! {
    Partner, PartnerId, "partner" at "/v1/iam/partners", "partners ls";
    Tenant, TenantId, "tenant" at "/v1/iam/tenants", "tenants ls";
    Group, GroupId, "group" at "/v1/iam/groups", "groups ls";
    ApiKey, ApiKeyId, "API key" at "/v1/iam/api-keys", "keys ls" {
        // Revoked keys stay listed, and one that replaces another often has its name.
        fn is_called(&self, text: &str) -> bool {
            self.revoked_at.is_none() && self.name == text
        }
    };
    Image, ImageId, "image" at "/images", "images ls";
    Worker, WorkerId, "worker" at "/workers", "workers ls";
    Bridge, BridgeId, "bridge" at "/bridges", "bridges ls";
    CustomRole, CustomRoleId, "custom role" at "/v1/iam/custom-roles", "roles ls";
    QuotaProfile, QuotaProfileId, "quota profile" at "/quota-profiles", "quota profiles";
    User, UserId, "user" at "/v1/iam/users", "users ls" {
        fn is_called(&self, text: &str) -> bool {
            self.name == text || self.email.as_deref() == Some(text)
        }
    };
}

impl Object for Snapshot {
    type Id = SnapshotId;

    const KIND: &'static str = "snapshot";
    const ROUTE: &'static str = "/snapshots";
    const LIST_COMMAND: &'static str = "snapshots ls";

    fn id(&self) -> SnapshotId {
        self.id
    }

    /// Not every one has a name; nobody means those by an empty text.
    fn name(&self) -> &str {
        self.name.as_deref().unwrap_or_default()
    }
}

macro_rules! editable {
    ($($kind:ident by $create:ident, $patch:ident;)*) => {$(
        impl Editable for $kind {
            type Create = $create;
            type Patch = $patch;
        }
    )*};
}

editable! {
    Partner by CreatePartner, PatchPartner;
    Tenant by CreateTenant, PatchTenant;
    User by CreateUser, PatchUser;
    Group by CreateGroup, PatchGroup;
    Image by CreateImage, PatchImage;
    CustomRole by CreateCustomRole, PatchCustomRole;
    QuotaProfile by CreateQuotaProfile, PatchQuotaProfile;
}

impl Client {
    /// Every object of the kind that the caller sees, all pages.
    pub async fn list<O: Object>(&self) -> Result<Vec<O>, ClientError> {
        self.every_page(&format!("{}?", O::ROUTE)).await
    }

    /// Those of them that a filter lets through, such as the ones of a tenant.
    pub async fn list_where<O: Object>(
        &self,
        parameter: &str,
        id: impl Display,
    ) -> Result<Vec<O>, ClientError> {
        self.every_page(&format!("{}?{parameter}={id}&", O::ROUTE)).await
    }

    /// One object.
    pub async fn read<O: Object>(&self, id: O::Id) -> Result<O, ClientError> {
        Ok(self.get(&format!("{}/{id}", O::ROUTE)).await?.decode::<Envelope<O>>()?.data)
    }

    /// Makes an object.
    pub async fn create<O: Editable>(&self, body: &O::Create) -> Result<O, ClientError> {
        self.change(Method::POST, O::ROUTE, Some(body)).await
    }

    /// Takes a snapshot of a bunker; with `wait` until it is ready or has failed.
    pub async fn create_snapshot(
        &self,
        bunker: BunkerId,
        body: &CreateSnapshot,
        wait: bool,
    ) -> Result<Snapshot, ClientError> {
        let wait = if wait { "?wait=true&wait_timeout_s=600" } else { "" };
        let path = format!("/bunkers/{bunker}/snapshot{wait}");
        let answer = self.transport.json(Method::POST, &path, Some(body), SNAPSHOT_LIMIT).await?;
        Ok(answer.decode::<Envelope<Snapshot>>()?.data)
    }

    /// Has everything of a snapshot read and compared.
    pub async fn verify_snapshot(&self, id: SnapshotId) -> Result<SnapshotCheck, ClientError> {
        let path = format!("/snapshots/{id}/verify");
        let answer = self.transport.json(Method::POST, &path, None::<&()>, SNAPSHOT_LIMIT).await?;
        Ok(answer.decode::<Envelope<SnapshotCheck>>()?.data)
    }

    /// Has a worker make a bridge.
    pub async fn create_bridge(&self, body: &CreateBridge) -> Result<Bridge, ClientError> {
        self.change(Method::POST, Bridge::ROUTE, Some(body)).await
    }

    /// Changes an object.
    pub async fn patch<O: Editable>(&self, id: O::Id, body: &O::Patch) -> Result<O, ClientError> {
        self.change(Method::PATCH, &format!("{}/{id}", O::ROUTE), Some(body)).await
    }

    /// Deletes an object.
    pub async fn delete<O: Object>(&self, id: O::Id) -> Result<(), ClientError> {
        self.order(Method::DELETE, &format!("{}/{id}", O::ROUTE)).await
    }
}
