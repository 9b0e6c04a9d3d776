//! The command line against a real server.

use crate::server::Server;

#[tokio::test(flavor = "multi_thread")]
async fn run_passes_output_and_exit_code_on_and_leaves_nothing() {
    let server = Server::start();
    let line = "echo out; echo err >&2; exit 3";
    let output = server
        .command()
        .args(["run", "--image", "busybox", "--", "sh", "-c", line])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(3), "{output:?}");
    assert_eq!(output.stdout, b"out\n");
    assert!(String::from_utf8_lossy(&output.stderr).contains("err"), "{output:?}");

    let listed = server.command().args(["ls", "--json"]).output().unwrap();
    let bunkers: serde_json::Value = serde_json::from_slice(&listed.stdout).unwrap();
    assert_eq!(bunkers, serde_json::json!([]));
}
