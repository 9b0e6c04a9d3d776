//! The keys of tenants' snapshots.

use scaibunker_api::ids::TenantId;
use scaibunker_snapshot::{Key, SnapshotKeys};

/// What contexts of the key derivation begin with. Changing it makes every snapshot unreadable.
const NAMING: &str = "scaibunker 2026-11 snapshot chunk names";
const SEALING: &str = "scaibunker 2026-11 snapshot sealing";
const SECRET_NAME: &str = "scaibunker 2026-11 snapshot secret name";

/// The secrets that snapshots are sealed with, if they are.
#[derive(Clone, Default)]
pub struct KeyRing {
    current: Option<String>,
    /// Snapshots that were sealed with it are still read.
    previous: Option<String>,
}

impl KeyRing {
    /// Without a current secret snapshots are not sealed.
    #[must_use]
    pub fn new(current: Option<String>, previous: Option<String>) -> Self {
        Self { current, previous }
    }

    /// What new snapshots are sealed with, by its name.
    #[must_use]
    pub fn current_name(&self) -> Option<String> {
        self.current.as_deref().map(name)
    }

    /// The keys of a tenant's snapshots that were sealed with the secret of that name. `None` if it is
    /// not here.
    #[must_use]
    pub fn keys(&self, tenant: TenantId, sealed_with: Option<&str>) -> Option<SnapshotKeys> {
        let secret = match sealed_with {
            None => None,
            Some(wanted) => {
                let secrets = [&self.current, &self.previous];
                let mut known = secrets.into_iter().flatten();
                Some(known.find(|secret| name(secret) == wanted)?)
            }
        };
        // Without a secret the names are no secret either, but still each tenant's own.
        let material =
            [secret.map(String::as_str).unwrap_or_default(), &tenant.to_string()].join("\n");
        let naming = Key::derive(NAMING, material.as_bytes());
        let sealing = secret.map(|_| Key::derive(SEALING, material.as_bytes()));
        Some(SnapshotKeys { naming, sealing })
    }
}

/// Tells secrets apart and nothing else about them.
fn name(secret: &str) -> String {
    Key::derive(SECRET_NAME, secret.as_bytes()).fingerprint()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_a_tenants_and_a_secrets_and_outlive_one_change() {
        let (one, two) = (TenantId::generate(), TenantId::generate());
        let plain = KeyRing::default();
        assert_eq!(plain.keys(one, None), plain.keys(one, None));
        assert_ne!(plain.keys(one, None), plain.keys(two, None));
        assert_eq!(plain.keys(one, None).unwrap().sealing, None);

        let first = KeyRing::new(Some("first".to_owned()), None);
        let sealed_with = first.current_name().unwrap();
        let keys = first.keys(one, Some(&sealed_with));
        assert!(keys.as_ref().unwrap().sealing.is_some());
        let next = KeyRing::new(Some("second".to_owned()), Some("first".to_owned()));
        assert_eq!(next.keys(one, Some(&sealed_with)), keys);
        assert_ne!(next.current_name(), first.current_name());
        let last = KeyRing::new(Some("third".to_owned()), Some("second".to_owned()));
        assert_eq!(last.keys(one, Some(&sealed_with)), None);
        assert_eq!(last.keys(one, None), plain.keys(one, None));
    }
}
