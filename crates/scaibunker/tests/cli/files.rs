//! `files`: looking at files and changing them.

use serde_json::json;

use crate::{
    fake_controller::FakeController,
    fake_files::Node,
    program::{Ended, run},
};

async fn setup() -> FakeController {
    let controller = FakeController::start().await;
    controller.add_bunker(json!({"name": "b"}));
    controller
}

async fn files(controller: &FakeController, args: &[&str]) -> Ended {
    run(controller, &[&["files"], args].concat()).await
}

#[tokio::test]
async fn directories_are_listed() {
    let controller = setup().await;
    let table = files(&controller, &["ls", "b:/home"]).await;
    assert_eq!(table.text().lines().count(), 5, "{}", table.text());
    assert!(table.text().contains("/home/link -> tool"), "{}", table.text());
    let quiet = files(&controller, &["ls", "-q", "b:/home/sub"]).await;
    assert_eq!(quiet.text(), "/home/sub/deep\n");
    let json = files(&controller, &["ls", "--json", "b:/home/sub"]).await.json();
    assert_eq!(json[0]["mode"], "0640");
    assert_eq!(files(&controller, &["ls", "b:/home/tool"]).await.code, 1);
}

#[tokio::test]
async fn one_entry_is_shown() {
    let controller = setup().await;
    let json = files(&controller, &["stat", "--json", "b:/home/link"]).await.json();
    assert_eq!((&json["type"], &json["symlink_target"]), (&json!("symlink"), &json!("tool")));
    let none = files(&controller, &["stat", "b:/none"]).await;
    assert!(none.code == 1 && none.stderr.contains("FILE_NOT_FOUND"), "{none:?}");
}

#[tokio::test]
async fn files_are_made_moved_and_removed() {
    let controller = setup().await;
    assert_eq!(files(&controller, &["mkdir", "b:/a/b"]).await.code, 0);
    assert_eq!(controller.seen().files["/a/b"], Node::Directory);
    assert_eq!(files(&controller, &["mv", "b:/home/tool", "/a/tool"]).await.code, 0);
    assert!(controller.seen().files.contains_key("/a/tool"));
    let exists = files(&controller, &["mv", "b:/home/cut", "/a/tool"]).await;
    assert!(exists.stderr.contains("FILE_EXISTS"), "{}", exists.stderr);
    assert_eq!(files(&controller, &["mv", "-f", "b:/home/cut", "/a/tool"]).await.code, 0);
    assert_eq!(files(&controller, &["rm", "b:/home"]).await.code, 1);
    assert_eq!(files(&controller, &["rm", "-r", "b:/home"]).await.code, 0);
    assert!(!controller.seen().files.keys().any(|path| path.starts_with("/home")));
}

#[tokio::test]
async fn local_paths_are_wrong_usage() {
    let controller = setup().await;
    for args in [&["ls", "/home"][..], &["ls", "b:home"], &["rm", "-"]] {
        assert_eq!(files(&controller, args).await.code, 2, "{args:?}");
    }
}
