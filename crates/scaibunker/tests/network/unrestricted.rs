//! `unrestricted`: the public internet, and what is written down of it.

use http::Method;
use serde_json::{Value, json};

use crate::{
    internet::{ALLOWED, OTHER},
    lab::{self, Lab},
    server::eventually,
};

#[test]
fn the_public_internet_is_reached_and_no_other_and_all_of_it_is_audited() {
    lab::run(&[], async |lab| {
        let id =
            lab.bunker(json!({ "network_profile": "unrestricted", "egress_audit": true })).await;
        let record = lab.server.call(Method::GET, &format!("/bunkers/{id}"), None).await;
        let address = record.data()["ip_address"].as_str().unwrap().to_owned();
        let own = "python3 -c 'import socket; s = socket.socket(type=socket.SOCK_DGRAM); \
                   s.connect((\"151.101.1.1\", 53)); print(s.getsockname()[0])'";
        assert_eq!(lab.sh(&id, own).await, Ok(format!("{address}\n")));
        for (line, expected) in [
            ("curl -ksS https://other.test/", "this is other.test\n"),
            ("curl -ksS https://151.101.1.1/", "this is 151.101.1.1\n"),
            ("curl -sS http://other.test/", "this is other.test\n"),
            (
                "python3 -c 'import socket; print(socket.create_connection((\"151.101.1.1\", 22)).recv(99).decode(), end=\"\")'",
                "hello from outside\n",
            ),
        ] {
            assert_eq!(lab.sh(&id, line).await.as_deref(), Ok(expected), "{line}");
        }
        // QUIC and the like, there and back.
        for script in [
            "assert udp('151.101.1.1', 443, b'x' * 1200) == b'hello from outside\\n'",
            "assert udp('2606:2800::14', 4444, b'x', socket.AF_INET6) == b'hello from outside\\n'",
        ] {
            lab.python(&id, script).await.unwrap();
        }
        let private = [
            ("a private address over UDP", "udp('10.0.0.5', 4444, b'x')"),
            (
                "the metadata service over UDP and IPv6",
                "udp('fd00:ec2::254', 4444, b'x', socket.AF_INET6)",
            ),
            ("a private address", "http('10.0.0.5', 'private.test')"),
            ("a private network", "http('192.168.1.1', 'private.test')"),
            ("shared address space", "http('100.64.0.5', 'cgnat.test')"),
            ("the metadata service", "http('169.254.169.254', 'metadata.test')"),
            ("the metadata service over IPv6", "http('fd00:ec2::254', 'metadata.test')"),
            ("a mapped private address", "http('::ffff:10.0.0.5', 'private.test')"),
            ("an unspecified address", "http('0.0.0.0', 'x', port=8080)"),
            ("the worker", "tcp('8.8.1.2', 22)"),
            ("the gateway's own side", "tcp('10.201.0.1', 22)"),
            ("a name that leads to a private address", "socket.gethostbyname('private.test')"),
        ];
        lab.none_gets_out(&id, &private, &["private.test"]).await;
        let path = format!("/bunkers/{id}/metrics");
        eventually("all of it is counted", async || {
            let metrics = lab.server.call(Method::GET, &path, None).await;
            let used = &metrics.data()["network"];
            let is_counted = used["connections"].as_u64() >= Some(4);
            is_counted && used["refused"].as_u64() >= Some(7) && used["received_bytes"] != 0
        })
        .await;
        is_audited(&lab, &id).await;
    });
}

async fn is_audited(lab: &Lab, id: &str) {
    let opened = |event: &Value| event["event"] == "opened" && event["verdict"] == "allowed";
    eventually("all of it is stored", async || {
        let events = events(lab, id).await;
        let is_last = |event: &Value| event["name"] == "private.test";
        events.iter().filter(|event| event["event"] == "closed").count() >= 4
            && events.iter().any(is_last)
    })
    .await;
    let all = events(lab, id).await;
    assert!(all.iter().any(|event| opened(event)
        && event["address"] == OTHER
        && event["port"] == 443
        && event["protocol"] == "tcp"));
    assert!(all.iter().any(|event| event["event"] == "lookup" && event["name"] == "other.test"));
    let refused = all.iter().find(|event| event["address"] == "169.254.169.254").unwrap();
    assert_eq!(refused["verdict"], "refused", "{refused}");
    assert!(refused["reason"].as_str().unwrap().contains("range"), "{refused}");
    let closed = all.iter().find(|event| event["event"] == "closed").unwrap();
    assert!(closed["received_bytes"].as_u64() > Some(10), "{closed}");
    let times: Vec<_> = all.iter().map(|event| event["at"].as_str().unwrap()).collect();
    assert!(times.is_sorted(), "{times:?}");

    // It is there after the bunker, all of it, for the command line too.
    lab.sh(id, &format!("curl -sS --resolve last.test:80:{ALLOWED} http://last.test/"))
        .await
        .unwrap();
    lab.server.delete(id).await.data();
    eventually("what came last is stored", async || {
        events(lab, id).await.iter().any(|event| event["port"] == 80 && event["address"] == ALLOWED)
    })
    .await;
    let output = lab.server.command().args(["egress", id, "--refused"]).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("169.254.169.254:80"), "{text}");
    let left = std::fs::read_dir(lab.server.data_dir().join("worker/egress-audit")).unwrap();
    assert_eq!(left.count(), 0);
}

/// All pages of the audit.
async fn events(lab: &Lab, id: &str) -> Vec<Value> {
    let (mut events, mut cursor) = (Vec::new(), String::new());
    loop {
        let path = format!("/bunkers/{id}/egress-audit?limit=7{cursor}");
        let page = lab.server.call(Method::GET, &path, None).await;
        events.extend(page.data().as_array().unwrap().clone());
        match page.json["next_cursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => return events,
        }
    }
}

#[test]
fn a_bunker_sends_no_faster_than_its_bandwidth() {
    lab::run(&[], async |lab| {
        let id =
            lab.bunker(json!({ "network_profile": "unrestricted", "bandwidth_mbit": 8 })).await;
        // A megabyte a second.
        let line = "head -c 4000000 /dev/zero > /tmp/z; \
                    curl -sS -o /dev/null -w '%{time_total}' -T /tmp/z http://other.test/z";
        let seconds: f64 = lab.sh(&id, line).await.unwrap().parse().unwrap();
        assert!((3.6..8.0).contains(&seconds), "{seconds}");
    });
}
