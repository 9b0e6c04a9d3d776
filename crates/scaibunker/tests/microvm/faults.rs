//! Crashes at bad moments: what runs is adopted, what does not is ended, nothing is left over.

use std::fs;

use http::Method;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;

use crate::server::{Server, eventually};

fn kill_vmm(server: &Server, bunker: &str) {
    let pid = Pid::from_raw(server.vmm_pid(bunker)).unwrap();
    kill_process(pid, Signal::KILL).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_server_adopts_what_runs_and_ends_what_does_not() {
    let server = Server::start();
    let mut bunkers = Vec::new();
    for _ in 0..4 {
        bunkers.push(server.bunker().await);
    }
    server.sh(&bunkers[0], "echo kept > /root/proof").await;
    let victim = server.vmm_pid(&bunkers[3]);
    let before = server.vm_names();
    // The VMM dies while no server is there to see it.
    let server = server.crash_and_restart(|| {
        kill_process(Pid::from_raw(victim).unwrap(), Signal::KILL).unwrap();
    });
    for id in &bunkers[..3] {
        eventually("an adopted bunker answers", async || {
            server.status(id).await["status"] == "running"
                && server.exec(id, json!({ "command": "true" })).await.status.is_success()
        })
        .await;
    }
    assert_eq!(server.sh(&bunkers[0], "cat /root/proof").await["stdout"], "kept\n");
    eventually("the dead one is ended with its reason", async || {
        let record = server.status(&bunkers[3]).await;
        record["status"] == "failed" && !record["status_reason"].as_str().unwrap().is_empty()
    })
    .await;
    for id in &bunkers {
        server.delete(id).await;
    }
    // What the first server had in its pool is nobody's.
    eventually("nothing of the first server is left", async || {
        server.traces(&before).is_empty() && server.vm_names().is_disjoint(&before)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bunker_that_dies_ends_its_command_at_once() {
    let server = Server::start();
    let id = server.bunker().await;
    let (answer, ()) = tokio::join!(
        server.exec(&id, json!({ "command": "echo started > /tmp/s; sleep 50" })),
        async {
            eventually("the command runs", async || {
                server.sh(&id, "cat /tmp/s").await["stdout"] == "started\n"
            })
            .await;
            kill_vmm(&server, &id);
        }
    );
    assert_eq!(answer.error(), (502, "BUNKER_LOST"), "{}", answer.json);
    eventually("the record says why", async || {
        let record = server.status(&id).await;
        record["status"] == "failed"
            && record["status_reason"].as_str().is_some_and(|reason| reason.contains("signal 9"))
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopped_server_leaves_nothing_or_all() {
    let server = Server::start();
    server.bunker().await;
    let names = server.vm_names();
    let url = server.url.clone();
    let dir = server.stop();
    assert_eq!(fs::read_dir(dir.path().join("worker/vms")).unwrap().count(), 0, "{url}");

    let server = Server::start_keeping();
    assert!(server.traces(&names).is_empty(), "{:?}", server.traces(&names));
    let id = server.bunker().await;
    let dir = server.stop();
    let server = Server::start_in(dir);
    eventually("what was left running answers again", async || {
        server.exec(&id, json!({ "command": "true" })).await.status.is_success()
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn many_lives_leave_the_server_as_it_was() {
    const LIVES: usize = 25;
    let server = Server::start();
    let open = || fs::read_dir(format!("/proc/{}/fd", server.pid())).unwrap().count();
    let life = async || {
        let id = server.bunker().await;
        server.exec(&id, json!({ "command": ["true"] })).await.data();
        server.delete(&id).await.data();
    };
    let settled = async || {
        eventually("the pool is full again", async || {
            // One ready VM of the image's own shape, one of the shape that `bunker` asks for.
            server.vm_dirs().len() == 2
        })
        .await;
    };
    // The first lives also fill the pool of the shape that they ask for.
    for _ in 0..2 {
        life().await;
    }
    settled().await;
    let before = open();
    for _ in 0..LIVES {
        life().await;
    }
    settled().await;
    eventually("descriptors are back where they were", async || open() <= before + 2).await;
    let listed = server.call(Method::GET, "/bunkers?status=running", None).await;
    assert_eq!(listed.json["data"], json!([]));
}
