//! The manual's section "Storage proxy 401s", statement by statement: who gets in, and what those
//! who do not are told.

use axum::http::{Method, StatusCode};
use scaibunker_api::storage::CapabilityMethod::{self, Get, Put};
use scaibunker_storage::{Objects, SigningSecret, WorkerToken, router};
use tower::ServiceExt as _;

use crate::stage::{self, SIGNING_SECRET, Stage, TOKEN, request};

const KEY: &str = "images/uploads/ten_1/root.tar";
const PREFIX: &str = "images/uploads/ten_1/";

fn mint(objects: &Objects, methods: &[CapabilityMethod]) -> String {
    objects.mint_capability(PREFIX, methods, 60).unwrap().token
}

/// What the proxy says of a request that it does not let in, all methods alike.
async fn refusal(stage: &Stage, method: Method, key: &str, token: &str) -> String {
    let answer = stage.send(request(method, key, token, "x")).await;
    assert_eq!(answer.status(), StatusCode::UNAUTHORIZED);
    let message = stage::refusal(answer).await.message;
    for secret in [TOKEN, SIGNING_SECRET, token] {
        assert!(!message.contains(secret), "{message}");
    }
    message
}

/// "The proxy verifies a constant SCAIBUNKER_WORKER_TOKEN plus, optionally, capability tokens
/// minted via POST /storage/capabilities."
pub async fn the_proxy_verifies_a_worker_token_and_capability_tokens(stage: Stage) {
    stage.put(KEY, "by a worker").await;
    let token = mint(&stage.objects, &[Put, Get]);
    let put = stage.send(request(Method::PUT, KEY, &token, "by a capability")).await;
    assert_eq!(put.status(), StatusCode::CREATED);
    let head = stage.send(request(Method::HEAD, KEY, &token, "")).await;
    assert_eq!(
        (head.status(), &head.headers()["content-length"]),
        (StatusCode::OK, &"15".parse().unwrap())
    );
    let get = stage.send(request(Method::GET, KEY, &token, "")).await;
    assert_eq!(stage::bytes(get).await, "by a capability");

    for key in ["images/uploads/ten_12/x", "images/uploads/x", "files/images/uploads/ten_1/x"] {
        let said = refusal(&stage, Method::GET, key, &token).await;
        assert!(
            said.contains("capability token check failed: the token is only for keys below"),
            "{said}"
        );
    }
    let said = refusal(&stage, Method::PUT, KEY, &mint(&stage.objects, &[Get])).await;
    assert!(
        said.contains("capability token check failed: the token is not for PUT, only for GET"),
        "{said}"
    );
    let short = stage.objects.mint_capability(PREFIX, &[Get], 1).unwrap().token;
    let expired = tokio::time::timeout(std::time::Duration::from_secs(20), async {
        while stage.send(request(Method::GET, KEY, &short, "")).await.status().is_success() {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
        refusal(&stage, Method::GET, KEY, &short).await
    });
    let said = expired.await.unwrap();
    assert!(said.contains("capability token check failed: the token expired at"), "{said}");
    // A key that leaves the prefix is none, whatever the token says.
    let above = stage.send(request(Method::GET, &format!("{PREFIX}../x"), &token, "")).await;
    assert_eq!(above.status(), StatusCode::NOT_FOUND);
}

/// "Mismatch between the worker's token and the controller's is the most common cause — they have
/// to share the same string."
pub async fn a_mismatch_of_the_worker_token_is_named(stage: Stage) {
    for token in ["another", "", &TOKEN[1..], "v4.public.x"] {
        for method in [Method::GET, Method::PUT] {
            let answer = stage.send(request(method, KEY, token, "x")).await;
            assert_eq!(answer.status(), StatusCode::UNAUTHORIZED);
            let said = stage::refusal(answer).await.message;
            assert!(said.contains("worker token does not match"), "{said}");
            assert!(said.contains("SCAIBUNKER_WORKER_TOKEN must be the same string"), "{said}");
            assert!(said.contains("the capability token check did not apply"), "{said}");
        }
    }
    assert!(stage.kept().await.is_empty());
}

/// "For capability tokens, scaibunker_capability_secret must be set on the proxy as well as the
/// controller."
pub async fn the_capability_secret_must_be_set_on_both(stage: Stage) {
    let said_both =
        "scaibunker_capability_secret must be set on the proxy as well as the controller";
    let token = mint(&stage.objects, &[Get]);
    for (secret, lets_in) in [
        (None, false),
        (Some(SigningSecret::new("another")), false),
        (Some(SigningSecret::new(SIGNING_SECRET)), true),
        (Some(SigningSecret::new("another").accepting(SIGNING_SECRET)), true),
    ] {
        let proxy = router(stage.objects_with(secret), WorkerToken::new(TOKEN));
        let ask = |token: &str| proxy.clone().oneshot(request(Method::GET, KEY, token, ""));
        let answer = ask(&token).await.unwrap();
        // There is no such object; who is let in is told so.
        assert_eq!(answer.status() == StatusCode::NOT_FOUND, lets_in);
        assert_eq!(ask(TOKEN).await.unwrap().status(), StatusCode::NOT_FOUND);
        if !lets_in {
            assert_eq!(answer.status(), StatusCode::UNAUTHORIZED);
            let said = stage::refusal(answer).await.message;
            assert!(
                said.contains("capability token check failed") && said.contains(said_both),
                "{said}"
            );
        }
    }
}
