//! The commands of identity against the controller itself, whose rules the fake does not have.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use scaibunker_controller::{Controller, ControllerConfig, ControllerError, RateLimits};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::{net::TcpListener, process::Command, task::JoinHandle, time::timeout};
use tokio_util::sync::CancellationToken;

use crate::program::{Ended, ended, program};

/// A credential that was taken away stops within 5 s; this leaves room for a busy machine.
const LIMIT: Duration = Duration::from_secs(30);

struct Server {
    dir: TempDir,
    url: String,
    shutdown: CancellationToken,
    serving: JoinHandle<Result<(), ControllerError>>,
}

impl Server {
    async fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let config = ControllerConfig {
            drain_limit: Duration::from_millis(300),
            rate_limits: RateLimits::OFF,
            ..ControllerConfig::new(dir.path().join("data"), "worker-secret".to_owned())
        };
        let controller = Controller::open(config).await.unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let shutdown = CancellationToken::new();
        let serving = tokio::spawn(controller.serve(listener, shutdown.clone()));
        Self { dir, url, shutdown, serving }
    }

    async fn stop(self) {
        self.shutdown.cancel();
        self.serving.await.unwrap().unwrap();
    }

    /// A person who has logged in with this key.
    async fn person(&self, name: &str, key: &str) -> Person {
        let person = Person { home: self.dir.path().join(name) };
        let key_file = person.home.join("key");
        fs::create_dir(&person.home).unwrap();
        fs::write(&key_file, key).unwrap();
        person.done(&["login", "--url", &self.url, "--key-file", text(&key_file)]).await;
        person
    }

    fn admin_key(&self) -> String {
        fs::read_to_string(self.dir.path().join("data/admin.key")).unwrap()
    }
}

struct Person {
    home: PathBuf,
}

impl Person {
    fn command(&self, args: &[&str]) -> Command {
        let mut command = program(args);
        command.env("HOME", &self.home);
        command
    }

    async fn run(&self, args: &[&str]) -> Ended {
        ended(&mut self.command(args)).await
    }

    /// Standard output of a command that has to succeed, without the end of its last line.
    async fn done(&self, args: &[&str]) -> String {
        let ended = self.run(args).await;
        assert_eq!(ended.code, 0, "{args:?}: {}", ended.stderr);
        ended.text().trim_end().to_owned()
    }

    async fn json(&self, args: &[&str]) -> Value {
        serde_json::from_str(&self.done(&[args, &["--json"]].concat()).await).unwrap()
    }

    /// The error of a command that has to fail.
    async fn refused(&self, args: &[&str]) -> String {
        let ended = self.run(args).await;
        assert_eq!((ended.code, ended.text()), (1, ""), "{args:?}");
        assert_eq!(ended.stderr.lines().count(), 1, "{}", ended.stderr);
        ended.stderr
    }

