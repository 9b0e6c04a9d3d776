//! What the bench does in the place of bunkers.

use std::{
    io::{self, Read as _, Write as _},
    net::{Ipv4Addr, Shutdown, SocketAddrV4, TcpStream},
    thread,
    time::{Duration, Instant},
};

use scaibunker_worker::network::{Namespace, NetworkError};

use super::{
    lab::{WORLD, WORLD_ADDRESSES},
    server::{ECHO, PORT, SINK, SOURCE},
};
const PIECE_BYTES: usize = 256 * 1024;

/// Where somebody connects from.
pub struct Client<'a>(pub &'a Namespace);

impl Client<'_> {
    fn run<T: Send>(&self, work: impl FnOnce() -> io::Result<T> + Send) -> anyhow::Result<T> {
        let failed = |source| NetworkError::Io { what: "speak with the bench's server", source };
        Ok(self.0.enter(|| work().map_err(failed))?)
    }

    /// Times until the first byte came back, in microseconds, one connection after the other.
    pub fn round_trips(&self, count: u32) -> anyhow::Result<Vec<f64>> {
        self.run(|| (0..count).map(|at| Ok(round_trip(at)?.as_secs_f64() * 1e6)).collect())
    }

    /// Mbit/s on one connection for so long, until the last byte has arrived.
    pub fn stream(&self, time: Duration, upload: bool) -> anyhow::Result<f64> {
        let (bytes, took) = self.run(|| if upload { send(time) } else { receive(time) })?;
        Ok(bytes as f64 * 8e-6 / took.as_secs_f64())
    }
}

fn connect(at: u32) -> io::Result<TcpStream> {
    // To each in turn, so that there are ports for all connections that have just ended.
    let host = (at % WORLD_ADDRESSES) as u8 + 1;
    let [a, b, c, _] = WORLD.octets();
    TcpStream::connect(SocketAddrV4::new(Ipv4Addr::new(a, b, c, host), PORT))
}

fn echo(at: u32) -> io::Result<TcpStream> {
    let mut stream = connect(at)?;
    stream.write_all(&[ECHO, b'x'])?;
    stream.read_exact(&mut [0])?;
    Ok(stream)
}

fn round_trip(at: u32) -> io::Result<Duration> {
    let began = Instant::now();
    let _open = echo(at)?;
    Ok(began.elapsed())
}

fn send(time: Duration) -> io::Result<(u64, Duration)> {
    let piece = vec![0; PIECE_BYTES];
    let mut stream = connect(0)?;
    stream.write_all(&[SINK])?;
    let (began, mut bytes) = (Instant::now(), 0);
    while began.elapsed() < time {
        // As much as fits: a piece takes a slow connection seconds.
        bytes += stream.write(&piece)? as u64;
    }
    stream.shutdown(Shutdown::Write)?;
    stream.read_exact(&mut [0])?;
    Ok((bytes, began.elapsed()))
}

fn receive(time: Duration) -> io::Result<(u64, Duration)> {
    let mut piece = vec![0; PIECE_BYTES];
    let mut stream = connect(0)?;
    stream.write_all(&[SOURCE])?;
    let (began, mut bytes) = (Instant::now(), 0);
    while began.elapsed() < time {
        bytes += stream.read(&mut piece)? as u64;
    }
    Ok((bytes, began.elapsed()))
}

/// Round trips on new connections that all clients together make in a second.
pub fn connections_per_second(clients: &[Client<'_>], time: Duration) -> anyhow::Result<f64> {
    let began = Instant::now();
    let made = on_each(clients, || {
        let mut made = 0;
        while began.elapsed() < time {
            round_trip(made)?;
            made += 1;
        }
        Ok(made)
    })?;
    Ok((f64::from(made.into_iter().sum::<u32>()) / began.elapsed().as_secs_f64()).round())
}

/// Connections over which a byte went and came, and which are open for as long as they are held.
pub fn open_on_each(clients: &[Client<'_>], count: u32) -> anyhow::Result<Vec<Vec<TcpStream>>> {
    on_each(clients, || (0..count).map(echo).collect())
}

/// Does it on all clients at the same time.
fn on_each<T: Send>(
    clients: &[Client<'_>],
    work: impl Fn() -> io::Result<T> + Sync,
) -> anyhow::Result<Vec<T>> {
    thread::scope(|scope| {
        let threads: Vec<_> =
            clients.iter().map(|client| scope.spawn(|| client.run(&work))).collect();
        let crashed = |_| Err(anyhow::anyhow!("a client of the bench crashed"));
        threads.into_iter().map(|thread| thread.join().unwrap_or_else(crashed)).collect()
    })
}
