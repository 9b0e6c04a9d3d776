//! What many copies of one bunker draw, and who they are: nothing is in two of them.
//!
//! `SCAIBUNKER_FORKS` makes it more children than a test needs to see that.

use std::{collections::BTreeMap, env, fs, path::Path, process::Command};

use futures_util::{StreamExt as _, stream};
use http::Method;
use serde_json::{Value, json};

use crate::server::{Server, eventually};

const CHILDREN: u32 = 3;
/// As many as the machine has cores for: an emulated Python takes its time.
const AT_ONCE: usize = 2;

/// Draws in the parent when it is copied, and goes on in every child.
const DRAWER: &str = "setsid sh -c 'while :; do head -c 16 /dev/urandom | md5sum > /dev/shm/next; \
    mv /dev/shm/next /dev/shm/drawn; usleep 5000; done' >/dev/null 2>&1 &";

/// A name and a value in each line.
const LOOK: &str = "echo machine-id $(cat /etc/machine-id); echo hostname $(hostname)
    echo boot-id $(cat /proc/sys/kernel/random/boot_id)
    echo mac $(cat /sys/class/net/eth0/address)
    echo address $(ip -4 addr show eth0 | grep inet); echo address-6 $(ip -6 addr show eth0 | grep fd)
    echo urandom $(head -c 32 /dev/urandom | md5sum); echo drawn $(cat /dev/shm/drawn)";
const DRAW: &str = "run() { program=$1; shift; /tools/ld.so --library-path /tools /tools/$program \"$@\"; }
    export PYTHONHOME=/tools/python OPENSSL_CONF=/dev/null
    run python3 -S -c 'import uuid, random; print(\"uuid4\", uuid.uuid4()); print(\"random\", random.random())'
    echo key $(run openssl genpkey -algorithm ED25519 | md5sum)";

/// A program of this host with what it needs to run anywhere.
fn pack(program: &str, dir: &Path) {
    let listed = Command::new("ldd").arg(program).output().unwrap();
    let text = String::from_utf8(listed.stdout).unwrap();
    let paths = text.split_whitespace().filter(|word| word.starts_with('/'));
    for path in paths.chain([program]) {
        let name = Path::new(path).file_name().unwrap().to_str().unwrap();
        let name = if name.starts_with("ld-linux") { "ld.so" } else { name };
        fs::copy(path, dir.join(name)).unwrap();
    }
}

/// Python's own library, without what no program here imports.
fn pack_python(dir: &Path) {
    let script = "import sys, sysconfig; print(sys.version_info[1], sysconfig.get_path('stdlib'))";
    let asked = Command::new("/usr/bin/python3").args(["-I", "-c", script]).output().unwrap();
    let text = String::from_utf8(asked.stdout).unwrap();
    let (minor, library) = text.trim().split_once(' ').unwrap();
    let target = dir.join(format!("python/lib/python3.{minor}"));
    fs::create_dir_all(&target).unwrap();
    let line = "cd \"$0\" && cp -pL *.py \"$1\" && cp -rpL __pycache__ encodings collections importlib re json \
        lib-dynload \"$1\"";
    let copied = Command::new("sh").args(["-c", line, library]).arg(&target).status().unwrap();
    assert!(copied.success());
    pack(&format!("/usr/bin/python3.{minor}"), dir);
    fs::rename(dir.join(format!("python3.{minor}")), dir.join("python3")).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_that_is_drawn_is_drawn_twice() {
    let count = env::var("SCAIBUNKER_FORKS").map_or(CHILDREN, |text| text.parse().unwrap());
    let server = Server::start_with(&[
        ("SCAIBUNKER_CPU_OVERCOMMIT", "16"),
        ("SCAIBUNKER_MEMORY_OVERCOMMIT", "2"),
    ]);
    let body = json!({
        "image": "busybox", "memory_mb": 192, "disk_mb": 128, "cpu_millicores": 200,
        "network_profile": "unrestricted",
    });
    let made = server.call(Method::POST, "/bunkers?wait=true", Some(body)).await.data().clone();
    let id = made["id"].as_str().unwrap().to_owned();
    let dir = tempfile::tempdir().unwrap();
    let tools = dir.path().join("tools");
    fs::create_dir(&tools).unwrap();
    pack("/usr/bin/openssl", &tools);
    pack_python(&tools);
    let mut copy = server.command();
    copy.args(["cp", tools.to_str().unwrap(), &format!("{id}:/tools")]);
    let copied = copy.output().unwrap();
    assert!(copied.status.success(), "{}", String::from_utf8_lossy(&copied.stderr));
    server.sh(&id, DRAWER).await;
    eventually("it draws", async || server.sh(&id, "cat /dev/shm/drawn").await["exit_code"] == 0)
        .await;
    // Programs may have looked at what must differ before they were copied.
    server.sh(&id, LOOK).await;

    let path = format!("/bunkers/{id}/fork?wait=true&wait_timeout_s=600");
    let ask = json!({ "count": count });
    let forked = server.call(Method::POST, &path, Some(ask)).await.data().clone();
    let children = forked.as_array().unwrap().iter().map(|child| {
        assert_eq!(child["status"], "running", "{child}");
        child["id"].as_str().unwrap()
    });
    let drawing = children.map(async |bunker| {
        let command = format!("{LOOK}\n{DRAW}");
        let body = json!({ "command": command, "user": "root", "timeout_s": 120 });
        let before = jiff::Timestamp::now().as_second();
        let told = server.sh(bunker, "date +%s").await["stdout"].clone();
        let after = jiff::Timestamp::now().as_second();
        let told: i64 = told.as_str().unwrap().trim().parse().unwrap();
        assert!((before - 1..=after + 1).contains(&told), "{bunker}: {before} {told} {after}");
        let answer: Value = server.exec(bunker, body).await.data().clone();
        (bunker, answer)
    });
    let mut drawn: Vec<_> = stream::iter(drawing).buffer_unordered(AT_ONCE).collect().await;
    let parent = server.sh(&id, LOOK).await;
    drawn.push((&id, parent));
    let mut seen: BTreeMap<(String, String), String> = BTreeMap::new();
    for (bunker, drawn) in drawn {
        for line in drawn["stdout"].as_str().unwrap().lines() {
            let (name, value) = line.split_once(' ').unwrap_or((line, ""));
            assert!(!value.is_empty(), "{name} is missing: {drawn}");
            let earlier = seen.insert((name.to_owned(), value.to_owned()), bunker.to_owned());
            assert_eq!(earlier, None, "{line} is in {bunker} too");
        }
    }
    assert_eq!(seen.len(), 11 * count as usize + 8);
}
