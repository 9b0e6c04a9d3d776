//! Shells over WebSocket, with Python's `websockets` as the client.

use crate::server::Server;

/// Each of these is a function of `clients/shell.py`, which says what it expects.
async fn scenario(name: &str) {
    let server = Server::start();
    let id = server.bunker().await;
    let said = server.python("shell.py", &[name, &id, &server.pid().to_string()]).await;
    assert!(said.ends_with("ok\n"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_terminal_has_a_size_and_an_exit_code() {
    scenario("size_and_exit").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shell_takes_signals_and_control_characters() {
    scenario("signals").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_comes_back_finds_its_shell() {
    scenario("reconnect").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn many_shells_run_at_once() {
    scenario("many").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_that_stops_stops_the_writer() {
    scenario("stopped_reader").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_browser_sends_its_key_as_subprotocol() {
    scenario("subprotocol").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_shell_command_passes_the_exit_code_on() {
    let server = Server::start();
    let id = server.bunker().await;
    let mut command = server.command();
    command.args(["shell", &id, "--", "sh", "-c", "tty; exit 4"]);
    let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    assert_eq!(output.status.code(), Some(4), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stdout).contains("/dev/pts/"), "{output:?}");
}
