//! Names of hosts.

use std::fmt;

use serde::{Deserialize, Serialize};

const MAX_NAME_BYTES: usize = 253;
const MAX_LABEL_BYTES: usize = 63;

/// A host's name in lower case, without the final dot. Never an address.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct HostName(String);

/// The text is no host's name.
#[derive(Debug, thiserror::Error)]
#[error("`{0}` is not the name of a host")]
pub struct NotAHostName(String);

impl HostName {
    /// Reads a name; one final dot is fine.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let name = text.strip_suffix('.').unwrap_or(text);
        is_host_name(name).then(|| Self(name.to_ascii_lowercase()))
    }

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for HostName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl TryFrom<String> for HostName {
    type Error = NotAHostName;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        Self::parse(&text).ok_or(NotAHostName(text))
    }
}

impl From<HostName> for String {
    fn from(name: HostName) -> Self {
        name.0
    }
}

/// Whether it is a plain host name: labels of letters, digits and inner hyphens, no final dot.
#[must_use]
pub fn is_host_name(name: &str) -> bool {
    name.len() <= MAX_NAME_BYTES
        && name.split('.').all(is_label)
        && name.rsplit('.').next().is_some_and(|last| !is_numeric(last))
}

fn is_label(label: &str) -> bool {
    (1..=MAX_LABEL_BYTES).contains(&label.len())
        && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
        && !label.starts_with('-')
        && !label.ends_with('-')
}

/// A name that ends in a number is an IPv4 address to many resolvers, whatever comes before it.
fn is_numeric(label: &str) -> bool {
    let hexadecimal = label.strip_prefix("0x").or_else(|| label.strip_prefix("0X"));
    label.bytes().all(|byte| byte.is_ascii_digit())
        || hexadecimal.is_some_and(|digits| digits.bytes().all(|byte| byte.is_ascii_hexdigit()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_lower_case_without_the_final_dot() {
        assert_eq!(HostName::parse("WWW.Example.com.").unwrap().as_str(), "www.example.com");
        for text in ["", ".", "a..b", "a.b..", "1.2.3.4", "[::1]", "x_y.com", "a.0x7f", "a b"] {
            assert!(HostName::parse(text).is_none(), "{text}");
        }
    }
}
