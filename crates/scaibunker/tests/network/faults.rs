//! What dies, and what is left.

use std::{fs, process::Command};

use http::Method;
use serde_json::json;

use crate::{
    lab::{self, Lab},
    server::eventually,
};

const ALLOWED: &str = "curl -ksS --max-time 5 https://allowed.test/";

fn network() -> serde_json::Value {
    json!({ "network_profile": "allowlisted", "network_allowlist": ["allowed.test"] })
}

/// The pid of the server's gateway.
fn gateway(lab: &Lab) -> Option<String> {
    let children = Command::new("pgrep")
        .args(["--parent", &lab.server.pid().to_string(), "--full", "egress-gateway"])
        .output()
        .unwrap();
    let pid = String::from_utf8(children.stdout).unwrap().trim().to_owned();
    (!pid.is_empty()).then_some(pid)
}

fn signal(name: &str, pid: &str) {
    assert!(Command::new("kill").args([name, pid]).status().unwrap().success());
}

#[test]
fn without_its_gateway_a_bunker_reaches_nothing_and_with_the_next_one_all_is_well() {
    lab::run(&[], async |lab| {
        let id = lab.bunker(network()).await;
        lab.sh(&id, ALLOWED).await.unwrap();
        // One that stands still lets nothing through.
        let first = gateway(&lab).unwrap();
        signal("-STOP", &first);
        lab.internet.seen();
        assert!(lab.sh(&id, ALLOWED).await.is_err());
        assert!(lab.internet.seen().is_empty());
        let is_well = async || lab.sh(&id, ALLOWED).await.is_ok();
        eventually("it is found to be stuck, and another one serves the bunker", is_well).await;
        let second = gateway(&lab).unwrap();
        assert_ne!(second, first);
        signal("-KILL", &second);
        eventually("another gateway serves the same bunker", is_well).await;
        let refused = lab.sh(&id, "curl -ksS --max-time 5 https://other.test/").await;
        assert!(refused.is_err());
    });
}

#[test]
fn a_bunker_of_a_crashed_worker_has_its_network_back() {
    let settings = [("SCAIBUNKER_KEEP_BUNKERS", "true")];
    lab::run(&settings, async |lab| {
        let id = lab.bunker(network()).await;
        lab.sh(&id, ALLOWED).await.unwrap();
        let Lab { server, internet, files, _dir } = lab;
        let server = server.crash_and_restart(|| {});
        let lab = Lab { server, internet, files, _dir };
        eventually("it reaches what it may", async || {
            let answer = lab.server.exec(&id, json!({ "command": ALLOWED })).await;
            answer.status.is_success() && answer.data()["exit_code"] == 0
        })
        .await;
        lab.internet.seen();
        let attempt = [("another name", "http('151.101.1.1', 'other.test')")];
        lab.none_gets_out(&id, &attempt, &["allowed.test"]).await;
        lab.server.delete(&id).await.data();
    });
}

/// Namespaces of networks that processes are in, or hold open. Those that only sockets hold do not
/// show, but neither do they last.
fn held_namespaces() -> usize {
    let mut held = std::collections::BTreeSet::new();
    for process in fs::read_dir("/proc").unwrap().flatten() {
        let fds = fs::read_dir(process.path().join("fd")).into_iter().flatten().flatten();
        let links = fds.map(|fd| fd.path()).chain([process.path().join("ns/net")]);
        for link in links {
            if let Ok(target) = fs::read_link(link)
                && target.to_string_lossy().starts_with("net:[")
            {
                held.insert(target);
            }
        }
    }
    held.len()
}

#[test]
fn bunkers_with_networks_leave_nothing() {
    lab::run(&[], async |lab| {
        let rounds = std::env::var("SCAIBUNKER_NETWORK_ROUNDS");
        let rounds: usize = rounds.map_or(20, |rounds| rounds.parse().unwrap());
        // The pool has been filled with what follows.
        let first = lab.bunker(network()).await;
        lab.server.delete(&first).await.data();
        let settled = async || {
            let dirs = || lab.server.vm_dirs().len();
            eventually("the pool is full", async || dirs() == 2).await;
        };
        settled().await;
        let (before, devices) = (held_namespaces(), devices());
        for _ in 0..rounds {
            let id = lab.bunker(network()).await;
            lab.server.delete(&id).await.data();
        }
        settled().await;
        let is_as_before = async || held_namespaces() <= before;
        eventually("as many namespaces are held as before", is_as_before).await;
        assert_eq!(self::devices(), devices);
        let files = lab.server.call(Method::GET, "/workers", None).await;
        assert_eq!(files.data()[0]["bunkers"], 0);
    });
}

/// What this host's network consists of.
fn devices() -> String {
    let line = "ip link | grep -c . ; ip route; ip rule; nft list ruleset; tc qdisc";
    let output = Command::new("sh").args(["-c", line]).output().unwrap();
    String::from_utf8(output.stdout).unwrap()
}
