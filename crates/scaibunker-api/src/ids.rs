//! Typed ids: a prefix and a UUIDv7 in lower-case Crockford base32, such as
//! `bnk_01jd7y2m0k3v9c8x5w6t7r4q2z`. Sorting the text sorts by creation time.

use std::{borrow::Cow, fmt, str::FromStr};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use uuid::Uuid;

const ALPHABET: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";
const ENCODED_LEN: usize = 26;

/// The text was not an id of the expected kind.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a valid id: expected `{prefix}` followed by 26 base32 characters")]
pub struct InvalidId {
    prefix: &'static str,
}

fn encode(id: Uuid) -> String {
    let value = id.as_u128();
    (0..ENCODED_LEN)
        .rev()
        .map(|digit| char::from(ALPHABET[(value >> (digit * 5)) as usize & 31]))
        .collect()
}

fn decode(text: &str) -> Option<Uuid> {
    if text.len() != ENCODED_LEN {
        return None;
    }
    let mut value: u128 = 0;
    for (position, byte) in text.bytes().enumerate() {
        let digit = ALPHABET.iter().position(|&letter| letter == byte)? as u128;
        // 26 digits hold 130 bits; the first may use only three of its five.
        if position == 0 && digit > 7 {
            return None;
        }
        value = value << 5 | digit;
    }
    Some(Uuid::from_u128(value))
}

macro_rules! ids {
    ($($(#[$doc:meta])* $name:ident = $prefix:literal;)*) => {$(
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(Uuid);

        impl $name {
            /// What every id of this kind starts with.
            pub const PREFIX: &'static str = $prefix;

            /// A fresh, time-ordered id.
            #[must_use]
            pub fn generate() -> Self {
                Self(Uuid::now_v7())
            }

            /// The id without its kind.
            #[must_use]
            pub fn uuid(self) -> Uuid {
                self.0
            }

            /// Bits that are the same for one id and even over many: to choose one of several by.
            #[must_use]
            pub fn spread(self) -> u32 {
                self.0.as_u128() as u32
            }

            /// When the id was made, in milliseconds since the Unix epoch.
            #[must_use]
            pub fn made_at_ms(self) -> u64 {
                (self.0.as_u128() >> 80) as u64
            }
        }

        impl From<Uuid> for $name {
            fn from(id: Uuid) -> Self {
                Self(id)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}{}", $prefix, encode(self.0))
            }
        }

        impl FromStr for $name {
            type Err = InvalidId;

            fn from_str(text: &str) -> Result<Self, InvalidId> {
                text.strip_prefix($prefix)
                    .and_then(decode)
                    .map(Self)
                    .ok_or(InvalidId { prefix: $prefix })
            }
        }

        impl JsonSchema for $name {
            fn schema_name() -> Cow<'static, str> {
                stringify!($name).into()
            }

            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                json_schema!({
                    "type": "string",
                    "pattern": concat!("^", $prefix, "[0-7][0-9a-hjkmnp-tv-z]{25}$"),
                })
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
            }
        }
    )*};
}

ids! {
    /// A bunker.
    BunkerId = "bnk_";
    /// An image.
    ImageId = "img_";
    /// An availability group: images and the workers that keep them.
    AvailabilityGroupId = "avg_";
    /// A controller that runs: another one after each start.
    ControllerId = "ctl_";
    /// A worker.
    WorkerId = "wrk_";
    /// A bridge on a worker.
    BridgeId = "brg_";
    /// A snapshot.
    SnapshotId = "snp_";
    /// An object with chunks of a tenant's snapshots.
    PackId = "pck_";
    /// One command run in a bunker.
    ExecId = "exe_";
    /// A tenant.
    TenantId = "ten_";
    /// A user.
    UserId = "usr_";
    /// A partner: it has tenants.
    PartnerId = "prt_";
    /// A group of users.
    GroupId = "grp_";
    /// A custom role.
    CustomRoleId = "rol_";
    /// A quota profile.
    QuotaProfileId = "qpf_";
    /// The assignment of a quota profile.
    QuotaAssignmentId = "qas_";
    /// Something that happened: an entry of the audit log, or an event of a bunker.
    EventId = "evt_";
    /// An API key's record; the key itself starts with `sgk_`.
    ApiKeyId = "key_";
    /// One HTTP request, as it appears in answers and logs.
    RequestId = "req_";
    /// One microVM on a worker. It exists before a bunker claims it.
    VmId = "vm_";
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn text_form_round_trips(value: u128) {
            let id = BunkerId::from(Uuid::from_u128(value));
            prop_assert_eq!(id.to_string().parse::<BunkerId>(), Ok(id));
        }

        #[test]
        fn text_order_is_value_order(a: u128, b: u128) {
            let (x, y) = (BunkerId::from(Uuid::from_u128(a)), BunkerId::from(Uuid::from_u128(b)));
            prop_assert_eq!(x.to_string().cmp(&y.to_string()), a.cmp(&b));
        }

        #[test]
        fn arbitrary_text_never_panics(text in ".*") {
            let _ = text.parse::<BunkerId>();
        }
    }

    #[test]
    fn other_kinds_and_overflow_are_refused() {
        let bunker = BunkerId::generate().to_string();
        assert!(bunker.parse::<ImageId>().is_err());
        assert!("bnk_80000000000000000000000000".parse::<BunkerId>().is_err());
    }
}
