//! Tokens of a real OpenID Connect issuer: found users, made users, keys that change.

use std::{path::Path, process::Stdio};

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt as _, Full};
use hyper_util::{client::legacy::Client, rt::TokioExecutor};
use scaibunker_controller::OidcConfig;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    process::{Child, Command},
};

use crate::{
    client::{Api, eventually},
    people::{make, person, tenant},
    server::{Server, config},
};

const AUDIENCE: &str = "urn:scaibunker";

struct Issuer {
    process: Child,
    url: String,
}

impl Issuer {
    async fn start(port: u16, kid: &str, alg: &str) -> Self {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let installed = root.join("../../target/tools/oidc");
        assert!(
            installed.join("node_modules/oidc-provider").exists(),
            "the issuer is not installed; scripts/test installs it"
        );
        let mut process = Command::new("node")
            .arg(root.join("tests/oidc/issuer.mjs"))
            .arg(installed)
            .args([&port.to_string(), kid, alg])
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(process.stdout.take().unwrap()).lines();
        let url = loop {
            let line = lines.next_line().await.unwrap().expect("the issuer ended");
            if line.starts_with("http://") {
                break line;
            }
        };
        Self { process, url }
    }

    fn port(&self) -> u16 {
        self.url.rsplit_once(':').unwrap().1.parse().unwrap()
    }

    async fn stop(mut self) {
        self.process.kill().await.unwrap();
    }

    /// An access token whose subject is the client's name.
    async fn token(&self, client: &str, audience: &str) -> String {
        let http: Client<_, Full<Bytes>> = Client::builder(TokioExecutor::new()).build_http();
        let body = format!(
            "grant_type=client_credentials&client_id={client}&client_secret={client}-secret\
             &resource={audience}"
        );
        let request = Request::post(format!("{}/token", self.url))
            .header("content-type", "application/x-www-form-urlencoded")
            .body(Full::from(body))
            .unwrap();
        let answer = http.request(request).await.unwrap().into_body().collect().await.unwrap();
        let json: Value = serde_json::from_slice(&answer.to_bytes()).unwrap();
        json["access_token"].as_str().unwrap_or_else(|| panic!("{json}")).to_owned()
    }
}

fn trusting(
    dir: &Path,
    issuer: &str,
    provision: Option<&str>,
) -> scaibunker_controller::ControllerConfig {
    let mut config = config(dir);
    // A token is tried until the issuer's new key is known.
    config.rate_limits.strangers = None;
    config.oidc = Some(OidcConfig {
        issuer_url: issuer.to_owned(),
        audience: AUDIENCE.to_owned(),
        auto_provision_tenant: provision.map(|id| id.parse().unwrap()),
        ca_file: None,
    });
    config
}

async fn me(api: &Api, token: &str) -> crate::client::Answer {
    api.with_key(token).get("//v1/iam/me").await
}

#[tokio::test]
async fn a_token_stands_for_the_user_with_its_subject() {
    let issuer = Issuer::start(0, "k1", "RS256").await;
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start_with(trusting(dir.path(), &issuer.url, None)).await;
    let tenant = tenant(&server.api, "t").await;
    let token = issuer.token("known", AUDIENCE).await;
    let unknown = me(&server.api, &token).await;
    assert_eq!(unknown.error(), (401, "UNAUTHORIZED"));
    assert!(unknown.json["error"]["message"].as_str().unwrap().contains("oidc_subject"));

    let body = json!({ "name": "u", "tenant_id": tenant, "oidc_subject": "known" });
    let user = make(&server.api, "//v1/iam/users", &body).await;
    let known = me(&server.api, &token).await;
    assert_eq!(
        (&known.data()["user"]["id"], &known.data()["api_key_id"]),
        (&json!(user), &Value::Null)
    );
    let other = issuer.token("known", "urn:other").await;
    let refused = me(&server.api, &other).await;
    assert!(
        refused.json["error"]["message"].as_str().unwrap().contains("another service"),
        "{}",
        refused.json
    );
    let cut = &token[..token.len() - 10];
    assert_eq!(me(&server.api, cut).await.error(), (401, "UNAUTHORIZED"));
    let suspended = json!({ "status": "suspended" });
    server.api.patch(&format!("//v1/iam/users/{user}"), &suspended).await.data();
    assert_eq!(me(&server.api, &token).await.status, 401);
    server.stop().await;
    issuer.stop().await;
}

