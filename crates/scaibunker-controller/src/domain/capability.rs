//! Which objects a caller may give others a right to.

use scaibunker_api::{
    error::{ErrorBody, ErrorCode},
    ids::TenantId,
};

use super::actor::{Actor, Reach};

/// Below which each tenant has a place for the images that it uploads.
pub const UPLOADS: &str = "images/uploads/";

/// Refuses a prefix that is not within the caller's reach: the platform's admins may name any,
/// others only `images/uploads/{tenant}` of a tenant of theirs, and what is below.
pub fn check_prefix(actor: &Actor, prefix: &str) -> Result<(), ErrorBody> {
    if actor.reach == Reach::Platform {
        return Ok(());
    }
    let tenant = prefix.strip_prefix(UPLOADS).and_then(|rest| rest.split('/').next());
    let tenant: Option<TenantId> = tenant.and_then(|tenant| tenant.parse().ok());
    if tenant.is_some_and(|tenant| actor.reach.covers(tenant)) {
        return Ok(());
    }
    let message = format!(
        "you can give a right to objects below `{UPLOADS}{}/` and to no others; ask the platform's \
         operator",
        actor.tenant_id
    );
    Err(ErrorBody::new(ErrorCode::Forbidden, message))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::actor::tests::actor;

    #[test]
    fn a_tenants_caller_stays_below_the_tenants_uploads() {
        let caller = Actor { reach: Reach::Tenant(TenantId::generate()), ..actor(&[]) };
        let Reach::Tenant(tenant) = caller.reach else { panic!("it has a tenant's reach") };
        let other = TenantId::generate();
        let allows = |prefix: String| check_prefix(&caller, &prefix).is_ok();
        for prefix in [format!("{tenant}"), format!("{tenant}/"), format!("{tenant}/a/b")] {
            assert!(allows(format!("images/uploads/{prefix}")), "{prefix}");
        }
        for prefix in [
            String::new(),
            "images".into(),
            "images/uploads/".into(),
            format!("images/uploads/{other}/"),
            format!("images/uploads/{tenant}x/"),
            format!("images/uploads//{tenant}/"),
            format!("images/uploads/x/{tenant}/"),
            format!("files/uploads/{tenant}/"),
        ] {
            assert!(!allows(prefix.clone()), "{prefix}");
        }
        let admin = Actor { reach: Reach::Platform, ..actor(&[]) };
        assert!(check_prefix(&admin, "snapshots").is_ok());
    }
}
