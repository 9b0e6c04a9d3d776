//! An internet: a network of its own with a resolver and with servers, all of which listen on every
//! address there is and remember who came.

use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    process::Command,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
        mpsc,
    },
};

use axum::{
    Router,
    extract::{Request, State},
    http::{StatusCode, header},
    response::{IntoResponse as _, Response},
};
use hickory_proto::{
    op::Message,
    rr::{
        RData, Record, RecordType,
        rdata::{A, AAAA, CNAME, HTTPS, NULL, SVCB, TXT},
    },
};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
    service::TowerToHyperService,
};
use rustix::thread::{UnshareFlags, unshare_unsafe};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream, UdpSocket},
};
use tokio_rustls::{
    LazyConfigAcceptor,
    rustls::{
        ServerConfig,
        pki_types::{CertificateDer, PrivateKeyDer},
        server::Acceptor,
    },
};

/// The test's own address there: a public one, so that it is the worker's that keeps it out.
pub const WORKER: &str = "8.8.1.2";
const GATEWAY: &str = "8.8.1.1";
const WORKER_6: &str = "2a00:1450::2";
const GATEWAY_6: &str = "2a00:1450::1";

pub const ALLOWED: &str = "93.184.215.14";
pub const ALLOWED_6: &str = "2606:2800::14";
pub const OTHER: &str = "151.101.1.1";
/// A resolver that is nobody's.
pub const RESOLVER: &str = "1.1.1.1";

const ADDRESSES: [&str; 10] = [
    ALLOWED,
    ALLOWED_6,
    OTHER,
    RESOLVER,
    "2606:4700::1111",
    "10.0.0.5",
    "100.64.0.5",
    "169.254.169.254",
    "192.168.1.1",
    "fd00:ec2::254",
];

/// Answers the first lookup with a public address and the others with a private one.
const REBINDING: &str = "rebind.test";

/// Ports on which servers speak first.
const GREETING_PORTS: [u16; 2] = [22, 4444];

/// What a server saw.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// `dns`, `tcp`, `tls`, `http` or `udp`.
    pub what: &'static str,
    /// The address that was asked.
    pub at: SocketAddr,
    /// The name in it.
    pub name: String,
}

#[derive(Default)]
struct Memory {
    seen: Mutex<Vec<Seen>>,
    rebound: AtomicUsize,
}

impl Memory {
    fn note(&self, what: &'static str, at: SocketAddr, name: &str) {
        let at = SocketAddr::new(at.ip().to_canonical(), at.port());
        self.seen.lock().unwrap().push(Seen { what, at, name: name.to_owned() });
    }
}

/// It ends with the test's processes.
pub struct Internet {
    memory: Arc<Memory>,
    /// Of the test's resolver configuration, which is mounted over the machine's.
    _resolver: tempfile::TempDir,
}

impl Internet {
    /// Only in a thread that has a network and mounts of its own. `files` are what web servers serve,
    /// in a directory for each name.
    pub fn start(files: PathBuf) -> Self {
        let memory = Arc::new(Memory::default());
        let (ready, is_ready) = mpsc::channel();
        let remembered = Arc::clone(&memory);
        std::thread::spawn(move || {
            // SAFETY: files stay as they are; nothing else of this thread depends on the network.
            unsafe { unshare_unsafe(UnshareFlags::NEWNET).unwrap() };
            ready.send(rustix::thread::gettid().as_raw_nonzero().get()).unwrap();
            run(remembered, files, &ready);
        });
        let thread = is_ready.recv().unwrap();
        ip(&format!("link add up0 type veth peer name up1 netns {thread}"));
        ip(&format!("address add {WORKER}/24 dev up0"));
        ip(&format!("-6 address add {WORKER_6}/64 dev up0 nodad"));
        ip("link set up0 up");
        is_ready.recv().unwrap();
        ip(&format!("route add default via {GATEWAY}"));
        ip(&format!("-6 route add default via {GATEWAY_6}"));
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("resolv.conf");
        std::fs::write(&file, format!("nameserver {GATEWAY}\n")).unwrap();
        rustix::mount::mount_bind(&file, "/etc/resolv.conf").unwrap();
        Self { memory, _resolver: dir }
    }

    /// What was seen since the last time.
    pub fn seen(&self) -> Vec<Seen> {
        std::mem::take(&mut *self.memory.seen.lock().unwrap())
    }
}

fn ip(line: &str) {
    let output = Command::new("ip").args(line.split(' ')).output().unwrap();
    assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
}