#[tokio::test]
async fn keys_change_and_stay_while_the_issuer_is_down() {
    let issuer = Issuer::start(0, "k1", "RS256").await;
    let (url, port) = (issuer.url.clone(), issuer.port());
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start_with(trusting(dir.path(), &url, None)).await;
    let tenant = tenant(&server.api, "t").await;
    let body = json!({ "name": "u", "tenant_id": tenant, "oidc_subject": "known" });
    make(&server.api, "//v1/iam/users", &body).await;
    let (first, spare) =
        (issuer.token("known", AUDIENCE).await, issuer.token("known", AUDIENCE).await);
    assert_eq!(me(&server.api, &first).await.status, 200);
    issuer.stop().await;
    // Not remembered: it has to be verified, with keys that nobody can be asked for.
    assert_eq!(me(&server.api, &spare).await.status, 200);

    let issuer = Issuer::start(port, "k2", "ES256").await;
    let second = issuer.token("known", AUDIENCE).await;
    assert!(eventually(async || me(&server.api, &second).await.status == 200).await);
    let old = async || me(&server.api, &first).await.status == 401;
    assert!(eventually(old).await, "a key that the issuer dropped is worth nothing");
    server.stop().await;
    issuer.stop().await;
}

#[tokio::test]
async fn users_are_made_where_the_operator_wants_it() {
    let issuer = Issuer::start(0, "k1", "PS256").await;
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path()).await;
    let home = tenant(&server.api, "newcomers").await;
    server.stop().await;
    let server = Server::start_with(trusting(dir.path(), &issuer.url, Some(&home))).await;
    let tokens =
        [issuer.token("newcomer", AUDIENCE).await, issuer.token("newcomer", AUDIENCE).await];
    let (first, second) = tokio::join!(me(&server.api, &tokens[0]), me(&server.api, &tokens[1]));
    let user = &first.data()["user"];
    assert_eq!((&user["tenant_id"], &user["role"]), (&json!(home), &json!("tenant_user")));
    assert_eq!(
        (&user["email"], &user["oidc_subject"]),
        (&json!("newcomer@a.example"), &json!("newcomer"))
    );
    assert_eq!(first.data()["permissions"], json!([]));
    assert_eq!(second.data()["user"]["id"], user["id"], "one subject is one user");
    let admin = person(&server.api, &home, "tenant_admin", &[]).await;
    let path = format!("//v1/users/{}/module-permissions", user["id"].as_str().unwrap());
    let granted = json!({ "module_permissions": ["scaibunker:create"] });
    let answer = admin.api.call(http::Method::PUT, &path, &[], granted.to_string()).await;
    assert_eq!(answer.status, 200);
    assert_eq!(
        me(&server.api, &tokens[0]).await.data()["permissions"],
        json!(["scaibunker:create"])
    );
    server.stop().await;
    issuer.stop().await;
}

#[tokio::test]
async fn an_issuer_that_was_never_there_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    let server = Server::start_with(trusting(dir.path(), &url, None)).await;
    let token = "eyJhbGciOiJFUzI1NiIsImtpZCI6ImEifQ.e30.AAAA";
    let answer = me(&server.api, token).await;
    assert_eq!(answer.error(), (503, "NOT_READY"));
    assert_eq!(server.api.get("//v1/iam/me").await.status, 200, "API keys need no issuer");
    server.stop().await;
}
