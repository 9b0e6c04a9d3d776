//! The product manual's page on troubleshooting, what it says about networks, by its headings.

use http::Method;
use serde_json::{Value, json};

use crate::{internet::OTHER, lab, server::eventually};

#[test]
fn bunker_cant_reach_hosts_you_expected() {
    lab::run(&[("SCAIBUNKER_REGISTRY_HOSTS", "mirror.test")], async |lab| {
        let reaches = async |id: &str, host: &str| {
            lab.sh(id, &format!("curl -sSf http://{host}/")).await.is_ok()
        };
        // On isolated, it can't reach anything.
        let isolated = lab.bunker(json!({})).await;
        let devices = lab.sh(&isolated, "ls /sys/class/net").await.unwrap();
        assert_eq!(devices, "lo\n");
        assert!(!reaches(&isolated, OTHER).await);
        // On registry, only the platform's package mirrors.
        let registry = lab.bunker(json!({ "network_profile": "registry" })).await;
        assert!(reaches(&registry, "mirror.test").await);
        assert!(!reaches(&registry, "allowed.test").await);
        // On allowlisted, only what you listed.
        let network = json!({
            "network_profile": "allowlisted",
            "network_allowlist": ["allowed.test", "*.wild.test"],
        });
        let allowlisted = lab.bunker(network).await;
        assert!(reaches(&allowlisted, "allowed.test").await);
        assert!(reaches(&allowlisted, "sub.wild.test").await);
        assert!(!reaches(&allowlisted, "mirror.test").await);
        // Entries are plain host names or *.domain.com; others are rejected at create time.
        for entry in ["https://allowed.test", "allowed.test/path", "*.*.test", "*", "10.0.0.1"] {
            let body = json!({
                "image": "debian-12",
                "network_profile": "allowlisted",
                "network_allowlist": [entry],
            });
            let refused = lab.server.call(Method::POST, "/bunkers", Some(body)).await;
            assert_eq!(refused.error(), (422, "ALLOWLIST_INVALID"), "{entry}");
        }
        // For one-off cases: unrestricted, with the egress audit.
        let network = json!({ "network_profile": "unrestricted", "egress_audit": true });
        let unrestricted = lab.bunker(network).await;
        assert!(reaches(&unrestricted, "other.test").await);
        let path = format!("/bunkers/{unrestricted}/egress-audit");
        eventually("the run is logged", async || {
            let answer = lab.server.call(Method::GET, &path, None).await;
            let events = answer.data().as_array().unwrap().clone();
            let is_it = |event: &Value| event["name"] == "other.test";
            events.iter().any(is_it)
        })
        .await;
    });
}
