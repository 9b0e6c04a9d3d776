//! Images that cannot be had, each for a reason that its row names, and had again after a warm.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use http::Method;
use serde_json::{Value, json};
use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
    sync::watch,
};

use crate::{
    image_layers::{Layer, base, config},
    images::{add, bunker_of, oci, rows, until, until_status},
    registry::{PASSWORD, Registry, done, layout},
    server::Server,
};

/// The only row's error, once it has failed.
async fn failed_row(server: &Server, id: &str) -> String {
    until("the row has failed", async || rows(server, id).await[0]["status"] == "failed").await;
    let row = rows(server, id).await.remove(0);
    row["error"].as_str().unwrap().to_owned()
}

/// Warms the image and makes a bunker of it.
async fn heals(server: &Server, id: &str) {
    server.call(Method::POST, &format!("/images/{id}/warm"), None).await.data();
    until_status(server, id, "ready").await;
    let bunker = bunker_of(server, id).await;
    server.delete(&bunker).await.data();
}

/// Bytes that do not compress.
fn noise(bytes: u32) -> Vec<u8> {
    let mut state = 0x9e37_79b9_u32;
    let next = || {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        state
    };
    std::iter::repeat_with(next).take(bytes as usize / 4).flat_map(u32::to_le_bytes).collect()
}

/// A network between worker and registry: a double of a slow one, which carries so many bytes from
/// the registry and then nothing, until it is let go; or nothing at all.
struct Network {
    port: u16,
    carries: watch::Sender<Carries>,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Carries {
    /// Of each connection, before it stands still.
    Bytes(u64),
    Everything,
    Nothing,
}

impl Network {
    async fn to(registry: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (carries, watched) = watch::channel(Carries::Everything);
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(carry(client, registry, watched.clone()));
            }
        });
        Self { port, carries }
    }
}

async fn carry(mut client: TcpStream, registry: u16, mut carries: watch::Receiver<Carries>) {
    let Ok(mut server) = TcpStream::connect(("127.0.0.1", registry)).await else { return };
    let now = *carries.borrow_and_update();
    let limited = async {
        if let Carries::Bytes(bytes) = now {
            let (mut from_client, mut to_client) = client.split();
            let (from_server, mut to_server) = server.split();
            let mut some = tokio::io::AsyncReadExt::take(from_server, bytes);
            tokio::select! {
                _ = tokio::io::copy(&mut some, &mut to_client) => std::future::pending().await,
                _ = tokio::io::copy(&mut from_client, &mut to_server) => {}
            }
        } else if now == Carries::Everything {
            let _ = copy_bidirectional(&mut client, &mut server).await;
        }
    };
    tokio::select! {
        () = limited => {}
        // Whatever is under way breaks.
        _ = carries.changed() => {}
    }
}

