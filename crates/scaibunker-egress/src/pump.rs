//! Copies bytes between a bunker and the other side.
//!
//! A buffer is only held while there is something in it, so thousands of idle connections cost little
//! more than their sockets.

use std::{cell::RefCell, io, time::Duration};

use tokio::{
    io::AsyncWriteExt as _,
    net::{TcpStream, tcp::OwnedWriteHalf},
    time::sleep,
};

use crate::bunker::Open;

const PIECE_BYTES: usize = 32 * 1024;

thread_local! {
    static BUFFER: RefCell<Box<[u8]>> = RefCell::new(vec![0; PIECE_BYTES].into_boxed_slice());
}

/// Copies both ways until both ends have said all, or one has failed. `first` was read from the
/// bunker before.
pub async fn pump(open: Open, guest: TcpStream, mut remote: TcpStream, first: Vec<u8>) {
    if !first.is_empty() {
        if remote.write_all(&first).await.is_err() {
            return;
        }
        pay(open.sent(first.len())).await;
        drop(first);
    }
    let (from_guest, mut to_guest) = guest.into_split();
    let (from_remote, mut to_remote) = remote.into_split();
    let upwards = async {
        while let Some(bytes) = copy(from_guest.as_ref(), &mut to_remote).await? {
            pay(open.sent(bytes)).await;
        }
        to_remote.shutdown().await
    };
    let downwards = async {
        while let Some(bytes) = copy(from_remote.as_ref(), &mut to_guest).await? {
            open.received(bytes);
        }
        to_guest.shutdown().await
    };
    // A side that fails takes the other with it.
    let _ = tokio::try_join!(upwards, downwards);
}

/// Waits, if there is something to wait for: a sleep takes a millisecond at least.
async fn pay(wait: Duration) {
    if !wait.is_zero() {
        sleep(wait).await;
    }
}

/// Copies what is there, waiting for something; `None` at the end.
async fn copy(from: &TcpStream, to: &mut OwnedWriteHalf) -> io::Result<Option<usize>> {
    loop {
        // What cannot be passed on is not taken: it waits with whoever sent it.
        to.writable().await?;
        from.readable().await?;
        let read = BUFFER.with_borrow_mut(|buffer| {
            let count = from.try_read(buffer)?;
            let written = match to.try_write(&buffer[..count]) {
                Ok(written) => written,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => 0,
                Err(error) => return Err(error),
            };
            Ok((count, buffer[written..count].to_vec()))
        });
        match read {
            Ok((0, _)) => return Ok(None),
            Ok((count, rest)) => {
                to.write_all(&rest).await?;
                return Ok(Some(count));
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
}
