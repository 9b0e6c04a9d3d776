//! Who asks a registry: nobody, a user with a password, or a bearer of the token that the registry's
//! token server gives for one of these.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use http::{HeaderMap, HeaderValue, Uri, header};
use scaibunker_api::image::RegistryAuth;
use serde::Deserialize;
use tokio::sync::Mutex;

use super::{
    OciError,
    reference::Reference,
    transport::{Get, Transport, whole},
};

const MAX_TOKEN_BYTES: usize = 64 * 1024;

/// The credential for one pull; renewed when the registry no longer takes it.
#[derive(Debug)]
pub struct Credential<'a> {
    auth: Option<&'a RegistryAuth>,
    current: Mutex<Option<HeaderValue>>,
}

/// What a registry wants, from its `WWW-Authenticate` header.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Challenge {
    Basic,
    Bearer { realm: String, service: Option<String> },
}

#[derive(Deserialize)]
struct Token {
    token: Option<String>,
    access_token: Option<String>,
}

impl<'a> Credential<'a> {
    pub fn new(auth: Option<&'a RegistryAuth>) -> Self {
        Self { auth, current: Mutex::new(None) }
    }

    /// Whether the pull has no user.
    pub fn is_anonymous(&self) -> bool {
        self.auth.is_none()
    }

    /// The header to send now.
    pub async fn header(&self) -> Option<HeaderValue> {
        self.current.lock().await.clone()
    }

    /// Answers a 401 to a request with the header `refused`: gets what the registry asks for. An
    /// error if that is what was refused.
    pub async fn renew(
        &self,
        transport: &Transport,
        reference: &Reference,
        answer: &HeaderMap,
        refused: Option<&HeaderValue>,
    ) -> Result<(), OciError> {
        let mut current = self.current.lock().await;
        if current.as_ref() != refused {
            // Another layer's request got a newer one meanwhile.
            return Ok(());
        }
        let denied = |reason: &str| OciError::Auth {
            registry: reference.registry.clone(),
            reason: reason.to_owned(),
        };
        let challenge = challenge(answer)
            .ok_or_else(|| denied("asks for credentials in a way that is not known"))?;
        let header = match (challenge, self.auth) {
            (Challenge::Basic, None) => {
                return Err(denied("wants a user and a password; set the image's registry_auth"));
            }
            (Challenge::Basic, Some(_)) if refused.is_some() => {
                return Err(denied(
                    "does not accept the user or the password; correct the image's registry_auth",
                ));
            }
            (Challenge::Basic, Some(auth)) => basic(auth),
            (Challenge::Bearer { realm, service }, auth) => {
                bearer(transport, reference, &realm, service.as_deref(), auth).await?
            }
        };
        *current = Some(header.ok_or_else(|| denied("cannot be sent these credentials"))?);
        Ok(())
    }
}

fn basic(auth: &RegistryAuth) -> Option<HeaderValue> {
    let encoded = STANDARD.encode(format!("{}:{}", auth.username, auth.password));
    secret(&format!("Basic {encoded}"))
}

fn secret(text: &str) -> Option<HeaderValue> {
    let mut value = HeaderValue::from_str(text).ok()?;
    value.set_sensitive(true);
    Some(value)
}

