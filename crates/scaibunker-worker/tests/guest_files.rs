//! What the guest agent serves inside a real microVM beyond plain commands: files, terminals,
//! signals.
//!
//! Needs the guest agent, QEMU and Debian's packages: `./scripts/test` sees to all of them.

#![expect(clippy::unwrap_used, reason = "a test that fails shall say where")]

mod lab;

use std::{collections::BTreeMap, io, sync::Arc, time::Duration};

use axum::body::Body;
use bytes::Bytes;
use http::{HeaderMap, Method, Response, StatusCode, header};
use http_body_util::BodyExt as _;
use scaibunker_api::ids::{BunkerId, ExecId};
use scaibunker_guest_protocol::{
    GuestError, GuestErrorKind,
    exec::{ExecSpec, Exit, SendSignal, TerminalSize},
    files::{
        CALL_HEADER, Change, ChangeKind, DeleteCall, Entry, EntryType, FileCall, FilePath,
        ListCall, Listing, MoveCall, Rights, Unpacked, WatchCall, WriteCall,
    },
    frame::{Frame, FrameKind},
    frame_reader::FrameReader,
};
use scaibunker_worker::{
    channel::{AnswerBody, GuestBody, GuestChannel},
    engine::Shape,
    pool::Pool,
    vm::{Past, Vm},
    vm_home::Claim,
};
use serde::{Serialize, de::DeserializeOwned};
use tokio::{sync::mpsc, time::timeout};
use tokio_stream::{StreamExt as _, wrappers::ReceiverStream};

/// Under emulation, on a busy machine.
const LIMIT: Duration = Duration::from_secs(60);

const DISK_MB: u32 = 48;

struct Lab {
    vm: Vm,
    guest: GuestChannel,
    _pool: Arc<Pool>,
    _dir: tempfile::TempDir,
}

async fn lab() -> Lab {
    let lab::Lab { pool, shape, dir } = lab::lab(0).await;
    let disk_mb = std::env::var("LAB_DISK_MB").map_or(DISK_MB, |mb| mb.parse().unwrap());
    let shape = Shape { disk_mb, ..shape };
    let mut vm = pool.make_now(&shape).await.unwrap();
    let claim = Claim {
        bunker_id: BunkerId::generate(),
        image: String::new(),
        workdir: String::new(),
        image_user: "bunker".into(),
        env: BTreeMap::new(),
        started_at: jiff::Timestamp::now(),
        network: scaibunker_api::worker::StartNetwork::default(),
        disk_mb: 64,
    };
    vm.claim(claim, Past::None, (1000, 256), "req_test").await.unwrap();
    let guest = vm.channel().unwrap();
    Lab { vm, guest, _pool: pool, _dir: dir }
}

/// A request's answer, or what the agent said against it.
type Answer = Result<Response<AnswerBody>, (StatusCode, GuestErrorKind)>;

impl Lab {
    async fn send(
        &self,
        method: Method,
        route: &str,
        call: &impl Serialize,
        more: &[(header::HeaderName, &str)],
        body: GuestBody,
    ) -> Answer {
        let call = serde_json::to_string(call).unwrap();
        let mut headers = HeaderMap::from_iter([(
            CALL_HEADER.parse().unwrap(),
            call.parse::<http::HeaderValue>().unwrap(),
        )]);
        for (name, value) in more {
            headers.insert(name, value.parse().unwrap());
        }
        let sent = self.guest.send_with(method, route, headers, body, "req_test");
        let response = timeout(LIMIT, sent).await.unwrap().unwrap();
        if response.status().is_client_error() || response.status().is_server_error() {
            let status = response.status();
            let error: GuestError = json(response).await;
            return Err((status, error.kind));
        }
        Ok(response)
    }

    async fn put(&self, to: &str, user: &str, content: Bytes) -> Result<Entry, GuestErrorKind> {
        let body = GuestBody::Whole(content);
        let put = self.send(Method::PUT, "/files", &write_call(to, user), &[], body).await;
        match put {
            Ok(response) => Ok(json(response).await),
            Err((_, kind)) => Err(kind),
        }
    }

