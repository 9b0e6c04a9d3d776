//! `login`, `logout` and `whoami`.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Stdio,
};

use rustix::process::Signal;
use tempfile::TempDir;
use tokio::{io::AsyncWriteExt as _, process::Command};

use crate::{
    fake_controller::{FakeController, KEY},
    program::{ended, finish, program, run, send, start},
    pseudo_terminal::PseudoTerminal,
};

/// A person with a home directory and no key in the environment.
struct Person {
    home: TempDir,
}

impl Person {
    fn new() -> Self {
        Self { home: tempfile::tempdir().unwrap() }
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = program(args);
        command.env("HOME", self.home.path());
        command
    }

    fn file(&self) -> PathBuf {
        self.home.path().join(".config/scaibunker/credentials.toml")
    }

    async fn log_in(&self, controller: &FakeController, key: &str) -> crate::program::Ended {
        let file = self.home.path().join("key");
        fs::write(&file, format!("{key}\n")).unwrap();
        let args = ["login", "--url", &controller.url, "--key-file", file.to_str().unwrap()];
        ended(&mut self.command(&args)).await
    }
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[tokio::test]
async fn a_login_is_checked_stored_for_this_user_alone_and_used() {
    let controller = FakeController::start().await;
    let person = Person::new();
    let login = person.log_in(&controller, KEY).await;
    assert_eq!((login.code, login.text()), (0, ""), "{}", login.stderr);
    for part in [controller.url.as_str(), "ada (tenant_admin) of the tenant acme"] {
        assert!(login.stderr.contains(part), "{}", login.stderr);
    }
    assert!(!login.stderr.contains(KEY));
    let file = person.file();
    assert_eq!((mode(&file), mode(file.parent().unwrap())), (0o600, 0o700));

    let listed = ended(&mut person.command(&["ls", "--json"])).await;
    assert_eq!((listed.code, listed.text()), (0, "[]\n"), "{}", listed.stderr);

    let out = ended(&mut person.command(&["logout"])).await;
    assert_eq!((out.code, out.stderr.as_str()), (0, "logged out\n"));
    assert!(!file.exists());
    assert_eq!(ended(&mut person.command(&["logout", "-q"])).await.stderr, "");
}

#[tokio::test]
async fn a_key_that_the_server_refuses_is_not_stored() {
    let controller = FakeController::start().await;
    let person = Person::new();
    assert_eq!(person.log_in(&controller, KEY).await.code, 0);
    let before = fs::read(person.file()).unwrap();
    let refused = person.log_in(&controller, "sgk_wrong").await;
    assert_eq!(refused.code, 1);
    assert!(refused.stderr.contains("UNAUTHORIZED") && !refused.stderr.contains("sgk_wrong"));
    assert_eq!(fs::read(person.file()).unwrap(), before);
}

#[tokio::test]
async fn a_key_may_be_piped_but_nobody_is_asked_without_a_terminal() {
    let controller = FakeController::start().await;
    let person = Person::new();
    let mut command = person.command(&["login", "--key-stdin", "--json", "--url", &controller.url]);
    let mut child = start(command.stdin(Stdio::piped()));
    child.stdin.take().unwrap().write_all(KEY.as_bytes()).await.unwrap();
    let login = finish(child).await;
    assert_eq!((login.code, &login.json()["user"]["name"]), (0, &"ada".into()));

    let nobody = ended(&mut person.command(&["login"])).await;
    assert_eq!(nobody.code, 1);
    assert!(nobody.stderr.contains("--key-stdin or --key-file"), "{}", nobody.stderr);
}

#[tokio::test]
async fn at_a_terminal_the_key_is_asked_for_and_not_shown() {
    let controller = FakeController::start().await;
    let person = Person::new();
    let login = person.command(&["login", "--url", &controller.url]);
    let mut terminal = PseudoTerminal::start(login, 80, 24);
    terminal.shows(&format!("API key for {}: ", controller.url)).await;
    assert!(!terminal.shows_what_is_typed());
    terminal.type_in(format!("{KEY}\n").as_bytes());
    assert_eq!(terminal.code().await, 0, "{}", terminal.text());
    assert!(terminal.shows_what_is_typed());
    assert!(terminal.text().contains("ada") && !terminal.text().contains(KEY));
    assert!(person.file().exists());
}

#[tokio::test]
async fn a_login_that_is_interrupted_leaves_the_terminal_as_it_was() {
    let person = Person::new();
    let mut terminal = PseudoTerminal::start(person.command(&["login"]), 80, 24);
    terminal.shows("API key for http://127.0.0.1:8420: ").await;
    send(&terminal.child, Signal::INT);
    assert_eq!(terminal.code().await, 130, "{}", terminal.text());
    assert!(terminal.shows_what_is_typed());
    assert!(!person.file().exists());
}

#[tokio::test]
async fn the_environment_comes_before_the_login_and_the_login_before_the_local_server() {
    let (here, there) = (FakeController::start().await, FakeController::start().await);
    let person = Person::new();
    let data_dir = person.home.path().join(".local/share/scaibunker");
    fs::create_dir_all(&data_dir).unwrap();
    fs::write(data_dir.join("admin.key"), "sgk_not_for_there").unwrap();
    assert_eq!(person.log_in(&there, KEY).await.code, 0);

    let bunker = there.add_bunker(serde_json::json!({}));
    let by_login = ended(&mut person.command(&["ls", "-q"])).await;
    assert_eq!(by_login.text(), format!("{bunker}\n"), "{}", by_login.stderr);
    let mut by_environment = person.command(&["ls", "-q"]);
    by_environment.env("SCAIBUNKER_URL", &here.url).env("SCAIBUNKER_API_KEY", KEY);
    assert_eq!(ended(&mut by_environment).await.text(), "");
    let data_dir = data_dir.to_str().unwrap();
    let named = ["ls", "-q", "--url", &there.url, "--data-dir", data_dir];
    let refused = ended(&mut person.command(&named)).await;
    assert!(refused.stderr.contains("UNAUTHORIZED"), "--data-dir: {}", refused.stderr);
    let mut usual = person.command(&["ls", "-q"]);
    let by_login = ended(usual.env("SCAIBUNKER_DATA_DIR", data_dir)).await;
    assert_eq!(by_login.text(), format!("{bunker}\n"), "{}", by_login.stderr);
    // Another server gets its own key, not the one that was stored for `there`.
    let local = ended(&mut person.command(&["ls", "-q", "--url", &here.url])).await;
    assert!(local.stderr.contains("UNAUTHORIZED"), "{}", local.stderr);
}

#[tokio::test]
async fn a_login_that_others_can_read_is_not_used() {
    let controller = FakeController::start().await;
    let person = Person::new();
    assert_eq!(person.log_in(&controller, KEY).await.code, 0);
    fs::set_permissions(person.file(), fs::Permissions::from_mode(0o644)).unwrap();
    let refused = ended(&mut person.command(&["ls"])).await;
    assert_eq!(refused.code, 1);
    assert!(refused.stderr.contains("chmod 600"), "{}", refused.stderr);
}

#[tokio::test]
async fn whoami_shows_what_the_key_may_do() {
    let controller = FakeController::start().await;
    let shown = run(&controller, &["whoami"]).await;
    for part in ["ada (usr_", "acme (ten_", "tenant_admin", "scaibunker:create scaibunker:root"] {
        assert!(shown.text().contains(part), "{}", shown.text());
    }
    let me = run(&controller, &["whoami", "--json"]).await.json();
    let quiet = run(&controller, &["whoami", "-q"]).await;
    assert_eq!(quiet.text(), format!("{}\n", me["user"]["id"].as_str().unwrap()));
}
