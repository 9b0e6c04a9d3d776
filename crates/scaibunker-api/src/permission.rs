//! Permission keys.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

macro_rules! permissions {
    ($($name:ident = $key:literal;)*) => {
        /// What a caller may do.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
        pub enum Permission {
            $(#[serde(rename = $key)] $name,)*
        }

        impl Permission {
            /// Every permission there is.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// The key as it appears on the wire.
            #[must_use]
            pub fn key(self) -> &'static str {
                match self { $(Self::$name => $key,)* }
            }

            /// The permission with this key.
            #[must_use]
            pub fn from_key(key: &str) -> Option<Self> {
                match key { $($key => Some(Self::$name),)* _ => None }
            }
        }
    };
}

permissions! {
    Create = "scaibunker:create";
    CreateSession = "scaibunker:create:session";
    CreatePersistent = "scaibunker:create:persistent";
    Execute = "scaibunker:execute";
    Shell = "scaibunker:shell";
    Files = "scaibunker:files";
    Root = "scaibunker:root";
    NetworkRegistry = "scaibunker:network:registry";
    NetworkAllowlisted = "scaibunker:network:allowlisted";
    NetworkUnrestricted = "scaibunker:network:unrestricted";
    NetworkTransit = "scaibunker:network:transit";
    L2Transparency = "scaibunker:l2_transparency";
    ImagesManage = "scaibunker:images:manage";
    Admin = "scaibunker:admin";
    AdminTenant = "scaibunker:admin:tenant";
    AdminPlatform = "scaibunker:admin:platform";
}