    async fn get(&self, from: &str, user: &str) -> Result<Bytes, GuestErrorKind> {
        let call = file_call(from, user);
        match self.send(Method::GET, "/files", &call, &[], GuestBody::Empty).await {
            Ok(response) => Ok(collect(response).await),
            Err((_, kind)) => Err(kind),
        }
    }

    async fn post(&self, route: &str, value: &impl Serialize) -> StatusCode {
        let body = GuestBody::Whole(serde_json::to_vec(value).unwrap().into());
        let sent = self.guest.send(Method::POST, route, body, "req_test");
        timeout(LIMIT, sent).await.unwrap().unwrap().status()
    }

    async fn run(&self, line: &str) -> (Exit, String) {
        let exec = self.exec(&["/bin/sh", "-c", line], "root", None).await;
        exec.end_input().await;
        exec.finish().await
    }

    async fn exec(&self, argv: &[&str], user: &str, terminal: Option<TerminalSize>) -> Exec {
        let spec = ExecSpec {
            exec_id: ExecId::generate().to_string(),
            request_id: "req_test".into(),
            argv: argv.iter().map(|&arg| arg.into()).collect(),
            cwd: None,
            default_cwd: String::new(),
            env: BTreeMap::from([("PATH".into(), "/bin:/usr/bin".into())]),
            user: user.into(),
            timeout_ms: None,
            terminal,
        };
        let (input, frames) = mpsc::channel::<Bytes>(16);
        input.send(Frame::json(FrameKind::Spec, &spec).unwrap().encode()).await.unwrap();
        let body = Body::from_stream(ReceiverStream::new(frames).map(Ok::<_, io::Error>));
        let sent = self.guest.send(Method::POST, "/exec", GuestBody::Stream(body), "req_test");
        let response = timeout(LIMIT, sent).await.unwrap().unwrap();
        let output = FrameReader::new(response.into_body());
        Exec { id: spec.exec_id, input, output, text: String::new() }
    }
}

struct Exec {
    id: String,
    input: mpsc::Sender<Bytes>,
    output: FrameReader<AnswerBody>,
    /// Output so far, but what was expected already.
    text: String,
}

impl Exec {
    async fn write(&self, text: &str) {
        let bytes = Bytes::copy_from_slice(text.as_bytes());
        self.input.send(Frame::data(FrameKind::Stdin, bytes).encode()).await.unwrap();
    }

    async fn end_input(&self) {
        let end = Frame::data(FrameKind::StdinEnd, Bytes::new());
        // A short command may have ended before its input does.
        let _ = self.input.send(end.encode()).await;
    }

    async fn next(&mut self) -> Option<Frame> {
        timeout(LIMIT, self.output.next())
            .await
            .unwrap_or_else(|_| panic!("{}", self.text))
            .unwrap()
    }

    /// Reads until the output holds `text`, and forgets it up to there.
    async fn expect(&mut self, text: &str) -> String {
        loop {
            if let Some(start) = self.text.find(text) {
                let rest = self.text.split_off(start + text.len());
                return std::mem::replace(&mut self.text, rest);
            }
            let frame = self.next().await.unwrap_or_else(|| panic!("no {text:?} in {}", self.text));
            match frame.kind {
                FrameKind::Started => {}
                FrameKind::Stdout | FrameKind::Stderr => {
                    self.text.push_str(&String::from_utf8_lossy(&frame.payload));
                }
                kind => panic!("{kind:?} {:?} before {text:?} in {}", frame.payload, self.text),
            }
        }
    }

    async fn started(&mut self) {
        assert_eq!(self.next().await.unwrap().kind, FrameKind::Started);
    }

    async fn finish(mut self) -> (Exit, String) {
        while let Some(frame) = self.next().await {
            match frame.kind {
                FrameKind::Exit => return (frame.parse().unwrap(), self.text),
                FrameKind::Error => panic!("{:?}", frame.payload),
                FrameKind::Started => {}
                _ => self.text.push_str(&String::from_utf8_lossy(&frame.payload)),
            }
        }
        panic!("no exit after {}", self.text)
    }
}

