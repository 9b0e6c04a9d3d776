//! The served OpenAPI document, held against what the server really answers: requests are made from
//! the document, sensible and senseless ones, and no answer may be one that it does not describe.

use std::{path::Path, process::Stdio};

use tokio::process::Command;

use crate::server::Server;

/// Made by `scripts/test`.
const PROGRAM: &str = "../../target/tools/python/bin/schemathesis";

/// What is left out, and why.
const LEFT_OUT: &[(&str, &str)] = &[
    ("open_shell", "is a WebSocket"),
    ("link_worker", "is another protocol after its upgrade"),
    ("stream_exec", "follows a command that may run for ever"),
    ("watch_files", "ends with the process"),
    ("register_worker", "would take the simulated worker's place"),
    ("beat_worker", "would make the simulated worker lose its bunkers"),
    ("get_object", "takes the worker token"),
    ("put_object", "takes the worker token"),
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_answer_is_one_that_the_document_describes() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path()).await;
    let _worker = server.worker().await;
    let id = server.api.running_bunker().await;
    std::fs::write(dir.path().join("schemathesis.toml"), settings(&id)).unwrap();
    // An end comes last: the bunker is what all others are tried on.
    let mut others = vec!["--exclude-operation-id", "delete_bunker"];
    others.extend(LEFT_OUT.iter().flat_map(|(name, _)| ["--exclude-operation-id", name]));
    run(&server, dir.path(), &others).await;
    run(&server, dir.path(), &["--include-operation-id", "delete_bunker"]).await;
    // Refusals alone would prove little.
    for operation in ["create_bunker", "update_bunker", "run_exec", "write_file", "delete_bunker"] {
        let done = format!("//v1/audit-log?status=ok&action={operation}&limit=1");
        let done = server.api.get(&done).await;
        assert!(!done.data().as_array().unwrap().is_empty(), "no {operation} was done");
    }
    server.stop().await;
}

async fn run(server: &Server, dir: &Path, operations: &[&str]) {
    let program = Path::new(env!("CARGO_MANIFEST_DIR")).join(PROGRAM);
    assert!(program.exists(), "schemathesis is missing: run `scripts/test` once");
    let run = Command::new(program)
        .args(["run", &format!("{}/openapi.json", server.base)])
        .args(["--header", &format!("Authorization: Bearer {}", server.api.key)])
        .args(["--phases", "examples,coverage,fuzzing"])
        .args(["--max-examples", "10", "--seed", "20261125", "--request-timeout", "20"])
        .args(["--checks", CHECKS, "--suppress-health-check", "all", "--warnings", "off"])
        .args(["--continue-on-failure", "--no-color"])
        .args(operations)
        .current_dir(dir)
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    let run = run.await.unwrap();
    let said = String::from_utf8_lossy(&run.stdout);
    assert!(run.status.success(), "{said}\n{}", String::from_utf8_lossy(&run.stderr));
}

const CHECKS: &str = "not_a_server_error,status_code_conformance,content_type_conformance,\
     response_headers_conformance,response_schema_conformance";

/// Operations on a bunker get one that runs; a create may find no room for what it asks.
fn settings(bunker: &str) -> String {
    format!(
        "[[operations]]\n\
         include-path-regex = '/bunkers/\\{{id\\}}'\n\
         parameters = {{ \"path.id\" = \"{bunker}\" }}\n\
         [[operations]]\n\
         include-operation-id = [\"create_bunker\"]\n\
         [operations.checks.not_a_server_error]\n\
         expected-statuses = [\"2xx\", \"4xx\", 503]\n"
    )
}
