//! Where the controller is and which key opens it.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use http::{HeaderValue, Uri, uri::Scheme};
use serde::{Deserialize, Serialize};

/// Where `scaibunker up` listens unless told otherwise.
pub const DEFAULT_URL: &str = "http://127.0.0.1:8420";

/// Environment variable with the API key. There is no flag: a key on a command line can be read
/// by everyone on the machine.
pub const API_KEY_VARIABLE: &str = "SCAIBUNKER_API_KEY";

/// Where in its data directory the local server keeps the first key.
const KEY_FILE: &str = "admin.key";

/// Why no call can be made.
#[derive(Debug, thiserror::Error)]
pub enum EndpointError {
    #[error("`{url}` is not a URL such as {DEFAULT_URL}; correct --url or SCAIBUNKER_URL")]
    InvalidUrl { url: String },
    #[error("the API key is not printable ASCII; correct {API_KEY_VARIABLE} or the key file")]
    InvalidKey,
    #[error(
        "no API key: {API_KEY_VARIABLE} is not set and {} cannot be read; start the local server \
         with ./scripts/up, or give a key with `scaibunker login`",
        path.display()
    )]
    NoKey { path: PathBuf, source: io::Error },
    #[error(
        "no API key for {host}: run `scaibunker login --url {base}`, or set {API_KEY_VARIABLE} \
         (the local server's admin key is only sent to this machine)"
    )]
    KeyIsLocal { host: String, base: String },
    #[error(
        "no API key: there is no data directory to look in; run `scaibunker login`, or set \
         {API_KEY_VARIABLE}"
    )]
    NoDataDir,
}

/// A server and a key for it.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Credential {
    pub url: String,
    pub api_key: String,
}

impl std::fmt::Debug for Credential {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Credential").field("url", &self.url).finish_non_exhaustive()
    }
}

/// Where the server on this machine keeps its files.
#[derive(Debug, Clone, Copy)]
pub enum DataDir<'a> {
    /// The caller named it, and so means that server.
    Named(&'a Path),
    /// Where it usually is, if there is such a place.
    Usual(Option<&'a Path>),
}

/// A controller's address and the credential for it.
#[derive(Clone)]
pub struct Endpoint {
    /// Scheme, authority and path, without a trailing slash.
    pub(super) base: String,
    pub(super) is_https: bool,
    /// Whether the controller is on this machine.
    pub(super) is_local: bool,
    pub(super) authorization: HeaderValue,
}

impl Endpoint {
    /// The controller to call, and the key to call it with.
    ///
    /// The address is `url`, else that of the stored login, else [`DEFAULT_URL`]. The key is
    /// `api_key`, else that of the login if it was made at this address, else the one that the
    /// local server left in `data_dir`. So no key that was stored for one server goes to another.
    /// A directory that was named comes before a login, as long as a server on this machine is
    /// called.
    pub fn resolve(
        url: Option<&str>,
        api_key: Option<&str>,
        login: Option<&Credential>,
        data_dir: DataDir<'_>,
    ) -> Result<Self, EndpointError> {
        let (dir, is_named) = match data_dir {
            DataDir::Named(dir) => (Some(dir), true),
            DataDir::Usual(dir) => (dir, false),
        };
        let usual_url = match login {
            Some(login) if !is_named => login.url.as_str(),
            _ => DEFAULT_URL,
        };
        let target = BaseUrl::parse(url.unwrap_or(usual_url))?;
        if let Some(key) = api_key {
            return target.with_key(key);
        }
        let is_its_server = is_named && target.is_loopback();
        if let Some(login) = login
            && !is_its_server
            && BaseUrl::parse(&login.url).is_ok_and(|url| url.base == target.base)
        {
            return target.with_key(&login.api_key);
        }
        if !target.is_loopback() {
            return Err(EndpointError::KeyIsLocal { host: target.host, base: target.base });
        }
        let path = dir.ok_or(EndpointError::NoDataDir)?.join(KEY_FILE);
        match fs::read_to_string(&path) {
            Ok(key) => target.with_key(&key),
            Err(source) => Err(EndpointError::NoKey { path, source }),
        }
    }

    /// The controller of a credential.
    pub fn of(credential: &Credential) -> Result<Self, EndpointError> {
        BaseUrl::parse(&credential.url)?.with_key(&credential.api_key)
    }

    /// Scheme, authority and path, without a trailing slash.
    pub fn base(&self) -> &str {
        &self.base
    }

    /// Whether others on the network can read what is said, the key included.
    pub fn is_open_to_others(&self) -> bool {
        !self.is_https && !self.is_local
    }
}

impl std::fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Endpoint").field("base", &self.base).finish_non_exhaustive()
    }
}

struct BaseUrl {
    base: String,
    host: String,
    is_https: bool,
}

