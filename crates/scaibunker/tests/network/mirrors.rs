//! `registry`: package mirrors, by what people really use.

use std::{fs, process::Command};

use serde_json::json;

use crate::lab;

#[test]
fn pip_apt_and_git_work_through_the_mirrors_and_nothing_else_does() {
    lab::run(&[("SCAIBUNKER_REGISTRY_HOSTS", "mirror.test")], async |lab| {
        let mirror = lab.files.join("mirror.test");
        let script = include_str!("mirror.sh");
        let made = Command::new("sh").args(["-euc", script]).arg("mirror").arg(&mirror).output();
        let made = made.unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        assert!(fs::metadata(mirror.join("debian/Packages")).is_ok());

        let id = lab.bunker(json!({ "network_profile": "registry" })).await;
        let pip = "python3 -m venv /tmp/v && /tmp/v/bin/pip install --quiet --index-url \
                   http://mirror.test/simple/ --trusted-host mirror.test greeting && \
                   /tmp/v/bin/python -c 'import greeting; print(greeting.TEXT)'";
        let apt = "rm -f /etc/apt/sources.list.d/*; \
                   echo 'deb [trusted=yes] http://mirror.test/debian ./' > /etc/apt/sources.list && \
                   apt-get update -qq && apt-get install -qq -y greeting > /tmp/apt && \
                   cat /usr/share/greeting";
        let git = "git clone -q http://mirror.test/greeting.git /tmp/g && cat /tmp/g/greeting";
        for line in [pip, apt, git] {
            let said = lab.sh(&id, line).await;
            assert_eq!(said.as_deref(), Ok("hello\n"), "{line}\n{}", lab.server.log());
        }
        lab.internet.seen();
        let attempts = [
            ("another host", "http('151.101.1.1', 'other.test')"),
            ("another host over TLS", "tls('151.101.1.1', 'other.test')"),
            ("an address", "tcp('151.101.1.1', 4444)"),
            ("a lookup", "socket.gethostbyname('allowed.test')"),
        ];
        lab.none_gets_out(&id, &attempts, &["mirror.test"]).await;
    });
}
