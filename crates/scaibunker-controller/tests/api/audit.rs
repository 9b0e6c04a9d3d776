//! The audit log: who called what, refused or not.

use http::Method;
use scaibunker_api::ids::BunkerId;
use serde_json::{Value, json};

use crate::{
    client::{Api, eventually},
    server::Server,
};

async fn entries(api: &Api, query: &str) -> Vec<Value> {
    api.get(&format!("//v1/audit-log{query}")).await.data().as_array().unwrap().clone()
}

fn column<'a>(entries: &'a [Value], name: &str) -> Vec<&'a str> {
    entries.iter().map(|entry| entry[name].as_str().unwrap_or("-")).collect()
}

#[tokio::test]
async fn every_call_that_changes_something_is_in_it_refused_ones_too() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path()).await;
    let _worker = server.worker().await;
    let api = &server.api;
    let id = api.running_bunker().await;
    let path = format!("/bunkers/{id}");
    api.get(&path).await.data();
    api.patch(&path, &json!({ "name": 7 })).await.error();
    api.post(&format!("{path}/exec"), &json!({ "command": ["echo"] })).await.data();
    api.with_key("sgk_wrong").delete(&path).await.error();
    api.delete(&format!("/bunkers/{}", BunkerId::generate())).await.error();
    let ended = api.delete(&path).await;

    let found = entries(api, "").await;
    assert_eq!(
        column(&found, "action"),
        [
            "delete_bunker",
            "delete_bunker",
            "delete_bunker",
            "run_exec",
            "update_bunker",
            "create_bunker",
            "register_worker"
        ]
    );
    assert_eq!(
        column(&found, "error"),
        ["-", "NOT_FOUND", "UNAUTHORIZED", "-", "VALIDATION_ERROR", "-", "-"]
    );
    let statuses: Vec<_> = found.iter().map(|entry| entry["status"].as_u64().unwrap()).collect();
    assert_eq!(statuses, [200, 404, 401, 200, 422, 201, 200]);
    assert_eq!(found[0]["resource_id"], id.as_str());
    assert_eq!(found[5]["resource_id"], id.as_str(), "what was made");
    assert_eq!(found[0]["request_id"], ended.json["meta"]["request_id"]);
    assert_eq!(found[0]["ip"], "127.0.0.1");
    assert!(found[0]["actor_id"].as_str().unwrap().starts_with("usr_"));
    assert_eq!(found[2]["actor_id"], Value::Null, "nobody that is known");
    assert_eq!(found[2]["tenant_id"], Value::Null);
    server.stop().await;
}

#[tokio::test]
async fn it_is_filtered_paged_and_outlives_the_process() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path()).await;
    for name in ["a", "b", "c"] {
        let path = format!("/bunkers/bnk_{name}");
        server.api.delete(&path).await.error();
        server.api.patch(&path, &json!({})).await.error();
    }
    server.stop().await;
    let server = Server::start(dir.path()).await;
    let api = &server.api;
    assert_eq!(entries(api, "").await.len(), 6);
    assert_eq!(entries(api, "?action=delete_bunker").await.len(), 3);
    assert_eq!(entries(api, "?resource_id=bnk_b").await.len(), 2);
    assert_eq!(entries(api, "?status=ok").await.len(), 0);
    assert_eq!(entries(api, "?status=refused&action=update_bunker").await.len(), 3);
    assert_eq!(entries(api, "?until=2020-01-01T00:00:00Z").await.len(), 0);
    assert_eq!(entries(api, "?since=2020-01-01T00:00:00Z").await.len(), 6);
    let actor = entries(api, "").await[0]["actor_id"].as_str().unwrap().to_owned();
    assert_eq!(entries(api, &format!("?actor_id={actor}")).await.len(), 6);
    let (mut seen, mut cursor) = (Vec::new(), String::new());
    loop {
        let page = api.get(&format!("//v1/audit-log?limit=4{cursor}")).await;
        seen.extend(page.data().as_array().unwrap().iter().map(|entry| entry["id"].to_string()));
        let Some(next) = page.json["next_cursor"].as_str() else { break };
        cursor = format!("&cursor={next}");
    }
    seen.dedup();
    assert_eq!(seen.len(), 6);
    for wrong in ["?status=none", "?since=yesterday", "?actor=x", "?tenant_id=x"] {
        let answer = api.get(&format!("//v1/audit-log{wrong}")).await;
        assert_eq!(answer.error(), (422, "VALIDATION_ERROR"), "{wrong}");
    }
    server.stop().await;
}

#[tokio::test]
async fn it_is_exported_in_three_forms() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path()).await;
    let api = &server.api;
    // More than one page of the export.
    let calls: Vec<_> = (0..510)
        .map(|number| {
            let api = api.clone();
            tokio::spawn(async move { api.delete(&format!("/bunkers/bnk_{number}")).await })
        })
        .collect();
    for call in calls {
        assert_eq!(call.await.unwrap().error(), (404, "NOT_FOUND"));
    }
    let export = async |query: &str| {
        let path = format!("//v1/audit-log/export{query}");
        let answer = api.raw(Method::GET, &path, &[], "").await;
        assert_eq!(answer.status(), 200);
        assert!(answer.headers()["content-disposition"].to_str().unwrap().contains("audit-log."));
        String::from_utf8(answer.into_body().to_vec()).unwrap()
    };
    let lines = export("").await;
    let parsed: Vec<Value> =
        lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(parsed.len(), 510);
    let array: Value = serde_json::from_str(&export("?format=json").await).unwrap();
    assert_eq!(array.as_array().unwrap(), &parsed);
    let csv = export("?format=csv&resource_id=bnk_7").await;
    let lines: Vec<_> = csv.split("\r\n").collect();
    assert!(lines[0].starts_with("id,at,request_id,"));
    assert!(lines[1].contains(",delete_bunker,bnk_7,127.0.0.1,404,NOT_FOUND"), "{csv}");
    assert_eq!(lines.len(), 3, "{csv}");
    let none: Value = serde_json::from_str(&export("?format=json&action=x").await).unwrap();
    assert_eq!(none, json!([]));
    server.stop().await;
}

#[tokio::test]
async fn a_call_whose_client_went_away_is_in_it() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path()).await;
    let _worker = server.worker().await;
    let api = &server.api;
    let id = api.running_bunker().await;
    let (path, body) = (format!("/bunkers/{id}/exec"), json!({ "command": ["linger"] }));
    let impatient = server.api.clone();
    let call = tokio::spawn(async move { impatient.post(&path, &body).await });
    let execs = format!("/bunkers/{id}/execs");
    let runs = eventually(async || api.get(&execs).await.data().as_array().unwrap().len() == 1);
    assert!(runs.await);
    call.abort();
    let is_noted = eventually(async || {
        let found = entries(api, "?action=run_exec").await;
        found.len() == 1 && found[0]["status"] == 499 && found[0]["resource_id"] == id.as_str()
    });
    assert!(is_noted.await);
    server.stop().await;
}