async fn collect(response: Response<AnswerBody>) -> Bytes {
    timeout(LIMIT, response.into_body().collect()).await.unwrap().unwrap().to_bytes()
}

async fn json<T: DeserializeOwned>(response: Response<AnswerBody>) -> T {
    let bytes = collect(response).await;
    serde_json::from_slice(&bytes).unwrap_or_else(|e| panic!("{e}: {bytes:?}"))
}

fn path(path: impl Into<Vec<u8>>) -> FilePath {
    FilePath::new(path).unwrap()
}

fn rights(user: &str) -> Rights {
    Rights { as_root: user == "root", user: Some(user.into()) }
}

fn file_call(at: &str, user: &str) -> FileCall {
    FileCall { path: path(at), rights: rights(user) }
}

fn write_call(to: &str, user: &str) -> WriteCall {
    WriteCall { path: path(to), mode: None, uid: None, gid: None, rights: rights(user) }
}

#[tokio::test(flavor = "multi_thread")]
async fn files_go_in_and_come_out_with_their_callers_rights() {
    let lab = lab().await;
    let content: Bytes = (0..3_000_000u32).map(|n| (n * 7 / 3) as u8).collect::<Vec<_>>().into();
    let entry = lab.put("/tmp/new/big file", "bunker", content.clone()).await.unwrap();
    assert_eq!((entry.size_bytes, entry.mode), (3_000_000, 0o644));
    assert_eq!(lab.get("/tmp/new/big file", "bunker").await.unwrap(), content);
    let (_, listed) = lab.run("ls -ln /tmp/new; ls -A /tmp/new").await;
    let owner = format!(" {} {} ", entry.uid, entry.gid);
    assert!(
        entry.uid != 0 && listed.split_whitespace().collect::<Vec<_>>().join(" ").contains(&owner)
    );
    assert_eq!(listed.matches("scaibunker").count(), 0, "{listed}");

    let call = file_call("/tmp/new/big file", "bunker");
    let range = [(header::RANGE, "bytes=2999990-")];
    let part = lab.send(Method::GET, "/files", &call, &range, GuestBody::Empty).await.unwrap();
    assert_eq!(part.status(), StatusCode::PARTIAL_CONTENT);
    assert_eq!(part.headers()[header::CONTENT_RANGE], "bytes 2999990-2999999/3000000");
    assert_eq!(part.headers()[header::CONTENT_LENGTH], "10");
    let etag = part.headers()[header::ETAG].to_str().unwrap().to_owned();
    assert_eq!(collect(part).await, content.slice(2_999_990..));
    let known = [(header::IF_NONE_MATCH, etag.as_str())];
    let same = lab.send(Method::GET, "/files", &call, &known, GuestBody::Empty).await.unwrap();
    assert_eq!(same.status(), StatusCode::NOT_MODIFIED);
    let head = lab.send(Method::HEAD, "/files", &call, &[], GuestBody::Empty).await.unwrap();
    assert_eq!(head.headers()[header::CONTENT_LENGTH], "3000000");
    assert!(collect(head).await.is_empty());
    let behind = [(header::RANGE, "bytes=3000000-")];
    let refused = lab.send(Method::GET, "/files", &call, &behind, GuestBody::Empty).await;
    let status = StatusCode::RANGE_NOT_SATISFIABLE;
    assert_eq!(refused.unwrap_err(), (status, GuestErrorKind::RangeNotSatisfiable));

    for (from, expected) in [
        ("/etc/shadow", GuestErrorKind::AccessDenied),
        ("/nowhere", GuestErrorKind::NotFound),
        ("/tmp", GuestErrorKind::IsADirectory),
        ("/dev/zero", GuestErrorKind::NotARegularFile),
        ("/dev/null", GuestErrorKind::NotARegularFile),
        // The agent acts for the user, and its own files must not be theirs.
        ("/proc/1/environ", GuestErrorKind::AccessDenied),
        ("/proc/1/mem", GuestErrorKind::AccessDenied),
        ("/proc/thread-self/mem", GuestErrorKind::AccessDenied),
        ("/proc/self/root/init", GuestErrorKind::SymlinkLoop),
        ("/proc/self/fd/3", GuestErrorKind::SymlinkLoop),
    ] {
        lab.run("echo secret > /etc/shadow; chmod 600 /etc/shadow").await;
        assert_eq!(lab.get(from, "bunker").await.unwrap_err(), expected, "{from}");
    }
    assert_eq!(lab.get("/etc/shadow", "root").await.unwrap(), "secret\n");
    let status = lab.get("/proc/self/status", "bunker").await.unwrap();
    assert!(status.starts_with(b"Name:"), "{status:?}");
    let size = lab.get("/sys/kernel/mm/transparent_hugepage/enabled", "bunker").await;
    assert!(!size.unwrap_or_else(|_| "absent".into()).is_empty());

    let long = format!("/tmp/{}", "n".repeat(256));
    for (to, user, expected) in [
        ("/etc/new", "bunker", GuestErrorKind::AccessDenied),
        ("/etc/passwd", "bunker", GuestErrorKind::AccessDenied),
        ("/proc/sys/kernel/core_pattern", "bunker", GuestErrorKind::AccessDenied),
        ("/proc/sys/kernel/core_pattern", "root", GuestErrorKind::ReadOnly),
        ("/proc/new", "root", GuestErrorKind::ReadOnly),
        ("/sys/new", "root", GuestErrorKind::ReadOnly),
        ("/dev/null", "root", GuestErrorKind::NotARegularFile),
        ("/etc", "root", GuestErrorKind::IsADirectory),
        (&long, "root", GuestErrorKind::NameTooLong),
    ] {
        let put = lab.put(to, user, Bytes::from_static(b"x")).await;
        assert_eq!(put.unwrap_err(), expected, "{to} as {user}");
    }
    lab.vm.destroy().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_and_a_read_only_one_are_told() {
    let lab = lab().await;
    let too_much: Bytes = vec![7; (DISK_MB as usize) << 20].into();
    lab.run("echo old > /home/file; chmod 666 /home/file").await;
    let put = lab.put("/home/file", "root", too_much).await;
    assert_eq!(put.unwrap_err(), GuestErrorKind::NoSpace);
    assert_eq!(lab.get("/home/file", "root").await.unwrap(), "old\n");
    let (_, left) = lab.run("ls -A /home").await;
    assert!(!left.contains("scaibunker"), "{left}");
    lab.put("/home/small", "root", vec![1; 1 << 20].into()).await.unwrap();
    lab.run("mkdir /mnt/ro; mount -t tmpfs -o ro none /mnt/ro").await;
    let put = lab.put("/mnt/ro/file", "root", Bytes::new()).await;
    assert_eq!(put.unwrap_err(), GuestErrorKind::ReadOnly);
    lab.vm.destroy().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_that_is_given_up_leaves_nothing() {
    let lab = lab().await;
    let pieces = tokio_stream::iter([
        Ok(Bytes::from(vec![1; 1 << 20])),
        Err(io::Error::from(io::ErrorKind::ConnectionReset)),
    ]);
    let body = GuestBody::Stream(Body::from_stream(pieces));
    let call = serde_json::to_string(&write_call("/home/half", "root")).unwrap();
    let headers = HeaderMap::from_iter([(CALL_HEADER.parse().unwrap(), call.parse().unwrap())]);
    let sent = lab.guest.send_with(Method::PUT, "/files", headers, body, "req_test");
    assert!(timeout(LIMIT, sent).await.unwrap().is_err());
    let gone = async {
        while lab.run("ls -A /home | grep -c -e half -e scaibunker").await.1
            != "0
"
        {}
    };
    timeout(LIMIT, gone).await.unwrap();
    lab.vm.destroy().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn directories_are_listed_packed_moved_watched_and_deleted() {
    let lab = lab().await;
    let call = WatchCall { path: path("/tmp"), recursive: true, rights: rights("bunker") };
    let watch = lab.send(Method::GET, "/files/watch", &call, &[], GuestBody::Empty).await.unwrap();
    let mut changes = watch.into_body();
    let mut seen = Vec::new();

    let odd = b"/tmp/tree/sp ace/new\nline \xff".to_vec();
    let call = WriteCall { path: path(odd.clone()), ..write_call("/", "bunker") };
    let body = GuestBody::Whole("odd".into());
    let entry: Entry = json(lab.send(Method::PUT, "/files", &call, &[], body).await.unwrap()).await;
    assert_eq!(entry.path, path(odd.clone()));
    let make = write_call("/tmp/tree/a", "bunker");
    lab.send(Method::POST, "/files/mkdir", &make, &[], GuestBody::Empty).await.unwrap();

    let call = ListCall {
        path: path("/tmp/tree"),
        depth: 5,
        after: None,
        limit: 2,
        rights: rights("bunker"),
    };
    let sent = lab.send(Method::GET, "/files/list", &call, &[], GuestBody::Empty).await;
    let listing: Listing = json(sent.unwrap()).await;
    assert!(listing.has_more);
    assert_eq!(listing.entries[1].path, path("/tmp/tree/sp ace"));
    let call = ListCall { after: Some(listing.entries[1].path.clone()), ..call };
    let sent = lab.send(Method::GET, "/files/list", &call, &[], GuestBody::Empty).await;
    let rest: Listing = json(sent.unwrap()).await;
    assert_eq!((rest.entries[0].path.clone(), rest.has_more), (path(odd), false));

    let call = file_call("/tmp/tree", "bunker");
    let packed = lab.send(Method::GET, "/files/archive", &call, &[], GuestBody::Empty).await;
    let archive = collect(packed.unwrap()).await;
    let call = write_call("/tmp/copy", "bunker");
    let body = GuestBody::Whole(archive);
    let sent = lab.send(Method::PUT, "/files/archive", &call, &[], body).await;
    let unpacked: Unpacked = json(sent.unwrap()).await;
    assert_eq!(unpacked, Unpacked { entries: 3, bytes: 3 });
    let (exit, text) = lab.run("diff -r /tmp/tree /tmp/copy && cat /tmp/copy/*/*").await;
    assert_eq!((exit.exit_code, text.as_str()), (0, "odd"));

    let call = MoveCall {
        path: path("/tmp/copy"),
        to: path("/tmp/moved"),
        overwrite: false,
        rights: rights("bunker"),
    };
    let moved = lab.send(Method::POST, "/files/move", &call, &[], GuestBody::Empty).await.unwrap();
    assert_eq!(json::<Entry>(moved).await.kind, EntryType::Directory);
    let call = DeleteCall { path: path("/tmp/moved"), recursive: true, rights: rights("bunker") };
    let sent = lab.send(Method::DELETE, "/files", &call, &[], GuestBody::Empty).await.unwrap();
    assert_eq!(sent.status(), StatusCode::NO_CONTENT);
    let call = file_call("/tmp/moved", "root");
    let stat = lab.send(Method::GET, "/files/stat", &call, &[], GuestBody::Empty);
    assert_eq!(stat.await.unwrap_err(), (StatusCode::NOT_FOUND, GuestErrorKind::NotFound));

    let last = (ChangeKind::Deleted, path("/tmp/moved"));
    while seen.last() != Some(&last) {
        let frame = timeout(LIMIT, changes.frame()).await.unwrap().unwrap().unwrap();
        for line in frame.into_data().unwrap().split(|&byte| byte == b'\n') {
            if !line.is_empty() {
                let change: Change = serde_json::from_slice(line).unwrap();
                seen.push((change.kind, change.path));
            }
        }
    }
    assert_eq!(seen[0], (ChangeKind::Watching, path("/tmp")));
    for expected in [
        (ChangeKind::Created, path("/tmp/tree")),
        (ChangeKind::Created, path("/tmp/tree/a")),
        (ChangeKind::MovedFrom, path("/tmp/copy")),
        (ChangeKind::MovedTo, path("/tmp/moved")),
    ] {
        assert!(seen.contains(&expected), "{expected:?} in {seen:?}");
    }
    lab.vm.destroy().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_terminal_is_one_to_the_programs_in_it() {
    let lab = lab().await;
    let size = TerminalSize { cols: 100, rows: 30 };
    let mut shell = lab.exec(&[], "bunker", Some(size)).await;
    // Commands' echo must not look like their output.
    shell.write("tty; stty size; ls -ln $(tty) | cut -c1-10; echo $TERM '<'end'>'\n").await;
    let text = shell.expect("<end>").await;
    assert!(text.contains("\n/dev/pts/0\r\n30 100\r\ncrw--w----\r\nxterm-256color "), "{text}");
    shell.write("id -u; ls -ln $(tty); echo '<'end'>'\n").await;
    let text = shell.expect("<end>").await;
    let lines: Vec<Vec<&str>> =
        text.lines().map(|line| line.split_whitespace().collect()).collect();
    let tty = lines.iter().find(|line| line.first() == Some(&"crw--w----")).unwrap();
    let uid = lines.iter().find(|line| line.len() == 1 && line[0].parse::<u32>().is_ok()).unwrap();
    assert_eq!((tty[2], tty[3]), (uid[0], "5"), "{text}");
    assert_ne!(uid[0], "0");

    let resize = TerminalSize { cols: 132, rows: 50 };
    let route = format!("/execs/{}", shell.id);
    assert_eq!(lab.post(&format!("{route}/resize"), &resize).await, StatusCode::NO_CONTENT);
    shell.write("stty size\n").await;
    shell.expect("\n50 132\r\n").await;
    let bad = TerminalSize { cols: 0, rows: 50 };
    assert_eq!(lab.post(&format!("{route}/resize"), &bad).await, StatusCode::BAD_REQUEST);

    // A signal reaches what runs in the foreground, and the shell lives on; so does a typed one.
    for by_key in [false, true] {
        shell.write("echo '<'go'>'; sleep 1000\n").await;
        shell.expect("<go>").await;
        lab.run("until ps | grep -q '[s]leep 1000'; do :; done").await;
        if by_key {
            shell.write("\u{3}").await;
        } else {
            let signal = SendSignal { signal: 2 };
            assert_eq!(lab.post(&format!("{route}/signal"), &signal).await, StatusCode::NO_CONTENT);
        }
        shell.write("echo '<'$?'>'\n").await;
        shell.expect("<130>").await;
    }
    shell.write("exit 7\n").await;
    let (exit, _) = shell.finish().await;
    assert_eq!(exit.exit_code, 7);
    let signal = SendSignal { signal: 2 };
    assert_eq!(lab.post(&format!("{route}/signal"), &signal).await, StatusCode::NOT_FOUND);

    let mut cat = lab.exec(&["cat"], "bunker", Some(size)).await;
    cat.started().await;
    cat.write("half a line").await;
    cat.end_input().await;
    let (exit, text) = cat.finish().await;
    assert_eq!((exit.exit_code, text.as_str()), (0, "half a linehalf a line"));
    lab.vm.destroy().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn signals_reach_a_commands_group_and_unread_input_stops_none() {
    let lab = lab().await;
    let mut trap = lab
        .exec(
            &["sh", "-c", "trap 'echo caught; exit 3' USR1; echo set; while :; do sleep 1; done"],
            "root",
            None,
        )
        .await;
    trap.expect("set").await;
    // More input than is kept for a command that does not read.
    let unread = Bytes::from(vec![b'x'; 60_000]);
    for _ in 0..4 {
        let frame = Frame::data(FrameKind::Stdin, unread.clone()).encode();
        trap.input.send(frame).await.unwrap();
    }
    let route = format!("/execs/{}/signal", trap.id);
    let bad = SendSignal { signal: 65 };
    assert_eq!(lab.post(&route, &bad).await, StatusCode::BAD_REQUEST);
    let signal = SendSignal { signal: 10 };
    assert_eq!(lab.post(&route, &signal).await, StatusCode::NO_CONTENT);
    let (exit, text) = trap.finish().await;
    // The shell may have something to say of its `sleep`, which the signal reaches as well.
    assert!(exit.exit_code == 3 && text.trim().ends_with("caught"), "{exit:?} {text}");
    lab.vm.destroy().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "a measurement"]
async fn measure() {
    let lab = lab().await;
    for (what, mb, to) in [
        ("8 MiB", 8, "/home/measured"),
        ("8 MiB again", 8, "/home/measured"),
        ("100 MiB into memory", 100, "/dev/shm/measured"),
        ("256 MiB", 256, "/home/measured"),
        ("256 MiB again", 256, "/home/measured"),
    ] {
        let begun = std::time::Instant::now();
        let piece = Bytes::from(vec![7u8; 1 << 20]);
        let pieces = tokio_stream::iter((0..mb).map(move |_| Ok::<_, io::Error>(piece.clone())));
        let body = GuestBody::Stream(Body::from_stream(pieces));
        let call = write_call(to, "root");
        let sent = lab.send(Method::PUT, "/files", &call, &[], body).await;
        collect(sent.unwrap()).await;
        let s = begun.elapsed().as_secs_f64();
        println!("PUT {what}: {:.0} ms, {:.0} MB/s", s * 1e3, f64::from(mb) * 1.048 / s);
    }
    lab.get("/dev/shm/measured", "root").await.unwrap();
    let begun = std::time::Instant::now();
    let got = lab.get("/dev/shm/measured", "root").await.unwrap();
    let s = begun.elapsed().as_secs_f64();
    println!("GET from memory: {:.0} MB/s", got.len() as f64 / 1e6 / s);
    lab.run("rm /dev/shm/measured").await;
    let begun = std::time::Instant::now();
    let got = lab.get("/home/measured", "root").await.unwrap();
    let s = begun.elapsed().as_secs_f64();
    println!("GET: {:.0} MB/s", got.len() as f64 / 1e6 / s);
    for line in ["dd if=/dev/zero bs=64k count=4096 2>/dev/null", "cat /home/measured"] {
        let begun = std::time::Instant::now();
        let mut exec = lab.exec(&["sh", "-c", line], "root", None).await;
        exec.end_input().await;
        let mut bytes = 0;
        while let Some(frame) = exec.next().await {
            if frame.kind == FrameKind::Stdout {
                bytes += frame.payload.len();
            }
        }
        let s = begun.elapsed().as_secs_f64();
        println!("{line}: {bytes} bytes, {:.0} MB/s", bytes as f64 / 1e6 / s);
    }
    for (to, count) in [("cat >/dev/null", 256), ("cat >/home/measured", 256)] {
        let begun = std::time::Instant::now();
        let exec = lab.exec(&["sh", "-c", to], "root", None).await;
        let piece = Bytes::from(vec![7u8; 65536]);
        for _ in 0..count * 16 {
            exec.input.send(Frame::data(FrameKind::Stdin, piece.clone()).encode()).await.unwrap();
        }
        exec.end_input().await;
        exec.finish().await;
        let s = begun.elapsed().as_secs_f64();
        println!("stdin {to}: {:.0} MB/s", f64::from(count) * 1.048 / s);
    }
    let mut times = Vec::new();
    for _ in 0..60 {
        let begun = std::time::Instant::now();
        let exec = lab.exec(&["/bin/true"], "root", None).await;
        let _ = exec.input.send(Frame::data(FrameKind::StdinEnd, Bytes::new()).encode()).await;
        exec.finish().await;
        times.push(begun.elapsed());
    }
    times.sort();
    println!("true: median {:?}", times[30]);
    let mut cat = lab.exec(&["cat"], "root", Some(TerminalSize { cols: 80, rows: 24 })).await;
    cat.started().await;
    let mut times = Vec::new();
    for _ in 0..60 {
        let begun = std::time::Instant::now();
        cat.write("k").await;
        cat.expect("k").await;
        times.push(begun.elapsed());
    }
    times.sort();
    println!("key echo: median {:?}", times[30]);
    lab.vm.destroy().await;
}
