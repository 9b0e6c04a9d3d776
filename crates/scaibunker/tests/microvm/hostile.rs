//! Programs that mean harm: the host, the neighbours and the agent go on.

use serde_json::json;

use crate::server::Server;

/// The bunker and its neighbour still answer.
async fn both_answer(server: &Server, id: &str, neighbour: &str, after: &str) {
    for bunker in [id, neighbour] {
        let answer = server.exec(bunker, json!({ "command": ["echo", "alive"] })).await;
        assert_eq!(answer.data()["stdout"], "alive\n", "after {after}: {}", answer.json);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bunker_harms_only_itself() {
    let server = Server::start();
    let (id, neighbour) = (server.bunker().await, server.bunker().await);

    let eater = "for i in 1 2 3; do dd if=/dev/zero of=/dev/null bs=120M count=9 & done; wait";
    let eaten = server.sh(&id, eater).await;
    assert_eq!(eaten["oom_killed"], true, "{eaten}");
    both_answer(&server, &id, &neighbour, "eating all memory").await;

    let filled = server.sh(&id, "dd if=/dev/zero of=/big bs=1M; rm /big").await;
    assert!(filled["stderr"].as_str().unwrap().contains("No space left"), "{filled}");
    both_answer(&server, &id, &neighbour, "filling the disk").await;

    let bomb = json!({ "command": "b() { b | b & }; b; sleep 3", "user": "root", "timeout_s": 10 });
    server.exec(&id, bomb).await;
    both_answer(&server, &id, &neighbour, "a fork bomb").await;

    let body = json!({ "command": "exec 0<&- 1>&- 2>&-; sleep 1; kill -9 -1", "user": "root" });
    server.exec(&id, body).await;
    both_answer(&server, &id, &neighbour, "closing descriptors and killing everything").await;
}
