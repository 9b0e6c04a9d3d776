//! A server beside an internet, and bunkers in it.

use std::path::PathBuf;

use http::Method;
use serde_json::{Value, json};

use crate::{
    internet::{Internet, Seen},
    namespaces::in_own_namespaces,
    server::Server,
};

/// Everything that a test needs.
pub struct Lab {
    pub server: Server,
    pub internet: Internet,
    /// What web servers serve.
    pub files: PathBuf,
    pub _dir: tempfile::TempDir,
}

/// Runs a test beside an internet of its own, which nobody else sees. `settings` are the server's.
pub fn run<F>(settings: &[(&str, &str)], test: impl FnOnce(Lab) -> F + Send + 'static)
where
    F: Future<Output = ()>,
{
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: only root can make networks");
        return;
    }
    // What servers download is there before: beside this internet there are no mirrors.
    let image = ("SCAIBUNKER_IMAGES", "debian-12");
    drop(Server::start_with(&[image]));
    let settings: Vec<(String, String)> =
        settings.iter().chain([&image]).map(|(a, b)| ((*a).to_owned(), (*b).to_owned())).collect();
    in_own_namespaces(move || async move {
        let dir = tempfile::tempdir().unwrap();
        let files = dir.path().to_owned();
        let internet = Internet::start(files.clone());
        let settings: Vec<_> = settings.iter().map(|(a, b)| (a.as_str(), b.as_str())).collect();
        let server = Server::start_with(&settings);
        internet.seen();
        test(Lab { server, internet, files, _dir: dir }).await;
    });
}

impl Lab {
    /// A running bunker with these network options.
    pub async fn bunker(&self, network: Value) -> String {
        let mut body = json!({ "image": "debian-12" });
        body.as_object_mut().unwrap().extend(network.as_object().unwrap().clone());
        let made = self.server.call(Method::POST, "/bunkers?wait=true", Some(body)).await;
        assert_eq!(made.data()["status"], "running", "{}", made.json);
        made.data()["id"].as_str().unwrap().to_owned()
    }

    /// What a shell line printed, if it was successful; else what it complained of.
    pub async fn sh(&self, id: &str, line: &str) -> Result<String, String> {
        // An emulator on a busy machine takes most of a minute to make a Python environment.
        let body = json!({ "command": line, "user": "root", "timeout_s": 300 });
        let done = self.server.exec(id, body).await.data().clone();
        let text = |name: &str| done[name].as_str().unwrap_or_default().to_owned();
        match done["exit_code"].as_i64() {
            Some(0) => Ok(text("stdout")),
            _ => Err(format!("{done}")),
        }
    }

    /// Runs Python in the bunker.
    pub async fn python(&self, id: &str, script: &str) -> Result<String, String> {
        let body = json!({
            "command": ["python3", "-c", format!("{PRELUDE}{script}")],
            "user": "root",
            "timeout_s": 120,
        });
        let done = self.server.exec(id, body).await.data().clone();
        match done["exit_code"].as_i64() {
            Some(0) => Ok(done["stdout"].as_str().unwrap_or_default().to_owned()),
            _ => Err(done.to_string()),
        }
    }

    /// Tries to get out in ways that must not work: each by its name, as Python that succeeds if it
    /// does. No server may see anything of it, but lookups of names in `may_look_up`.
    pub async fn none_gets_out(&self, id: &str, attempts: &[(&str, &str)], may_look_up: &[&str]) {
        for (name, script) in attempts {
            self.internet.seen();
            let outcome = self.python(id, script).await;
            assert!(outcome.is_err(), "{name}: it got out: {outcome:?}");
            let complaint = outcome.unwrap_err();
            assert!(!complaint.contains("SyntaxError"), "{name}: {complaint}");
            let is_harmless =
                |seen: &Seen| seen.what == "dns" && may_look_up.contains(&seen.name.as_str());
            let seen = self.internet.seen();
            let outside: Vec<_> = seen.iter().filter(|seen| !is_harmless(seen)).collect();
            assert!(outside.is_empty(), "{name}: servers saw {outside:?}; it said {complaint}");
            println!("stopped: {name}");
        }
    }
}

/// What every script may use.
const PRELUDE: &str = r#"
import os, socket, ssl, struct, sys, time, subprocess
socket.setdefaulttimeout(5)

def tcp(address, port=443, say=b''):
    s = socket.create_connection((address, port))
    if say:
        s.sendall(say)
    return s.recv(100)

def tls(address, name, port=443, request=None):
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    s = socket.create_connection((address, port))
    with context.wrap_socket(s, server_hostname=name) as t:
        t.sendall(request or b'GET / HTTP/1.1\r\nHost: ' + name.encode() + b'\r\nConnection: close\r\n\r\n')
        answer = t.recv(1000)
        assert answer, 'nothing came back'
        return answer

def http(address, host, port=80, target='/'):
    answer = tcp(address, port, f'GET {target} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n'.encode())
    assert b' 200 ' in answer, answer
    return answer

def udp(address, port, say, family=socket.AF_INET):
    s = socket.socket(family, socket.SOCK_DGRAM)
    s.settimeout(2)
    s.connect((address, port))
    s.send(say)
    return s.recv(2000)

def ping(address):
    s = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
    s.settimeout(2)
    s.sendto(bytes([8, 0, 0xf7, 0xff, 0, 0, 0, 0]), (address, 0))
    assert s.recv(100)[20] == 0, 'unreachable'

def question(name, kind):
    labels = b''.join(bytes([len(l)]) + l.encode() for l in name.split('.') if l)
    return struct.pack('>HHHHHH', 7, 0x0100, 1, 0, 0, 0) + labels + b'\0' + struct.pack('>HH', kind, 1)

def ask(name, kind=1, server='10.201.0.1', port=53):
    answer = udp(server, port, question(name, kind))
    count = struct.unpack('>H', answer[6:8])[0]
    assert count > 0, ('no answer', answer[3] & 15)
    return answer
"#;
