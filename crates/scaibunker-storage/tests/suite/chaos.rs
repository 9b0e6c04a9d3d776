//! A TCP proxy in front of a server, which can hold back, cut off or refuse what comes from it.

use std::sync::{
    Arc,
    atomic::{AtomicU64, AtomicUsize, Ordering},
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinHandle,
};

/// What happens to connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Weather {
    Fair,
    /// New connections end before anything is sent.
    Refusing,
    /// Nothing comes back any more.
    Silent,
    /// The connection is cut after this many bytes from the server; so are the next ones.
    Cutting(u64),
}

/// Ends when dropped.
pub struct Chaos {
    /// Where clients find the server.
    pub endpoint: String,
    weather: watch::Sender<Weather>,
    /// Connections that were cut.
    cuts: Arc<AtomicUsize>,
    /// Cuts after which the weather is fair again.
    left: Arc<AtomicU64>,
    accepting: JoinHandle<()>,
}

impl Chaos {
    /// Stands in front of `http://host:port`.
    pub async fn before(server: &str) -> Self {
        let server = server.strip_prefix("http://").unwrap().to_owned();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let (weather, seen) = watch::channel(Weather::Fair);
        let cuts = Arc::new(AtomicUsize::new(0));
        let left = Arc::new(AtomicU64::new(u64::MAX));
        let counts = (Arc::clone(&cuts), Arc::clone(&left));
        let accepting = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                if *seen.borrow() == Weather::Refusing {
                    continue;
                }
                let server = TcpStream::connect(&server).await.unwrap();
                let (seen, counts) = (seen.clone(), counts.clone());
                tokio::spawn(async move {
                    let (from_client, to_client) = client.into_split();
                    let (from_server, to_server) = server.into_split();
                    tokio::select! {
                        () = forward(from_client, to_server) => {}
                        () = back(from_server, to_client, seen, counts) => {}
                    }
                });
            }
        });
        Self { endpoint, weather, cuts, left, accepting }
    }

    pub fn set(&self, weather: Weather) {
        self.left.store(u64::MAX, Ordering::SeqCst);
        self.weather.send_replace(weather);
    }

    /// Cuts `times` connections, each after `bytes` from the server.
    pub fn cut(&self, times: u64, bytes: u64) {
        self.left.store(times, Ordering::SeqCst);
        self.weather.send_replace(Weather::Cutting(bytes));
    }

    pub fn cuts(&self) -> usize {
        self.cuts.load(Ordering::SeqCst)
    }
}

impl Drop for Chaos {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn forward(
    mut from: tokio::net::tcp::OwnedReadHalf,
    mut to: tokio::net::tcp::OwnedWriteHalf,
) {
    let _ = tokio::io::copy(&mut from, &mut to).await;
}

async fn back(
    mut from: tokio::net::tcp::OwnedReadHalf,
    mut to: tokio::net::tcp::OwnedWriteHalf,
    weather: watch::Receiver<Weather>,
    (cuts, left): (Arc<AtomicUsize>, Arc<AtomicU64>),
) {
    let mut piece = [0; 16 * 1024];
    let mut sent = 0;
    while let Ok(length @ 1..) = from.read(&mut piece).await {
        let now = *weather.borrow();
        let room = match now {
            Weather::Silent => std::future::pending().await,
            Weather::Cutting(bytes) if left.load(Ordering::SeqCst) > 0 => {
                bytes.saturating_sub(sent)
            }
            _ => u64::MAX,
        };
        let passed = length.min(usize::try_from(room).unwrap_or(usize::MAX));
        if to.write_all(&piece[..passed]).await.is_err() {
            return;
        }
        sent += passed as u64;
        if passed < length {
            cuts.fetch_add(1, Ordering::SeqCst);
            let _ = left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| {
                (n != u64::MAX).then(|| n.saturating_sub(1))
            });
            return;
        }
    }
}
