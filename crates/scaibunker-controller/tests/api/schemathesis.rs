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
    let config = dir.path().join("schemathesis.toml");
    std::fs::write(&config, settings(&id)).unwrap();
    let program = Path::new(env!("CARGO_MANIFEST_DIR")).join(PROGRAM);
    assert!(program.exists(), "schemathesis is missing: run `scripts/test` once");
    let mut command = Command::new(program);
    command
        .arg("--config-file")
        .arg(&config)
        .args(["run", &format!("{}/openapi.json", server.base)])
        .args(["--header", &format!("Authorization: Bearer {}", server.api.key)])
        .args(["--phases", "coverage,fuzzing", "--max-examples", "10", "--seed", "20261125"])
        .args(["--checks", CHECKS, "--suppress-health-check", "all", "--warnings", "off"])
        .args(["--request-timeout", "20", "--continue-on-failure", "--no-color"]);
    for (operation, _) in LEFT_OUT {
        command.args(["--exclude-operation-id", operation]);
    }
    let run = command.current_dir(dir.path()).stdin(Stdio::null()).kill_on_drop(true).output();
    let run = run.await.unwrap();
    let said = String::from_utf8_lossy(&run.stdout);
    assert!(run.status.success(), "{said}\n{}", String::from_utf8_lossy(&run.stderr));
    server.stop().await;
}

const CHECKS: &str = "not_a_server_error,status_code_conformance,content_type_conformance,\
     response_headers_conformance,response_schema_conformance";

/// Operations on a bunker get one that runs, all but its end; a create may find no room.
fn settings(bunker: &str) -> String {
    format!(
        "[[operations]]\n\
         include-path-regex = '/bunkers/\\{{id\\}}/'\n\
         parameters = {{ \"path.id\" = \"{bunker}\" }}\n\
         [[operations]]\n\
         include-operation-id = [\"get_bunker\", \"update_bunker\"]\n\
         parameters = {{ \"path.id\" = \"{bunker}\" }}\n\
         [[operations]]\n\
         include-operation-id = [\"create_bunker\"]\n\
         [operations.checks.not_a_server_error]\n\
         expected-statuses = [\"2xx\", \"4xx\", 503]\n"
    )
}
