//! Which names a bunker may reach.

use scaibunker_api::host_name::HostName;
use serde::{Deserialize, Serialize};

/// The names that a policy allows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Names {
    /// All, and addresses without one.
    Any,
    /// Host names, and `*.` before one for names with exactly one label more.
    Listed(Vec<String>),
}

impl Names {
    /// Whether the list has the name.
    #[must_use]
    pub fn allow(&self, name: &HostName) -> bool {
        match self {
            Self::Any => true,
            Self::Listed(entries) => entries.iter().any(|entry| covers(entry, name.as_str())),
        }
    }
}

fn covers(entry: &str, name: &str) -> bool {
    match entry.strip_prefix("*.") {
        Some(domain) => {
            name.split_once('.').is_some_and(|(_, rest)| rest.eq_ignore_ascii_case(domain))
        }
        None => name.eq_ignore_ascii_case(entry),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn allows(entries: &[&str], name: &str) -> bool {
        let names = Names::Listed(entries.iter().map(ToString::to_string).collect());
        names.allow(&HostName::parse(name).unwrap())
    }

    #[test]
    fn a_wildcard_stands_for_one_label() {
        assert!(allows(&["*.example.com"], "a.example.com"));
        assert!(allows(&["*.Example.com"], "A.EXAMPLE.COM."));
        for other in ["example.com", "a.b.example.com", "aexample.com", "a.example.org"] {
            assert!(!allows(&["*.example.com"], other), "{other}");
        }
    }

    #[test]
    fn a_name_stands_for_itself() {
        assert!(allows(&["pypi.example", "Example.com"], "example.com"));
        for other in ["www.example.com", "example.com.evil.org", "xample.com", "com"] {
            assert!(!allows(&["example.com"], other), "{other}");
        }
        assert!(!allows(&[], "example.com"));
    }

    proptest! {
        #[test]
        fn nothing_is_allowed_that_does_not_end_in_an_entry(name in "[a-z.]{1,30}") {
            if let Some(name) = HostName::parse(&name)
                && Names::Listed(vec!["*.ab.c".into(), "b.c".into()]).allow(&name)
            {
                prop_assert!(name.as_str().ends_with("b.c"));
            }
        }
    }
}
