//! Calls about who there is that only some kinds of object have.

use http::Method;
use scaibunker_api::{
    envelope::Envelope,
    iam::{ApiKey, CreateApiKey, Me, ModulePermissions, NewApiKey, User},
    ids::{GroupId, UserId},
    permission::Permission,
};

use super::{Client, ClientError, Object as _};

impl Client {
    /// Who the credential belongs to.
    pub async fn me(&self) -> Result<Me, ClientError> {
        Ok(self.get("/v1/iam/me").await?.decode::<Envelope<Me>>()?.data)
    }

    /// Makes an API key; only this answer holds it.
    pub async fn create_api_key(&self, body: &CreateApiKey) -> Result<NewApiKey, ClientError> {
        self.change(Method::POST, ApiKey::ROUTE, Some(body)).await
    }

    /// Replaces what is granted to a user beside its roles.
    pub async fn set_permissions(
        &self,
        id: UserId,
        module_permissions: Vec<Permission>,
    ) -> Result<User, ClientError> {
        let path = format!("/v1/users/{id}/module-permissions");
        self.change(Method::PUT, &path, Some(&ModulePermissions { module_permissions })).await
    }

    /// The users of a group, without those of groups in it.
    pub async fn members(&self, id: GroupId) -> Result<Vec<User>, ClientError> {
        self.every_page(&format!("/v1/iam/groups/{id}/members?")).await
    }

    /// Makes a user a member. One that is a member already is no error.
    pub async fn add_member(&self, id: GroupId, user: UserId) -> Result<(), ClientError> {
        self.order(Method::PUT, &format!("/v1/iam/groups/{id}/members/{user}")).await
    }

    /// Ends a membership.
    pub async fn remove_member(&self, id: GroupId, user: UserId) -> Result<(), ClientError> {
        self.order(Method::DELETE, &format!("/v1/iam/groups/{id}/members/{user}")).await
    }
}