/// Asks the token server that the registry names for the right to pull.
async fn bearer(
    transport: &Transport,
    reference: &Reference,
    realm: &str,
    service: Option<&str>,
    auth: Option<&RegistryAuth>,
) -> Result<Option<HeaderValue>, OciError> {
    let denied = |reason: String| OciError::Auth { registry: reference.registry.clone(), reason };
    let uri: Uri = token_url(realm, service, &reference.repository)
        .parse()
        .map_err(|_| denied("names a token server whose address cannot be used".to_owned()))?;
    let password = auth.and_then(basic);
    let is_safe = uri.scheme_str() == Some("https") || is_loopback(&uri);
    if password.is_some() && !is_safe {
        return Err(denied("wants the password sent to a token server without TLS".to_owned()));
    }
    let get = Get {
        uri,
        accept: None,
        authorization: password.as_ref(),
        from: None,
        registry: &reference.registry,
    };
    let answer = transport.get(get).await?;
    match answer.status().as_u16() {
        200 => {}
        401 | 403 if auth.is_some() => {
            return Err(denied(
                "has a token server that does not accept the user or the password; correct the \
                 image's registry_auth"
                    .to_owned(),
            ));
        }
        401 | 403 => {
            return Err(denied(
                "has a token server that gives nothing without a user; set the image's \
                 registry_auth"
                    .to_owned(),
            ));
        }
        status => return Err(denied(format!("has a token server that answered {status}"))),
    }
    let body = whole(answer, MAX_TOKEN_BYTES, &reference.registry).await?;
    let token: Token = serde_json::from_slice(&body)
        .map_err(|_| denied("has a token server whose answer cannot be read".to_owned()))?;
    Ok(token.token.or(token.access_token).and_then(|token| secret(&format!("Bearer {token}"))))
}

fn token_url(realm: &str, service: Option<&str>, repository: &str) -> String {
    let mut query = url::form_urlencoded::Serializer::new(String::new());
    if let Some(service) = service {
        query.append_pair("service", service);
    }
    query.append_pair("scope", &format!("repository:{repository}:pull"));
    let separator = if realm.contains('?') { '&' } else { '?' };
    format!("{realm}{separator}{}", query.finish())
}

fn is_loopback(uri: &Uri) -> bool {
    super::registry::is_loopback_name(uri.host().unwrap_or_default())
}

/// The first challenge that can be answered, `Bearer` before `Basic`.
fn challenge(headers: &HeaderMap) -> Option<Challenge> {
    let texts = || headers.get_all(header::WWW_AUTHENTICATE).iter().filter_map(|v| v.to_str().ok());
    let bearer = texts().find_map(|text| {
        let parameters = strip_scheme(text, "bearer")?;
        Some(Challenge::Bearer {
            realm: parameter(parameters, "realm")?,
            service: parameter(parameters, "service"),
        })
    });
    bearer
        .or_else(|| texts().find_map(|text| strip_scheme(text, "basic")).map(|_| Challenge::Basic))
}

fn strip_scheme<'a>(text: &'a str, scheme: &str) -> Option<&'a str> {
    let (name, rest) = text.trim().split_once(' ').unwrap_or((text.trim(), ""));
    name.eq_ignore_ascii_case(scheme).then_some(rest)
}

/// A parameter `name="value"`. Values of registries hold no escaped quotes.
fn parameter(text: &str, name: &str) -> Option<String> {
    let mut rest = text;
    while let Some((key, after)) = rest.split_once('=') {
        let after = after.trim_start();
        let (value, next) = match after.strip_prefix('"') {
            Some(quoted) => quoted.split_once('"')?,
            None => after.split_once(',').unwrap_or((after, "")),
        };
        if key.trim_matches([' ', ',']).eq_ignore_ascii_case(name) {
            return Some(value.trim().to_owned());
        }
        rest = next;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(texts: &[&str]) -> Option<Challenge> {
        let mut headers = HeaderMap::new();
        for text in texts {
            headers.append(header::WWW_AUTHENTICATE, text.parse().unwrap());
        }
        challenge(&headers)
    }

    #[test]
    fn challenges_are_read() {
        let bearer = |realm: &str, service: Option<&str>| {
            Some(Challenge::Bearer { realm: realm.into(), service: service.map(Into::into) })
        };
        assert_eq!(of(&["Basic realm=\"x\""]), Some(Challenge::Basic));
        let text = "Bearer realm=\"https://a.example/token\",service=\"r\",scope=\"a:b,c\"";
        assert_eq!(of(&[text]), bearer("https://a.example/token", Some("r")));
        assert_eq!(of(&["bearer service=s, realm=https://a"]), bearer("https://a", Some("s")));
        assert_eq!(of(&["Basic realm=x", "Bearer realm=\"y\""]), bearer("y", None));
        for nothing in ["Digest x", "Bearer scope=\"a\"", "Bearer realm=\"a", ""] {
            assert_eq!(of(&[nothing]), None, "{nothing}");
        }
    }
}