fn run(memory: Arc<Memory>, files: PathBuf, ready: &mpsc::Sender<i32>) {
    ip("link set lo up");
    while !std::path::Path::new("/proc/thread-self/net/dev").exists()
        || !std::fs::read_to_string("/proc/thread-self/net/dev").unwrap().contains("up1")
    {
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    for (address, device) in [(GATEWAY, "up1"), (GATEWAY_6, "up1")]
        .into_iter()
        .chain(ADDRESSES.map(|address| (address, "lo")))
    {
        let prefix = match (device, address.contains(':')) {
            ("lo", false) => 32,
            ("lo", true) => 128,
            (_, false) => 24,
            (_, true) => 64,
        };
        let nodad = if address.contains(':') { " nodad" } else { "" };
        ip(&format!("address add {address}/{prefix} dev {device}{nodad}"));
    }
    ip("link set up1 up");
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    runtime.enable_all().build().unwrap().block_on(async {
        let web = Router::new().fallback(serve_file).with_state(Arc::new(files));
        let tls = Arc::new(tls_config());
        for port in [80, 443, 853, 8080, 8443] {
            let listener = TcpListener::bind(("::", port)).await.unwrap();
            tokio::spawn(serve_web(listener, Arc::clone(&memory), web.clone(), Arc::clone(&tls)));
        }
        for port in GREETING_PORTS {
            let listener = TcpListener::bind(("::", port)).await.unwrap();
            tokio::spawn(serve_greeting(listener, Arc::clone(&memory)));
        }
        // A socket for each address: a datagram does not tell where it was sent to.
        for address in ADDRESSES.into_iter().chain([GATEWAY, GATEWAY_6]) {
            let address: IpAddr = address.parse().unwrap();
            for port in [53, 443, 4444] {
                let socket = UdpSocket::bind((address, port)).await.unwrap();
                tokio::spawn(serve_datagrams(socket, Arc::clone(&memory)));
            }
            let listener = TcpListener::bind((address, 53)).await.unwrap();
            tokio::spawn(serve_dns_streams(listener, Arc::clone(&memory)));
        }
        ready.send(0).unwrap();
        std::future::pending::<()>().await;
    });
}

fn tls_config() -> ServerConfig {
    let made = rcgen::generate_simple_self_signed(["allowed.test".to_owned()]).unwrap();
    let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
    let chain = vec![CertificateDer::from(made.cert.der().to_vec())];
    ServerConfig::builder().with_no_client_auth().with_single_cert(chain, key).unwrap()
}

async fn serve_web(
    listener: TcpListener,
    memory: Arc<Memory>,
    web: Router,
    tls: Arc<ServerConfig>,
) {
    while let Ok((stream, _)) = listener.accept().await {
        let (memory, web, tls) = (Arc::clone(&memory), web.clone(), Arc::clone(&tls));
        tokio::spawn(async move {
            let at = stream.local_addr().unwrap();
            memory.note("tcp", at, "");
            let mut first = [0];
            let is_tls =
                stream.peek(&mut first).await.is_ok_and(|read| read == 1) && first[0] == 22;
            let web = web.layer(axum::Extension((at, Arc::clone(&memory))));
            let service = TowerToHyperService::new(web);
            let server = auto::Builder::new(TokioExecutor::new());
            if is_tls {
                let Ok(hello) = LazyConfigAcceptor::new(Acceptor::default(), stream).await else {
                    return;
                };
                let name = hello.client_hello().server_name().unwrap_or("-").to_owned();
                memory.note("tls", at, &name);
                if let Ok(stream) = hello.into_stream(tls).await {
                    let _ = server.serve_connection(TokioIo::new(stream), service).await;
                }
            } else {
                let _ = server.serve_connection(TokioIo::new(stream), service).await;
            }
        });
    }
}

/// The file of that name in the directory of the host; without one, what the host is called.
async fn serve_file(State(files): State<Arc<PathBuf>>, request: Request) -> Response {
    let host = request.headers().get(header::HOST).and_then(|host| host.to_str().ok());
    let host = host.or(request.uri().host()).unwrap_or("-");
    let host = host.split(':').next().unwrap_or("-").to_owned();
    if let Some((at, memory)) = request.extensions().get::<(SocketAddr, Arc<Memory>)>() {
        memory.note("http", *at, &host);
    }
    let path = request.uri().path().trim_start_matches('/').to_owned();
    if request.method() == http::Method::POST || request.method() == http::Method::PUT {
        let body = axum::body::to_bytes(request.into_body(), usize::MAX).await.unwrap();
        return format!("{} bytes", body.len()).into_response();
    }
    let mut file = files.join(&host).join(&path);
    if file.is_dir() {
        file.push("index.html");
    }
    match std::fs::read(&file) {
        Ok(bytes) => {
            let is_page = file.extension().is_some_and(|extension| extension == "html");
            let kind = if is_page { "text/html" } else { "application/octet-stream" };
            ([(header::CONTENT_TYPE, kind)], bytes).into_response()
        }
        Err(_) if path.is_empty() => format!("this is {host}\n").into_response(),
        Err(_) => StatusCode::NOT_FOUND.into_response(),
    }
}

async fn serve_greeting(listener: TcpListener, memory: Arc<Memory>) {
    while let Ok((mut stream, _)) = listener.accept().await {
        memory.note("tcp", stream.local_addr().unwrap(), "");
        tokio::spawn(async move {
            let _ = stream.write_all(b"hello from outside\n").await;
            let mut rest = Vec::new();
            let _ = stream.read_to_end(&mut rest).await;
        });
    }
}

async fn serve_datagrams(socket: UdpSocket, memory: Arc<Memory>) {
    let at = socket.local_addr().unwrap();
    let mut buffer = vec![0; 4096];
    while let Ok((count, from)) = socket.recv_from(&mut buffer).await {
        if at.port() == 53 {
            if let Some(answer) = resolve(&buffer[..count], at, &memory) {
                let _ = socket.send_to(&answer, from).await;
            }
        } else {
            memory.note("udp", at, &String::from_utf8_lossy(&buffer[..count]));
            let _ = socket.send_to(b"hello from outside\n", from).await;
        }
    }
}

async fn serve_dns_streams(listener: TcpListener, memory: Arc<Memory>) {
    while let Ok((mut stream, _)) = listener.accept().await {
        let memory = Arc::clone(&memory);
        tokio::spawn(
            async move { while serve_dns_message(&mut stream, &memory).await.is_some() {} },
        );
    }
}

async fn serve_dns_message(stream: &mut TcpStream, memory: &Memory) -> Option<()> {
    let mut question = vec![0; usize::from(stream.read_u16().await.ok()?)];
    stream.read_exact(&mut question).await.ok()?;
    let answer = resolve(&question, stream.local_addr().ok()?, memory)?;
    stream.write_u16(answer.len() as u16).await.ok()?;
    stream.write_all(&answer).await.ok()
}

fn resolve(question: &[u8], at: SocketAddr, memory: &Memory) -> Option<Vec<u8>> {
    let question = Message::from_vec(question).ok()?;
    let query = question.queries.first()?;
    let name = query.name().to_ascii().to_lowercase();
    let name = name.trim_end_matches('.');
    memory.note("dns", at, name);
    let zone: HashMap<&str, Vec<&str>> = HashMap::from([
        ("allowed.test", vec![ALLOWED, ALLOWED_6]),
        ("wild.test", vec![ALLOWED]),
        ("mirror.test", vec![OTHER]),
        ("other.test", vec![OTHER]),
        // At the same address as the allowed one.
        ("neighbour.test", vec![ALLOWED]),
        ("private.test", vec!["10.0.0.5"]),
        ("cgnat.test", vec!["100.64.0.5"]),
        ("metadata.test", vec!["169.254.169.254", "fd00:ec2::254"]),
        ("loopback.test", vec!["127.0.0.1", "::1"]),
        ("mapped.test", vec!["::ffff:10.0.0.5"]),
        ("worker.test", vec![WORKER]),
        ("bunker.test", vec!["10.201.0.3"]),
    ]);
    let mut answer = Message::response(question.metadata.id, question.metadata.op_code);
    answer.metadata.recursion_available = true;
    answer.add_queries(question.queries.iter().cloned());
    let record = |data| Record::from_rdata(query.name().clone(), 1, data);
    let rebound;
    let addresses: &[&str] = match name {
        _ if name.ends_with(".other.test") || name.ends_with(".wild.test") => &[ALLOWED],
        "alias.test" => {
            let target: hickory_proto::rr::Name = "private.test.".parse().unwrap();
            answer.add_answer(record(RData::CNAME(CNAME(target.clone()))));
            answer.add_answer(Record::from_rdata(target, 1, RData::A(A([10, 0, 0, 5].into()))));
            &[]
        }
        REBINDING => {
            let times = memory.rebound.fetch_add(1, Ordering::Relaxed);
            rebound = [if times < 1 { ALLOWED } else { "10.0.0.5" }];
            &rebound
        }
        _ => zone.get(name).map_or(&[], Vec::as_slice),
    };
    for address in addresses {
        match (address.parse().unwrap(), query.query_type()) {
            (IpAddr::V4(address), RecordType::A) => {
                answer.add_answer(record(RData::A(A(address))));
            }
            (IpAddr::V6(address), RecordType::AAAA) => {
                answer.add_answer(record(RData::AAAA(AAAA(address))));
            }
            _ => {}
        }
    }
    match query.query_type() {
        RecordType::TXT => {
            answer.add_answer(record(RData::TXT(TXT::new(vec!["a way in".to_owned()]))));
        }
        RecordType::NULL => {
            answer.add_answer(record(RData::NULL(NULL::with(b"a way in".to_vec()))));
        }
        RecordType::HTTPS => {
            let target = query.name().clone();
            answer.add_answer(record(RData::HTTPS(HTTPS(SVCB::new(1, target, Vec::new())))));
        }
        _ => {}
    }
    answer.to_vec().ok()
}
