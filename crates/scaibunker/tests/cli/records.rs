//! The commands that show and end records.

use serde_json::{Value, json};

use crate::{
    fake_controller::FakeController,
    program::{ended, program, run},
};

fn ids(listing: &Value) -> Vec<&str> {
    listing.as_array().unwrap().iter().map(|bunker| bunker["id"].as_str().unwrap()).collect()
}

#[tokio::test]
async fn create_prints_the_id_or_the_record() {
    let controller = FakeController::start().await;
    let ended = run(&controller, &["create", "--image", "busybox", "--name", "n"]).await;
    let id = controller.seen().bunkers.keys().next().unwrap().clone();
    assert_eq!(
        (ended.code, ended.text(), ended.stderr.as_str()),
        (0, format!("{id}\n").as_str(), "")
    );

    let record = run(&controller, &["create", "--json"]).await.json();
    assert_eq!(record, controller.seen().bunkers[record["id"].as_str().unwrap()]);
}

#[tokio::test]
async fn ls_shows_what_lives_and_follows_every_page() {
    let controller = FakeController::start().await;
    let made: Vec<_> = (0..5)
        .map(|n| controller.add_bunker(json!({"label_set": {"n": n.to_string(), "all": ""}})))
        .collect();
    assert_eq!(run(&controller, &["rm", &made[4]]).await.text(), format!("{}\n", made[4]));

    let listing = run(&controller, &["ls", "--json"]).await.json();
    assert_eq!(ids(&listing), [&made[3], &made[2], &made[1], &made[0]]);
    assert_eq!(listing[0], controller.seen().bunkers[&made[3]]);
    assert_eq!(ids(&run(&controller, &["ls", "-a", "--json"]).await.json()).len(), 5);
    let labelled = ["ls", "--label", "n=2", "--label", "all=", "--json"];
    assert_eq!(ids(&run(&controller, &labelled).await.json()), [&made[2]]);
    let quiet = run(&controller, &["ls", "-q", "--label", "n=1"]).await;
    assert_eq!(quiet.text(), format!("{}\n", made[1]));

    let table = run(&controller, &["ls"]).await;
    let lines: Vec<_> = table.text().lines().collect();
    assert_eq!(lines.len(), 5);
    assert!(lines[0].starts_with("ID") && lines[1].starts_with(&made[3]), "{}", table.text());
}

#[tokio::test]
async fn nothing_to_list_is_an_empty_list() {
    let controller = FakeController::start().await;
    assert_eq!(run(&controller, &["ls", "--json"]).await.json(), json!([]));
    assert_eq!(run(&controller, &["ls", "-q"]).await.text(), "");
    assert_eq!(run(&controller, &["rm", "--all"]).await.code, 0);
}

#[tokio::test]
async fn rm_ends_what_it_can_and_tells_what_it_cannot() {
    let controller = FakeController::start().await;
    let named = controller.add_bunker(json!({"name": "web"}));
    let unknown = "bnk_00000000000000000000000000";
    let ended = run(&controller, &["rm", "web", &named, unknown]).await;
    assert_eq!((ended.code, ended.text()), (1, format!("{named}\n").as_str()));
    assert!(ended.stderr.contains("NOT_FOUND"), "{}", ended.stderr);

    for _ in 0..3 {
        controller.add_bunker(json!({}));
    }
    let removed = run(&controller, &["rm", "--all", "--json"]).await.json();
    assert_eq!((ids(&removed).len(), controller.seen().live()), (3, 0));
    assert!(removed.as_array().unwrap().iter().all(|bunker| bunker["status"] == "terminated"));
}

#[tokio::test]
async fn images_and_workers_as_tables_and_as_json() {
    let controller = FakeController::start().await;
    let images = run(&controller, &["images"]).await;
    assert!(images.text().contains("busybox") && images.text().contains("4 MiB"));
    assert_eq!(run(&controller, &["images", "--json"]).await.json()[0]["size_bytes"], 4_194_304);
    let workers = run(&controller, &["workers"]).await;
    assert!(workers.text().contains("fake 1 (tcg)") && workers.text().contains("2 of 2"));
    assert_eq!(run(&controller, &["workers", "--json"]).await.json()[0]["status"], "online");
}

#[tokio::test]
async fn completions_and_help_need_no_server() {
    for shell in ["bash", "zsh", "fish"] {
        let script = ended(&mut program(&["completions", shell])).await;
        assert_eq!(script.code, 0);
        assert!(
            ["scaibunker", "bench", "whoami", "per-bunker-max-cpu"]
                .iter()
                .all(|word| script.text().contains(word))
        );
    }
    let help = ended(&mut program(&["--help"])).await;
    for line in ["124  the command's time was up", "125  failure of anything but the command"] {
        assert!(help.text().contains(line), "{}", help.text());
    }
}
