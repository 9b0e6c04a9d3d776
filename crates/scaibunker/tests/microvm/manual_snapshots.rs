//! The manual's "Snapshots filling up S3", statement by statement.

use http::Method;
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use crate::server::{Server, eventually};

fn time(value: &Value) -> Timestamp {
    value.as_str().unwrap().parse().unwrap()
}

async fn listed(server: &Server) -> Vec<Value> {
    server.call(Method::GET, "/snapshots", None).await.data().as_array().unwrap().clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn snapshots_filling_up_s3() {
    let server = Server::start();
    let id = server.bunker().await;
    server.sh(&id, "echo kept > /kept").await;
    let take = async |body: Value| {
        let path = format!("/bunkers/{id}/snapshot?wait=true");
        let taken = server.call(Method::POST, &path, Some(body)).await.data().clone();
        assert_eq!(taken["status"], "ready", "{taken}");
        taken
    };
    // "Manual snapshots without expires_at are kept indefinitely".
    let manual = take(json!({ "name": "manual" })).await;
    assert_eq!(manual["expires_at"], Value::Null);
    let soon = Timestamp::now().checked_add(SignedDuration::from_secs(3)).unwrap();
    let expiring = take(json!({ "name": "expiring", "expires_at": soon.to_string() })).await;
    // "Snapshots default to a 7-day retention (DEFAULT_SNAPSHOT_RETENTION_DAYS)": what nobody gave a time.
    server.call(Method::DELETE, &format!("/bunkers/{id}?snapshot=true"), None).await.data();
    let automatic = listed(&server).await.into_iter().find(|one| one["name"].is_null()).unwrap();
    let kept = time(&automatic["expires_at"]).duration_since(time(&automatic["created_at"]));
    assert!((7 * 24 * 3600 - kept.as_secs()).abs() < 60, "{automatic}");

    // "The cleanup background task runs every 5 minutes", and when a server starts. "Anything older than the
    // retention with expires_at set will be deleted automatically."
    assert!(listed(&server).await.iter().any(|one| one["id"] == expiring["id"]));
    eventually("its time has come", async || Timestamp::now() > soon).await;
    let server = server.crash_and_restart(|| {});
    eventually("it is gone", async || {
        !listed(&server).await.iter().any(|one| one["id"] == expiring["id"])
    })
    .await;
    let left: Vec<_> = listed(&server).await.into_iter().map(|one| one["id"].clone()).collect();
    assert_eq!(left.len(), 2, "{left:?}");
    assert!(left.contains(&manual["id"]) && left.contains(&automatic["id"]));

    // Another retention is another number of days.
    let other = Server::start_with(&[("DEFAULT_SNAPSHOT_RETENTION_DAYS", "1")]);
    let id = other.bunker().await;
    other.call(Method::DELETE, &format!("/bunkers/{id}?snapshot=true"), None).await.data();
    let automatic = listed(&other).await.pop().unwrap();
    let kept = time(&automatic["expires_at"]).duration_since(time(&automatic["created_at"]));
    assert!((24 * 3600 - kept.as_secs()).abs() < 60, "{automatic}");
}