impl BaseUrl {
    fn parse(url: &str) -> Result<Self, EndpointError> {
        let invalid = || EndpointError::InvalidUrl { url: url.to_owned() };
        let uri: Uri = url.parse().map_err(|_| invalid())?;
        let (Some(scheme), Some(authority)) = (uri.scheme(), uri.authority()) else {
            return Err(invalid());
        };
        let is_https = *scheme == Scheme::HTTPS;
        // User information would end up in error texts, a query in the middle of each path.
        if !(is_https || *scheme == Scheme::HTTP)
            || authority.as_str().contains('@')
            || uri.query().is_some()
        {
            return Err(invalid());
        }
        let path = uri.path().trim_end_matches('/');
        Ok(Self {
            base: format!("{scheme}://{authority}{path}"),
            host: authority.host().to_owned(),
            is_https,
        })
    }

    fn is_loopback(&self) -> bool {
        let address = self.host.trim_start_matches('[').trim_end_matches(']');
        self.host == "localhost"
            || address.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
    }

    fn with_key(self, key: &str) -> Result<Endpoint, EndpointError> {
        let mut authorization = HeaderValue::from_str(&format!("Bearer {}", key.trim()))
            .map_err(|_| EndpointError::InvalidKey)?;
        authorization.set_sensitive(true);
        let is_local = self.is_loopback();
        Ok(Endpoint { base: self.base, is_https: self.is_https, is_local, authorization })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base_urls_lose_their_trailing_slash() {
        let url = BaseUrl::parse("http://127.0.0.1:8420/").unwrap();
        assert_eq!(url.base, "http://127.0.0.1:8420");
        assert_eq!(BaseUrl::parse("https://a.example/x/").unwrap().base, "https://a.example/x");
    }

    #[test]
    fn what_is_not_a_base_url_is_refused() {
        for url in ["", "127.0.0.1:8420", "/v1", "ftp://a", "http://u:p@a", "http://a/?x=1"] {
            assert!(BaseUrl::parse(url).is_err(), "{url}");
        }
    }

    #[test]
    fn only_this_machine_is_loopback() {
        for url in ["http://127.0.0.1:1", "http://localhost", "http://[::1]:8420"] {
            assert!(BaseUrl::parse(url).unwrap().is_loopback(), "{url}");
        }
        for url in ["http://10.0.0.1", "https://localhost.example", "http://[2001:db8::1]"] {
            assert!(!BaseUrl::parse(url).unwrap().is_loopback(), "{url}");
        }
    }

    #[test]
    fn the_key_is_trimmed_and_never_shown() {
        let endpoint = BaseUrl::parse(DEFAULT_URL).unwrap().with_key("sgk_secret\n").unwrap();
        assert_eq!(endpoint.authorization.as_bytes(), b"Bearer sgk_secret");
        assert!(!format!("{endpoint:?} {:?}", endpoint.authorization).contains("secret"));
        assert!(BaseUrl::parse(DEFAULT_URL).unwrap().with_key("a\nb").is_err());
    }

    fn authorization(endpoint: Result<Endpoint, EndpointError>) -> String {
        let endpoint = endpoint.unwrap();
        format!("{} {}", endpoint.base, endpoint.authorization.to_str().unwrap())
    }

    #[test]
    fn the_environment_comes_first_then_the_login_then_the_local_key() {
        let login =
            Credential { url: "https://a.example/".to_owned(), api_key: "sgk_login".to_owned() };
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(KEY_FILE), "sgk_local\n").unwrap();
        let usual = DataDir::Usual(Some(dir.path()));
        let resolve = |url, key, login| authorization(Endpoint::resolve(url, key, login, usual));
        let (local, login) = (Some("http://127.0.0.1:8420"), Some(&login));
        assert_eq!(resolve(None, None, login), "https://a.example Bearer sgk_login");
        assert_eq!(resolve(None, Some("sgk_env"), login), "https://a.example Bearer sgk_env");
        assert_eq!(resolve(local, None, login), "http://127.0.0.1:8420 Bearer sgk_local");
        assert_eq!(resolve(None, None, None), "http://127.0.0.1:8420 Bearer sgk_local");
    }

    #[test]
    fn a_named_data_directory_comes_before_a_login_but_only_for_this_machine() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(KEY_FILE), "sgk_local\n").unwrap();
        let (here, there) = ("http://127.0.0.1:8420", "https://a.example");
        for (url, logged_in_at, expected) in [
            (None, here, "http://127.0.0.1:8420 Bearer sgk_local"),
            (None, there, "http://127.0.0.1:8420 Bearer sgk_local"),
            (Some("http://[::1]:1"), "http://[::1]:1", "http://[::1]:1 Bearer sgk_local"),
            (Some(there), there, "https://a.example Bearer sgk_login"),
        ] {
            let login =
                Credential { url: logged_in_at.to_owned(), api_key: "sgk_login".to_owned() };
            let named = DataDir::Named(dir.path());
            let resolved = Endpoint::resolve(url, None, Some(&login), named);
            assert_eq!(authorization(resolved), expected);
        }
    }

    #[test]
    fn no_key_goes_to_a_server_it_was_not_stored_for() {
        let login = Credential { url: "https://a.example".to_owned(), api_key: "k".to_owned() };
        for url in ["https://b.example", "http://a.example", "https://a.example:444"] {
            let resolved = Endpoint::resolve(Some(url), None, Some(&login), DataDir::Usual(None));
            assert!(matches!(resolved, Err(EndpointError::KeyIsLocal { .. })), "{url}");
        }
    }
}
