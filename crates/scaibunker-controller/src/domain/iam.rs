//! What bodies about identity may hold.

use jiff::Timestamp;
use scaibunker_api::{
    error::ErrorBody,
    iam::{
        CreateApiKey, CreateCustomRole, CreateGroup, CreatePartner, CreateTenant, CreateUser,
        PatchCustomRole, PatchGroup, PatchPartner, PatchTenant, PatchUser,
    },
    permission::Permission,
};

use super::violations::Violations;

const MAX_NAME_BYTES: usize = 128;
const MAX_EMAIL_BYTES: usize = 254;
/// Twice what OpenID Connect lets an issuer choose.
const MAX_SUBJECT_BYTES: usize = 512;
const MAX_CUSTOM_ROLES: usize = 32;

/// A body that can be wrong.
pub trait Checked {
    /// Notes all that is wrong with it.
    fn check(&self, faults: &mut Violations);

    /// Refuses a body with anything wrong.
    fn checked(&self) -> Result<(), ErrorBody> {
        let mut faults = Violations::default();
        self.check(&mut faults);
        faults.into_result()
    }
}

/// Notes a name that is empty, long or unprintable.
pub fn check_name(faults: &mut Violations, name: Option<&str>) {
    faults.text("name", name, 1..=MAX_NAME_BYTES);
    if name.is_some_and(|name| name.trim() != name) {
        faults.add("name", "must not begin or end with a space");
    }
}

fn check_email(faults: &mut Violations, email: Option<&str>) {
    faults.text("email", email, 3..=MAX_EMAIL_BYTES);
    if email.is_some_and(|email| !is_email(email)) {
        faults.add("email", "is not an address such as `name@example.org`");
    }
}

/// Whether the text has the form of an address; only a mail can tell more.
#[must_use]
pub fn is_email(text: &str) -> bool {
    let has_form = |(name, host): (&str, &str)| !name.is_empty() && !host.is_empty();
    text.len() <= MAX_EMAIL_BYTES
        && text.split_once('@').is_some_and(has_form)
        && !text.contains(|letter: char| letter.is_whitespace() || letter.is_control())
}

fn check_permissions(faults: &mut Violations, permissions: Option<&[Permission]>) {
    if permissions.is_some_and(|given| given.len() > Permission::ALL.len()) {
        faults.add("module_permissions", "names a permission more than once");
    }
}

fn check_roles<T>(faults: &mut Violations, roles: Option<&[T]>) {
    if roles.is_some_and(|roles| roles.len() > MAX_CUSTOM_ROLES) {
        faults.add("custom_role_ids", format!("at most {MAX_CUSTOM_ROLES} roles are taken"));
    }
}

impl Checked for CreatePartner {
    fn check(&self, faults: &mut Violations) {
        check_name(faults, Some(&self.name));
    }
}

impl Checked for PatchPartner {
    fn check(&self, faults: &mut Violations) {
        check_name(faults, self.name.as_deref());
    }
}

impl Checked for CreateTenant {
    fn check(&self, faults: &mut Violations) {
        check_name(faults, Some(&self.name));
    }
}

impl Checked for PatchTenant {
    fn check(&self, faults: &mut Violations) {
        check_name(faults, self.name.as_deref());
    }
}

impl Checked for CreateUser {
    fn check(&self, faults: &mut Violations) {
        check_name(faults, Some(&self.name));
        check_email(faults, self.email.as_deref());
        check_roles(faults, Some(&self.custom_role_ids));
        check_permissions(faults, Some(&self.module_permissions));
        faults.text("oidc_subject", self.oidc_subject.as_deref(), 1..=MAX_SUBJECT_BYTES);
    }
}

impl Checked for PatchUser {
    fn check(&self, faults: &mut Violations) {
        check_name(faults, self.name.as_deref());
        check_email(faults, self.email.as_ref().and_then(Option::as_deref));
        check_roles(faults, self.custom_role_ids.as_deref());
        let subject = self.oidc_subject.as_ref().and_then(Option::as_deref);
        faults.text("oidc_subject", subject, 1..=MAX_SUBJECT_BYTES);
    }
}

impl Checked for CreateGroup {
    fn check(&self, faults: &mut Violations) {
        check_name(faults, Some(&self.name));
    }
}

impl Checked for PatchGroup {
    fn check(&self, faults: &mut Violations) {
        check_name(faults, self.name.as_deref());
    }
}

impl Checked for CreateCustomRole {
    fn check(&self, faults: &mut Violations) {
        check_name(faults, Some(&self.name));
        check_permissions(faults, Some(&self.module_permissions));
    }
}

impl Checked for PatchCustomRole {
    fn check(&self, faults: &mut Violations) {
        check_name(faults, self.name.as_deref());
        check_permissions(faults, self.module_permissions.as_deref());
    }
}

impl Checked for CreateApiKey {
    fn check(&self, faults: &mut Violations) {
        check_name(faults, Some(&self.name));
    }
}

/// Refuses an API key that would never be accepted.
pub fn check_expiry(expires_at: Option<Timestamp>, now: Timestamp) -> Result<(), ErrorBody> {
    match expires_at {
        Some(expires_at) if expires_at <= now => {
            Err(ErrorBody::invalid("expires_at", "is in the past"))
        }
        _ => Ok(()),
    }
}

/// The permissions in their order, each once.
#[must_use]
pub fn each_once(mut permissions: Vec<Permission>) -> Vec<Permission> {
    permissions.sort_unstable();
    permissions.dedup();
    permissions
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_wrong_is_named_at_once() {
        let body = CreateUser {
            name: " a".to_owned(),
            tenant_id: None,
            email: Some("nobody".to_owned()),
            role: Default::default(),
            custom_role_ids: Vec::new(),
            module_permissions: vec![Permission::Create; 99],
            oidc_subject: Some(String::new()),
        };
        let error = body.checked().unwrap_err();
        let fields: Vec<_> = error.details.iter().map(|detail| detail.field.as_str()).collect();
        assert_eq!(fields, ["name", "email", "module_permissions", "oidc_subject"]);
    }

    #[test]
    fn addresses_have_two_parts() {
        for (text, valid) in
            [("a@b", true), ("@b", false), ("a@", false), ("a b@c", false), ("a", false)]
        {
            assert_eq!(is_email(text), valid, "{text}");
        }
    }
}