/// The bytes that have come of layers that are not whole.
fn partial_bytes(server: &Server) -> u64 {
    let layers = fs::read_dir(server.data_dir().join("worker/images/layers")).unwrap();
    let partial = layers
        .flatten()
        .filter(|entry| entry.path().extension().is_some_and(|extension| extension == "partial"));
    partial.map(|entry| entry.metadata().map_or(0, |found| found.len())).sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_that_goes_half_way_is_gone_on_with() {
    let (server, registry) = (Server::start(), Registry::start());
    let network = Network::to(registry.port()).await;
    let layer = base(&server).await.file("srv/noise", &noise(24 << 20), 0o644, (0, 0));
    registry.push(layout(&[layer.tar()], config()).path(), "app:1");
    network.carries.send(Carries::Bytes(8 << 20)).unwrap();
    let reference = format!("127.0.0.1:{}/app:1", network.port);
    let id = add(&server, "app", oci(&reference, PASSWORD)).await;
    until("half of it has come", async || partial_bytes(&server) > 4 << 20).await;
    network.carries.send(Carries::Nothing).unwrap();
    let error = failed_row(&server, &id).await;
    assert!(error.starts_with("registry"), "{error}");
    let before = partial_bytes(&server);
    assert!(before > 4 << 20, "what has come is kept: {before}");
    network.carries.send(Carries::Everything).unwrap();
    heals(&server, &id).await;
    assert_eq!(partial_bytes(&server), 0);
}

/// The file of a blob in the registry.
fn blob(registry: &Registry, digest: &str) -> PathBuf {
    let hex = digest.trim_start_matches("sha256:");
    registry.dir().join(format!("data/docker/registry/v2/blobs/sha256/{}/{hex}/data", &hex[..2]))
}

/// The first layer's digest, and the manifest's, as the registry has them.
fn digests(registry: &Registry, name: &str) -> (String, String) {
    let mut inspect = Command::new("skopeo");
    inspect.args(["inspect", "--tls-verify=false"]);
    inspect.arg(format!("--creds={}:{PASSWORD}", crate::registry::USER));
    inspect.arg(format!("docker://{}", registry.reference(name)));
    let output = inspect.output().unwrap();
    let inspected: Value = serde_json::from_slice(&output.stdout).unwrap();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    (text(&inspected["Layers"][0]), text(&inspected["Digest"]))
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_what_its_digest_says_is_refused() {
    let (server, registry) = (Server::start(), Registry::start());
    registry.push(layout(&[base(&server).await.tar()], config()).path(), "app:1");
    let (layer, manifest) = digests(&registry, "app:1");
    let reference = registry.reference("app:1");
    let pinned = format!("{}@{manifest}", registry.reference("app"));
    for (name, damaged, reference) in
        [("layer", layer, &reference), ("manifest", manifest, &pinned)]
    {
        let file = blob(&registry, &damaged);
        let good = fs::read(&file).unwrap();
        let mut bad = good.clone();
        match name {
            "layer" => bad[good.len() / 2] ^= 1,
            // Still valid JSON.
            _ => bad.push(b' '),
        }
        fs::write(&file, &bad).unwrap();
        let id = add(&server, name, oci(reference, PASSWORD)).await;
        let error = failed_row(&server, &id).await;
        assert!(error.starts_with("digest mismatch"), "{name}: {error}");
        fs::write(&file, &good).unwrap();
        heals(&server, &id).await;
    }

    // A digest that nothing has.
    let missing = format!("{}@sha256:{}", registry.reference("app"), "0".repeat(64));
    let id = add(&server, "missing", oci(&missing, PASSWORD)).await;
    let error = failed_row(&server, &id).await;
    assert!(error.contains("not found") || error.contains("no such"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_is_named_and_room_heals_it() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: only root can mount a small disk");
        return;
    }
    let (server, registry) = (Server::start_on_small_image_disk("40m"), Registry::start());
    let layer = base(&server).await.file("srv/noise", &noise(48 << 20), 0o644, (0, 0));
    registry.push(layout(&[layer.tar()], config()).path(), "app:1");
    let body = json!({
        "name": "app", "source": oci(&registry.reference("app:1"), PASSWORD), "size_mib": 256,
        "default_memory_mb": 256, "default_disk_mb": 64,
    });
    let made = server.call(Method::POST, "/images", Some(body)).await;
    let id = made.data()["id"].as_str().unwrap().to_owned();
    let error = failed_row(&server, &id).await;
    assert!(error.starts_with("no space left on the worker's disk"), "{error}");
    server.resize_image_disk("1g");
    heals(&server, &id).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn very_many_files_and_a_very_large_one_come_through() {
    const DIRS: usize = 200;
    const FILES: usize = 500;
    let (server, registry) = (Server::start(), Registry::start());
    let many = tempfile::tempdir().unwrap();
    for dir in 0..DIRS {
        let dir = many.path().join(format!("many/{dir}"));
        fs::create_dir_all(&dir).unwrap();
        for file in 0..FILES {
            fs::write(dir.join(file.to_string()), file.to_string()).unwrap();
        }
    }
    let large = fs::File::create(many.path().join("large")).unwrap();
    large.set_len(4 << 30).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&large, b"the end", (4 << 30) - 7).unwrap();
    let tar = many.path().join("layer.tar");
    let mut pack = Command::new("tar");
    pack.arg("--sparse").arg("-C").arg(many.path()).arg("-cf").arg(&tar).args(["many", "large"]);
    done(pack);
    let lower = base(&server).await;
    let layers = [lower.tar(), fs::read(&tar).unwrap()];
    registry.push(layout(&layers, config()).path(), "many:1");
    let body = json!({
        "name": "many", "source": oci(&registry.reference("many:1"), PASSWORD), "size_mib": 2048,
        "default_memory_mb": 256, "default_disk_mb": 64,
    });
    let made = server.call(Method::POST, "/images", Some(body)).await;
    let id = made.data()["id"].as_str().unwrap().to_owned();
    until_status(&server, &id, "ready").await;
    let bunker = bunker_of(&server, &id).await;
    let line = "find /many -type f | wc -l; cat /many/199/499; stat -c ' %s' /large; \
                stat -c %b /large; tail -c 7 /large";
    let said = server.sh(&bunker, line).await;
    let said = said["stdout"].as_str().unwrap().to_owned();
    let words: Vec<_> = said.split_whitespace().collect();
    assert_eq!(words[..3], ["100000", "499", "4294967296"], "{said}");
    assert!(words[3].parse::<u64>().unwrap() < 100, "it keeps its hole: {said}");
    assert_eq!(words[4..], ["the", "end"]);
    // What comes from it is not larger than what is in it.
    let stored = stored_bytes(&server.data_dir().join("objects"));
    assert!(stored < 200 << 20, "{stored}");
}

fn stored_bytes(dir: &Path) -> u64 {
    let entries = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap());
    let size = |entry: fs::DirEntry| match entry.metadata() {
        Ok(found) if found.is_dir() => stored_bytes(&entry.path()),
        Ok(found) => found.len(),
        Err(_) => 0,
    };
    entries.map(size).sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_bunker_runs_from_stays_and_the_rest_makes_room() {
    let settings = [("SCAIBUNKER_IMAGE_CACHE_MB", "40")];
    let (server, registry) = (Server::start_with(&settings), Registry::start());
    let lower = base(&server).await.tar();
    let mut ids = Vec::new();
    for name in ["one", "two", "three"] {
        let text = [name.as_bytes(), &noise(12 << 20)].concat();
        let upper = Layer::new().file("srv/text", &text, 0o644, (0, 0));
        registry.push(layout(&[lower.clone(), upper.tar()], config()).path(), &format!("{name}:1"));
        let id = add(&server, name, oci(&registry.reference(&format!("{name}:1")), PASSWORD)).await;
        until_status(&server, &id, "ready").await;
        if name == "one" {
            bunker_of(&server, name).await;
        }
        ids.push(id);
    }
    let status = async |id: &str| rows(&server, id).await[0]["status"].clone();
    until("the one that nobody uses has made room", async || status(&ids[1]).await == "pending")
        .await;
    assert_eq!((status(&ids[0]).await, status(&ids[2]).await), (json!("ready"), json!("ready")));
    let evicted = rows(&server, &ids[1]).await.remove(0);
    assert!(evicted["error"].as_str().unwrap().starts_with("evicted"), "{evicted}");
    // A bunker brings it back.
    bunker_of(&server, "two").await;
    assert_eq!(status(&ids[1]).await, "ready");
}
