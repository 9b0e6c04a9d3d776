//! Calls about quotas beside those that every kind of object has.

use http::Method;
use scaibunker_api::{
    envelope::ListEnvelope,
    ids::{QuotaAssignmentId, QuotaProfileId},
    quota::{Assignment, CreateAssignment, ProfileUsage},
};

use super::{Client, ClientError};

impl Client {
    /// What is used of each profile that applies to the caller.
    pub async fn usage(&self) -> Result<Vec<ProfileUsage>, ClientError> {
        let answer = self.get("/quota-profiles/usage").await?;
        Ok(answer.decode::<ListEnvelope<ProfileUsage>>()?.data)
    }

    /// Whom a profile is assigned to.
    pub async fn assignments(&self, id: QuotaProfileId) -> Result<Vec<Assignment>, ClientError> {
        self.every_page(&format!("/quota-profiles/{id}/assignments?")).await
    }

    /// Assigns a profile.
    pub async fn assign(
        &self,
        id: QuotaProfileId,
        body: &CreateAssignment,
    ) -> Result<Assignment, ClientError> {
        self.change(Method::POST, &format!("/quota-profiles/{id}/assignments"), Some(body)).await
    }

    /// Ends an assignment.
    pub async fn unassign(
        &self,
        id: QuotaProfileId,
        assignment: QuotaAssignmentId,
    ) -> Result<(), ClientError> {
        let path = format!("/quota-profiles/{id}/assignments/{assignment}");
        self.order(Method::DELETE, &path).await
    }
}
