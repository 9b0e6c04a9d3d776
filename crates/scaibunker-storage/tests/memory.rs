//! What an upload or a download holds in memory: counted to the byte by the allocator, with a
//! client on a real connection and, for S3, a real server.

#![expect(clippy::unwrap_used, reason = "a test that fails shall say where")]

mod common;

use std::{
    alloc::{GlobalAlloc, Layout, System},
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use scaibunker_storage::{Objects, SigningSecret, WorkerToken, router};
use tokio::{net::TcpListener, runtime::Runtime};

/// What a request may hold.
const BOUND: usize = 16 << 20;
const OBJECT_BYTES: usize = 64 << 20;
static PIECE: [u8; 65_536] = [7; 65_536];

static HELD: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

/// The system's allocator, with a count of the bytes that are in use.
struct Counting;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

// SAFETY: every call is passed on to the system's allocator as it is.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let held = HELD.fetch_add(layout.size(), Ordering::Relaxed) + layout.size();
        PEAK.fetch_max(held, Ordering::Relaxed);
        // SAFETY: the caller's promises are those of this function.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        HELD.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller's promises are those of this function.
        unsafe { System.dealloc(memory, layout) }
    }
}

/// The most that was held at once while `act` ran, beyond what was held before.
fn peak_of(act: impl FnOnce()) -> usize {
    let before = HELD.load(Ordering::Relaxed);
    PEAK.store(before, Ordering::Relaxed);
    act();
    PEAK.load(Ordering::Relaxed) - before
}

/// One test, since the count is the process's.
#[test]
fn a_request_holds_less_than_16_mib_whatever_the_size_of_the_object() {
    let runtime = Runtime::new().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let secret = SigningSecret::new("signing-secret");
    let directory = Objects::directory(dir.path(), secret).unwrap();
    measure("directory", &runtime, directory);
    let server = common::S3Server::start();
    measure("s3", &runtime, Objects::s3(common::config(&server.endpoint), None).unwrap());
}

fn measure(name: &str, runtime: &Runtime, objects: Objects) {
    let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
    let address = listener.local_addr().unwrap();
    let app = router(objects, WorkerToken::new("token"));
    let serving = runtime.spawn(async move { axum::serve(listener, app).await.unwrap() });
    put(address, 1);
    read_and_stall(address, 1);

    let uploading = peak_of(|| put(address, OBJECT_BYTES));
    let downloading = peak_of(|| read_and_stall(address, OBJECT_BYTES));
    println!("{name}: upload {} KiB, download {} KiB", uploading >> 10, downloading >> 10);
    assert!(uploading < BOUND, "{name}: an upload held {uploading} bytes");
    assert!(downloading < BOUND, "{name}: a download held {downloading} bytes");
    serving.abort();
}

fn open(address: SocketAddr, method: &str, headers: &str) -> TcpStream {
    let mut socket = TcpStream::connect(address).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    let request = format!(
        "{method} /storage/files/bnk_1/a HTTP/1.1\r\nhost: proxy\r\nconnection: close\r\n\
         authorization: Bearer token\r\n{headers}\r\n"
    );
    socket.write_all(request.as_bytes()).unwrap();
    socket
}

/// Sends as fast as the proxy takes it.
fn put(address: SocketAddr, size: usize) {
    let mut socket = open(address, "PUT", &format!("content-length: {size}\r\n"));
    for sent in (0..size).step_by(PIECE.len()) {
        socket.write_all(&PIECE[..PIECE.len().min(size - sent)]).unwrap();
    }
    let mut answer = [0; 12];
    socket.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"HTTP/1.1 201");
}

/// Stops reading until the proxy has nothing more to send, then reads the rest.
fn read_and_stall(address: SocketAddr, size: usize) {
    let mut answer = BufReader::new(open(address, "GET", ""));
    let mut line = String::new();
    while line != "\r\n" {
        line.clear();
        answer.read_line(&mut line).unwrap();
    }
    wait_until_nothing_moves();
    let mut piece = [0; PIECE.len()];
    let mut read = 0;
    loop {
        match answer.read(&mut piece).unwrap() {
            0 => break,
            length => read += length,
        }
    }
    assert_eq!(read, size);
}

/// Until the count has stayed the same for a while.
fn wait_until_nothing_moves() {
    let mut seen = usize::MAX;
    let mut since = std::time::Instant::now();
    while since.elapsed() < Duration::from_millis(300) {
        let held = HELD.load(Ordering::Relaxed);
        if held != seen {
            (seen, since) = (held, std::time::Instant::now());
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}
