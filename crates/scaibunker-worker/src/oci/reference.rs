//! Image references: `[host[:port]/]name[:tag][@sha256:…]`.

use super::{OciError, sha256_hex};

const DEFAULT_TAG: &str = "latest";
const MAX_NAME_BYTES: usize = 255;
const MAX_TAG_BYTES: usize = 128;

/// A parsed reference.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reference {
    /// `host` or `host:port`.
    pub registry: String,
    pub repository: String,
    /// A tag, or the digest if there is one.
    pub version: Version,
}

/// Which manifest of a repository is meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Version {
    Tag(String),
    Digest(String),
}

impl Version {
    pub fn as_str(&self) -> &str {
        match self {
            Self::Tag(text) | Self::Digest(text) => text,
        }
    }
}

impl Reference {
    /// Parses a reference. The registry has to be named: which one a bare name means is a choice
    /// that a host should not make for its tenants.
    pub fn parse(text: &str) -> Result<Self, OciError> {
        let wrong = |reason| OciError::Reference { reference: text.to_owned(), reason };
        let (rest, digest) = match text.split_once('@') {
            Some((rest, digest)) => (rest, Some(digest)),
            None => (text, None),
        };
        if digest.is_some_and(|digest| sha256_hex(digest).is_none()) {
            return Err(wrong("the digest is not `sha256:` and 64 hexadecimal digits"));
        }
        let (registry, path) = rest
            .split_once('/')
            .filter(|(host, _)| host.contains(['.', ':']) || *host == "localhost")
            .ok_or(wrong("name the registry, as in `registry.example/app:1.2`"))?;
        if !is_host(registry) {
            return Err(wrong("the registry is not a host name with or without a port"));
        }
        let (repository, tag) = match path.rsplit_once(':') {
            Some((repository, tag)) => (repository, tag),
            None => (path, DEFAULT_TAG),
        };
        if !is_repository(repository) {
            return Err(wrong("the name has parts of lower-case letters, digits and `._-`"));
        }
        if !is_tag(tag) {
            return Err(wrong("the tag has letters, digits and `._-`"));
        }
        Ok(Self {
            registry: registry.to_owned(),
            repository: repository.to_owned(),
            version: match digest {
                Some(digest) => Version::Digest(digest.to_owned()),
                None => Version::Tag(tag.to_owned()),
            },
        })
    }

    /// The host without its port.
    pub fn host(&self) -> &str {
        match self.registry.rsplit_once(':') {
            Some((host, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => host,
            _ => &self.registry,
        }
    }
}

fn is_host(text: &str) -> bool {
    let (host, port) = match text.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((address, port)) if address.parse::<std::net::Ipv6Addr>().is_ok() => {
            return port.is_empty() || port.strip_prefix(':').is_some_and(is_port);
        }
        Some(_) => return false,
        None => text.split_once(':').map_or((text, None), |(host, port)| (host, Some(port))),
    };
    let is_name = |byte: u8| byte.is_ascii_alphanumeric() || b".-".contains(&byte);
    !host.is_empty() && host.bytes().all(is_name) && port.is_none_or(is_port)
}

fn is_port(text: &str) -> bool {
    text.parse::<u16>().is_ok_and(|port| port > 0)
}

fn is_repository(text: &str) -> bool {
    let is_plain =
        |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"._-".contains(&byte);
    let is_part = |part: &str| {
        let mut bytes = part.bytes();
        bytes.next().is_some_and(|byte| byte.is_ascii_alphanumeric()) && part.bytes().all(is_plain)
    };
    text.len() <= MAX_NAME_BYTES && text.split('/').all(is_part)
}

fn is_tag(text: &str) -> bool {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    (1..=MAX_TAG_BYTES).contains(&text.len())
        && text.bytes().all(is_plain)
        && !text.starts_with(['.', '-'])
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_reference_has_a_registry_a_name_and_a_version() {
        let digest = format!("sha256:{}", "ab".repeat(32));
        let parsed = Reference::parse("registry.example:5000/team/app:1.2").unwrap();
        assert_eq!(
            (parsed.registry.as_str(), parsed.repository.as_str(), parsed.version.as_str()),
            ("registry.example:5000", "team/app", "1.2")
        );
        assert_eq!(parsed.host(), "registry.example");
        let latest = Reference::parse("localhost/app").unwrap();
        assert_eq!(latest.version, Version::Tag("latest".to_owned()));
        let pinned = Reference::parse(&format!("[::1]:5000/app:1@{digest}")).unwrap();
        assert_eq!(
            (pinned.version, pinned.registry.as_str()),
            (Version::Digest(digest), "[::1]:5000")
        );
        for wrong in [
            "",
            "app",
            "team/app",
            "registry.example",
            "registry.example/",
            "registry.example/App",
            "registry.example/../app",
            "registry.example/a//b",
            "registry.example/app:",
            "registry.example/app:a b",
            "registry.example:0/app",
            "user@registry.example/app",
            "registry.example/app@sha256:12",
            "registry.example/app@md5:12",
            "http://registry.example/app",
        ] {
            assert!(Reference::parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn no_text_is_too_odd() {
        bolero::check!().with_test_time(Duration::from_secs(1)).with_type::<String>().for_each(
            |text: &String| {
                for text in [text.clone(), format!("registry.example/{text}")] {
                    if let Ok(reference) = Reference::parse(&text) {
                        assert!(!reference.repository.contains(".."), "{reference:?}");
                        let uri =
                            format!("https://{}/v2/{}", reference.registry, reference.repository);
                        assert!(uri.parse::<http::Uri>().is_ok(), "{uri}");
                    }
                }
            },
        );
    }
}
