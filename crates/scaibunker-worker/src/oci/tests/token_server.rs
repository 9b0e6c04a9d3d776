//! A double of a registry's token server: it gives out what `docker-registry` verifies by the
//! certificate. (Real ones differ in where their users come from.)

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
};

use axum::{
    Json, Router,
    extract::{Query, State},
    http::{HeaderMap, StatusCode, header},
    routing::get,
};
use base64::{
    Engine as _,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use jiff::Timestamp;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::registry::{PASSWORD, USER};

pub struct TokenServer {
    port: u16,
    dir: TempDir,
    issuer: Arc<Issuer>,
}

struct Issuer {
    certificate: Vec<u8>,
    key: rcgen::KeyPair,
    /// So many of the next tokens have expired when they are given.
    expired: AtomicI64,
}

impl TokenServer {
    pub async fn start() -> Self {
        let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
        let certificate = rcgen::CertificateParams::new(vec!["tests".to_owned()]).unwrap();
        let certificate = certificate.self_signed(&key).unwrap();
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("certificate.pem"), certificate.pem()).unwrap();
        let der = certificate.der().to_vec();
        let issuer = Arc::new(Issuer { certificate: der, key, expired: AtomicI64::new(0) });
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let routes = Router::new().route("/token", get(token)).with_state(Arc::clone(&issuer));
        tokio::spawn(async move { axum::serve(listener, routes).await });
        Self { port, dir, issuer }
    }

    pub fn realm(&self) -> String {
        format!("http://127.0.0.1:{}/token", self.port)
    }

    pub fn certificate(&self) -> &Path {
        self.dir.path().join("certificate.pem").leak()
    }

    pub fn give_expired(&self, tokens: i64) {
        self.issuer.expired.store(tokens, Ordering::Relaxed);
    }
}

async fn token(
    State(issuer): State<Arc<Issuer>>,
    Query(query): Query<Vec<(String, String)>>,
    headers: HeaderMap,
) -> Result<Json<Value>, StatusCode> {
    let expected = format!("Basic {}", STANDARD.encode(format!("{USER}:{PASSWORD}")));
    if headers.get(header::AUTHORIZATION).is_none_or(|value| value != expected.as_str()) {
        return Err(StatusCode::UNAUTHORIZED);
    }
    let scopes = query.iter().filter(|(name, _)| name == "scope");
    let access: Vec<_> = scopes.filter_map(|(_, scope)| access(scope)).collect();
    let is_expired = issuer.expired.fetch_sub(1, Ordering::Relaxed) > 0;
    let now = Timestamp::now().as_second() - if is_expired { 3600 } else { 0 };
    let head =
        json!({ "typ": "JWT", "alg": "ES256", "x5c": [STANDARD.encode(&issuer.certificate)] });
    let claims = json!({
        "iss": "tests", "sub": USER, "aud": "test", "exp": now + 300, "nbf": now - 300,
        "iat": now, "jti": now.to_string(), "access": access,
    });
    let encode = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let signed = format!("{}.{}", encode(&head), encode(&claims));
    let signature = issuer.sign(signed.as_bytes());
    Ok(Json(json!({ "token": format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature)) })))
}

impl Issuer {
    fn sign(&self, text: &[u8]) -> Vec<u8> {
        use ring::{rand::SystemRandom, signature};
        let algorithm = &signature::ECDSA_P256_SHA256_FIXED_SIGNING;
        let random = SystemRandom::new();
        let key = self.key.serialize_der();
        let pair = signature::EcdsaKeyPair::from_pkcs8(algorithm, &key, &random).unwrap();
        pair.sign(&random, text).unwrap().as_ref().to_vec()
    }
}

/// `repository:name:pull,push`
fn access(scope: &str) -> Option<Value> {
    let (kind, rest) = scope.split_once(':')?;
    let (name, actions) = rest.rsplit_once(':')?;
    Some(json!({ "type": kind, "name": name, "actions": actions.split(',').collect::<Vec<_>>() }))
}
