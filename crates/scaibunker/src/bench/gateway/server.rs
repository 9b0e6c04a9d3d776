//! What answers in the bench's world. A connection begins with a byte that says what it is for.

use std::{
    io,
    net::{Ipv4Addr, TcpListener as StdListener},
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};

/// Gives every byte back.
pub const ECHO: u8 = b'e';
/// Takes all there is, then says that it has.
pub const SINK: u8 = b's';
/// Sends until nobody wants more.
pub const SOURCE: u8 = b'd';

pub const PORT: u16 = 7;

const PIECE_BYTES: usize = 256 * 1024;

/// In this thread's network namespace.
pub fn listen() -> io::Result<StdListener> {
    let listener = StdListener::bind((Ipv4Addr::UNSPECIFIED, PORT))?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// Serves for as long as the runtime lives.
pub async fn serve(listener: StdListener) -> io::Result<()> {
    let listener = TcpListener::from_std(listener)?;
    loop {
        let (stream, _) = listener.accept().await?;
        // A client that breaks off is its own affair.
        tokio::spawn(async move { answer(stream).await.ok() });
    }
}

async fn answer(mut stream: TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    match stream.read_u8().await? {
        ECHO => loop {
            let byte = stream.read_u8().await?;
            stream.write_u8(byte).await?;
        },
        SINK => {
            let mut buffer = vec![0; PIECE_BYTES];
            while stream.read(&mut buffer).await? > 0 {}
            stream.write_u8(SINK).await
        }
        SOURCE => {
            let buffer = vec![0; PIECE_BYTES];
            loop {
                stream.write_all(&buffer).await?;
            }
        }
        _ => Ok(()),
    }
}
