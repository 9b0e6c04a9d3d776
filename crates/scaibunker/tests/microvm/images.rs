//! Images of a real registry, baked by the real helper, as the roots of real microVMs.

use std::{fs, path::Path, process::Command, time::Duration};

use http::Method;
use serde_json::{Value, json};

use crate::{
    image_layers::{Layer, base, config},
    registry::{PASSWORD, Registry, USER, done, layout},
    server::Server,
};

/// Waits for a condition; the limit only ends a test that has failed.
pub async fn until(what: &str, mut condition: impl AsyncFnMut() -> bool) {
    let waiting = async {
        while !condition().await {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let limit = Duration::from_secs(120);
    assert!(tokio::time::timeout(limit, waiting).await.is_ok(), "not within {limit:?}: {what}");
}

pub fn oci(reference: &str, password: &str) -> Value {
    let auth = json!({ "username": USER, "password": password });
    json!({ "kind": "oci", "ref": reference, "registry_auth": auth })
}

/// Registers an image with small bunkers; its id.
pub async fn add(server: &Server, name: &str, source: Value) -> String {
    let body = json!({
        "name": name, "source": source, "size_mib": 64,
        "default_memory_mb": 256, "default_disk_mb": 64,
    });
    let made = server.call(Method::POST, "/images", Some(body)).await;
    made.data()["id"].as_str().unwrap().to_owned()
}

pub async fn image(server: &Server, id: &str) -> Value {
    server.call(Method::GET, &format!("/images/{id}"), None).await.data().clone()
}

pub async fn rows(server: &Server, id: &str) -> Vec<Value> {
    let rows = server.call(Method::GET, &format!("/images/{id}/cache"), None).await;
    rows.data().as_array().unwrap().clone()
}

pub async fn until_status(server: &Server, id: &str, status: &str) -> Value {
    until(status, async || image(server, id).await["status"] == status).await;
    image(server, id).await
}

/// A running bunker of the image.
pub async fn bunker_of(server: &Server, image: &str) -> String {
    let body = json!({ "image": image });
    let made = server.call(Method::POST, "/bunkers?wait=true", Some(body)).await;
    assert_eq!(made.data()["status"], "running", "{}", made.json);
    made.data()["id"].as_str().unwrap().to_owned()
}

async fn says(server: &Server, bunker: &str, line: &str) -> String {
    let answer = server.exec(bunker, json!({ "command": line })).await;
    answer.data()["stdout"].as_str().unwrap().trim_end().to_owned()
}

/// Nothing half-made is left of a bake.
fn bake_dir_is_empty(server: &Server) -> bool {
    fs::read_dir(server.data_dir().join("worker/images/bake")).unwrap().next().is_none()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_of_a_registry_is_a_bunkers_root_file_by_file() {
    let (server, registry) = (Server::start(), Registry::start());
    let lower = base(&server)
        .await
        .file("srv/gone", b"x", 0o644, (0, 0))
        .dir("srv/old", 0o755)
        .file("srv/old/hidden", b"x", 0o644, (0, 0))
        .file("srv/first", b"shared", 0o640, (1234, 77));
    let upper = Layer::new()
        .file("srv/.wh.gone", b"", 0o644, (0, 0))
        .file("srv/old/.wh..wh..opq", b"", 0o644, (0, 0))
        .hard_link("srv/second", "srv/first")
        .symlink("srv/passwd", "/etc/passwd")
        .file("srv/passwd2/../../../../escaped", b"x", 0o644, (0, 0))
        .file("bin/special", b"#!/bin/sh\n", 0o4755, (0, 77))
        .file("srv/noisy", &vec![7; 300_000], 0o600, (55_555, 66_666))
        .device("srv/null", 1, 3);
    let layout = layout(&[lower.tar(), upper.tar()], config());
    registry.push(layout.path(), "team/app:1");

    let id = add(&server, "app", oci(&registry.reference("team/app:1"), PASSWORD)).await;
    let first = until_status(&server, &id, "ready").await;
    assert!(!first.to_string().contains(PASSWORD));
    let bunker = bunker_of(&server, "app").await;
    assert_eq!(says(&server, &bunker, "id").await, "uid=1234(app) gid=77(team)");
    assert_eq!(says(&server, &bunker, "pwd; echo $COLOUR").await, "/srv\nblue");
    let stat = "stat -c '%n %F %a %u %g %s %Y'";
    let listed =
        says(&server, &bunker, &format!("{stat} first second passwd noisy /bin/special")).await;
    assert_eq!(
        listed.lines().collect::<Vec<_>>(),
        [
            "first regular file 640 1234 77 6 1000000000",
            "second regular file 640 1234 77 6 1000000000",
            "passwd symbolic link 777 0 0 11 1000000000",
            "noisy regular file 600 55555 66666 300000 1000000000",
            "/bin/special regular file 4755 0 77 10 1000000000",
        ]
    );
    let same = says(&server, &bunker, "stat -c '%i %h' first second").await;
    let inodes: Vec<_> = same.lines().collect();
    assert!(inodes[0] == inodes[1] && inodes[0].ends_with(" 2"), "{same}");
    assert_eq!(
        says(&server, &bunker, "stat -c '%F %t %T %a' null").await,
        "character special file 1 3 620"
    );
    let gone = says(
        &server,
        &bunker,
        "readlink passwd; ls -A old; stat gone >/dev/null 2>&1 || echo gone",
    )
    .await;
    assert_eq!(gone, "/etc/passwd\ngone");
    assert!(!Path::new("/escaped").exists(), "an entry left the tree");
    assert!(bake_dir_is_empty(&server));

    // The same content is the same file, baked at another time and under another name.
    let again = add(&server, "again", oci(&registry.reference("team/app:1"), PASSWORD)).await;
    let again = until_status(&server, &again, "ready").await;
    assert_eq!((&again["digest"], &again["size_bytes"]), (&first["digest"], &first["size_bytes"]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_killed_in_the_middle_of_an_image_comes_to_its_end_after_a_restart() {
    let (server, registry) = (Server::start(), Registry::start());
    let noise: Vec<u8> =
        (0..24u32 << 20).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    let lower = base(&server).await.file("srv/noise", &noise, 0o644, (0, 0));
    let layout = layout(&[lower.tar()], config());
    registry.push(layout.path(), "app:1");
    let id = add(&server, "app", oci(&registry.reference("app:1"), PASSWORD)).await;
    until("the work has begun", async || {
        let rows = rows(&server, &id).await;
        rows.iter().any(|row| row["status"] != "pending")
    })
    .await;
    let server = server.crash_and_restart(|| {});
    until_status(&server, &id, "ready").await;
    assert!(bake_dir_is_empty(&server));
    let bunker = bunker_of(&server, &id).await;
    assert_eq!(says(&server, &bunker, "wc -c < /srv/noise").await, noise.len().to_string());
    // What is baked is still there for the next start, too.
    server.delete(&bunker).await.data();
    let server = server.crash_and_restart(|| {});
    let rows = rows(&server, &id).await;
    assert_eq!(rows[0]["status"], "ready", "{rows:?}");
    bunker_of(&server, "app").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_archive_becomes_an_image_by_the_commands() {
    let server = Server::start();
    let dir = tempfile::tempdir().unwrap();
    let layout = layout(&[base(&server).await.tar()], config());
    let archive = dir.path().join("app.tar");
    let mut save = Command::new("skopeo");
    save.args(["copy", "--quiet"])
        .arg(format!("oci:{}", layout.path().display()))
        .arg(format!("docker-archive:{}:app:1", archive.display()));
    done(save);
    let images = |args: &[&str]| {
        let output = server.command().arg("images").args(args).output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(output.status.success(), "{args:?} {}", String::from_utf8_lossy(&output.stderr));
        text
    };
    let sizes = ["--memory", "256M", "--disk", "64M", "--size", "64M"];
    let archive = archive.to_str().unwrap();
    let id = images(&[&["add", "uploaded", archive][..], &sizes].concat());
    let bunker = bunker_of(&server, id.trim()).await;
    assert_eq!(says(&server, &bunker, "id -un").await, "app");
    server.delete(&bunker).await.data();

    let import = server.data_dir().join("import");
    fs::copy(archive, import.join("there.tar")).unwrap();
    images(&[&["add", "imported", "worker:there.tar"][..], &sizes].concat());
    let listed = images(&["ls"]);
    assert!(listed.contains("uploaded") && listed.contains("imported"), "{listed}");
    assert!(images(&["cache", "imported"]).contains("100%"));
    let escape = server.command();
    let mut escape = escape;
    let escaped =
        escape.args(["images", "add", "escaped", "worker:../admin.key"]).output().unwrap();
    assert_eq!(escaped.status.code(), Some(1));
    let error = String::from_utf8_lossy(&escaped.stderr).into_owned();
    assert!(error.contains("import directory") && error.contains("images warm"), "{error}");
    let removed = images(&["rm", "uploaded", "imported", "escaped"]);
    assert_eq!(removed.lines().count(), 3);
    // Nothing of them is stored any more.
    until("the roots are gone", async || {
        fs::read_dir(server.data_dir().join("worker/images/roots")).unwrap().next().is_none()
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_bench_of_images_measures_and_leaves_nothing() {
    let server = Server::start();
    let measured =
        server.command().args(["bench", "images", "--quick", "--json"]).output().unwrap();
    let error = String::from_utf8_lossy(&measured.stderr).into_owned();
    assert!(measured.status.success(), "{error}");
    let report: Value = serde_json::from_slice(&measured.stdout).unwrap();
    let figures = report["figures"].as_array().unwrap();
    assert_eq!(figures.len(), 5, "{report}");
    for figure in figures {
        assert!(figure["values"]["median"].as_f64().unwrap() > 0.0, "{figure}");
    }
    let images = server.call(Method::GET, "/images", None).await;
    assert_eq!(images.data().as_array().unwrap().len(), 1, "{}", images.json);
}