    /// Waits until `whoami` is refused, or accepted.
    async fn until(&self, code: i32) {
        let looking = async { while self.run(&["whoami", "-q"]).await.code != code {} };
        timeout(LIMIT, looking).await.unwrap();
    }
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_from_its_partner_to_its_end() {
    let server = Server::start().await;
    let admin = server.person("admin", &server.admin_key()).await;
    let partner = admin.done(&["partners", "create", "reseller"]).await;
    let tenant = admin.done(&["tenants", "create", "acme", "--partner", "reseller"]).await;
    assert_eq!(admin.json(&["tenants", "show", "acme"]).await["partner_id"], *partner);
    let create = ["users", "create", "ann", "--tenant", "acme", "--role", "tenant_admin"];
    admin.done(&[&create[..], &["--email", "ann@a.example"]].concat()).await;
    let key = admin.done(&["keys", "create", "laptop", "--user", "ann", "--expires", "12h"]).await;

    let ann = server.person("ann", &key).await;
    let me = ann.json(&["whoami"]).await;
    assert_eq!((&me["tenant"]["id"], &me["user"]["name"]), (&json!(tenant), &json!("ann")));
    assert_eq!(ann.done(&["tenants", "ls", "-q"]).await, tenant, "she sees her tenant alone");
    assert!(ann.refused(&["tenants", "create", "mine"]).await.contains("FORBIDDEN"));

    ann.done(&["users", "create", "bob", "--grant", "create"]).await;
    ann.done(&["roles", "create", "runner", "execute", "files"]).await;
    ann.done(&["users", "set", "bob", "--custom-role", "runner", "--email", "b@a.example"]).await;
    let bob = ann.json(&["users", "grant", "b@a.example", "shell"]).await;
    assert_eq!(bob["module_permissions"], json!(["scaibunker:create", "scaibunker:shell"]));
    let bob = ann.json(&["users", "revoke", "bob", "create"]).await;
    assert_eq!(bob["module_permissions"], json!(["scaibunker:shell"]));
    let more = ann.refused(&["users", "grant", "bob", "admin:platform"]).await;
    assert!(more.contains("FORBIDDEN"), "{more}");

    ann.done(&["groups", "create", "all"]).await;
    ann.done(&["groups", "create", "some", "--parent", "all"]).await;
    ann.done(&["groups", "add", "some", "bob", "ann"]).await;
    ann.done(&["groups", "remove", "some", "ann"]).await;
    assert_eq!(ann.json(&["groups", "members", "some"]).await[0]["id"], bob["id"]);
    let circle = ann.run(&["groups", "set", "all", "--parent", "some"]).await;
    assert_eq!(circle.code, 1, "a group is not part of itself");

    let key = ann.done(&["keys", "create", "ci", "--user", "bob"]).await;
    let bob = server.person("bob", &key).await;
    let me = bob.json(&["whoami"]).await;
    assert_eq!(
        me["permissions"],
        json!(["scaibunker:execute", "scaibunker:shell", "scaibunker:files"])
    );
    assert_eq!(me["group_ids"].as_array().unwrap().len(), 2, "nested groups count");
    ann.done(&["keys", "rm", "ci"]).await;
    bob.until(1).await;
    assert!(bob.refused(&["whoami"]).await.contains("UNAUTHORIZED"));
    ann.done(&["keys", "create", "ci", "--user", "bob"]).await;
    ann.done(&["keys", "rm", "ci"]).await;

    admin.done(&["tenants", "set", "acme", "--suspend"]).await;
    ann.until(1).await;
    admin.done(&["tenants", "set", "acme", "--activate", "--name", "acme-2"]).await;
    ann.until(0).await;
    let held = admin.refused(&["tenants", "rm", "acme-2"]).await;
    assert!(held.contains("IN_USE"), "{held}");
    ann.done(&["users", "rm", "bob"]).await;
    ann.done(&["groups", "rm", "some", "all"]).await;
    ann.done(&["roles", "rm", "runner"]).await;
    admin.done(&["users", "rm", "ann"]).await;
    assert_eq!(admin.done(&["tenants", "rm", "acme-2"]).await, tenant);
    assert_eq!(admin.done(&["partners", "rm", "reseller"]).await, partner);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_named_data_directory_is_the_admin_again() {
    let server = Server::start().await;
    let admin = server.person("admin", &server.admin_key()).await;
    admin.done(&["users", "create", "eve"]).await;
    let key = admin.done(&["keys", "create", "k", "--user", "eve"]).await;
    let eve = server.person("eve", &key).await;
    assert_eq!(eve.json(&["whoami"]).await["user"]["name"], "eve");
    let data_dir = server.dir.path().join("data");
    let named = ["whoami", "--url", &server.url, "--data-dir", text(&data_dir)];
    assert_eq!(eve.json(&named).await["user"]["role"], "super_admin");
    eve.done(&["logout"]).await;
    let without = eve.refused(&["whoami", "--url", &server.url]).await;
    assert!(without.contains("scaibunker login"), "{without}");
    server.stop().await;
}
