//! The served OpenAPI document, held against what the server really answers: requests are made from
//! the document, sensible and senseless ones, and no answer may be one that it does not describe.

use std::{path::Path, process::Stdio};

use serde_json::json;
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

/// Operations that end what all others are tried on.
const ENDS: &str = "^(delete|revoke)_";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_answer_is_one_that_the_document_describes() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path()).await;
    let _worker = server.worker().await;
    std::fs::write(dir.path().join("schemathesis.toml"), settings(&server).await).unwrap();
    let mut others = vec!["--exclude-operation-id-regex", ENDS];
    others.extend(LEFT_OUT.iter().flat_map(|(name, _)| ["--exclude-operation-id", name]));
    run(&server, dir.path(), &others).await;
    run(&server, dir.path(), &["--include-operation-id-regex", ENDS]).await;
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

/// Operations get objects that exist, and none that the run itself depends on, such as its own
/// user. A create may find no room for what it asks.
async fn settings(server: &Server) -> String {
    let bunker = server.api.running_bunker().await;
    let mut settings = format!(
        "[[operations]]\n\
         include-path-regex = '/bunkers/\\{{id\\}}'\n\
         parameters = {{ \"path.id\" = \"{bunker}\" }}\n\
         [[operations]]\n\
         include-operation-id = [\"create_bunker\", \"fork_bunker\"]\n\
         [operations.checks.not_a_server_error]\n\
         expected-statuses = [\"2xx\", \"4xx\", 503]\n"
    );
    let iam = |kind: &str| format!("//v1/iam/{kind}");
    let partner = server.make(&iam("partners"), &json!({ "name": "spare" })).await;
    let tenant = json!({ "name": "spare", "partner_id": partner });
    let tenant = server.make(&iam("tenants"), &tenant).await;
    let user = json!({ "name": "spare", "tenant_id": tenant });
    let user = server.make(&iam("users"), &user).await;
    let key = json!({ "name": "spare", "user_id": user });
    let key = server.make(&iam("api-keys"), &key).await;
    for (place, id) in [
        ("/iam/partners/", partner),
        ("/iam/tenants/", tenant),
        ("/iam/users/", user.clone()),
        ("/v1/users/", user),
        ("/iam/api-keys/", key),
    ] {
        settings.push_str(&format!(
            "[[operations]]\n\
             include-path-regex = '{place}'\n\
             parameters = {{ \"path.id\" = \"{id}\" }}\n"
        ));
    }
    settings
}
