//! One TCP connection of a bunker: what it wants, whether it may, and what becomes of it.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use scaibunker_api::egress::EgressProtocol;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    sync::OwnedSemaphorePermit,
    time::timeout,
};

use crate::{
    Names,
    bunker::{Attempt, Bunker},
    dial::{Dialer, Refusal},
    dns::{self, DNS_PORT},
    hello, plain,
    pump::pump,
};

/// How long a client may take to say what it wants.
const FIRST_WORDS_LIMIT: Duration = Duration::from_secs(10);

/// First byte of a TLS record with a handshake message.
const TLS_HANDSHAKE: u8 = 22;

/// Serves a connection from the bunker. Its own end is the address that the bunker aimed at.
pub async fn serve(bunker: Arc<Bunker>, dialer: Arc<Dialer>, guest: TcpStream) {
    let Ok(aim) = guest.local_addr() else { return };
    if aim.port() == DNS_PORT {
        return dns::serve_stream(&bunker, &dialer, guest, aim).await;
    }
    let Some(_place) = bunker.place() else {
        return bunker.refuse(&attempt(EgressProtocol::Tcp, aim), &Refusal::Connections);
    };
    match bunker.policy.names {
        Names::Any => serve_any(&bunker, &dialer, guest, aim).await,
        Names::Listed(_) => serve_named(bunker, dialer, guest, aim).await,
    }
}

fn attempt(protocol: EgressProtocol, aim: SocketAddr) -> Attempt {
    Attempt { protocol, name: None, aim }
}

/// A bunker that may reach every public address: it goes where it aims. Servers may speak first, so
/// nothing is waited for, and no name is known.
async fn serve_any(bunker: &Arc<Bunker>, dialer: &Dialer, guest: TcpStream, aim: SocketAddr) {
    let attempt = attempt(EgressProtocol::Tcp, aim);
    let connected =
        dialer.connect_to(aim).await.and_then(|remote| Ok((bunker.open(attempt.clone())?, remote)));
    match connected {
        Ok((open, remote)) => pump(open, guest, remote, Vec::new()).await,
        Err(refusal) => {
            bunker.refuse(&attempt, &refusal);
            reset(guest);
        }
    }
}

/// A bunker that may reach some names: it has to say one, and gets there by it.
async fn serve_named(
    bunker: Arc<Bunker>,
    dialer: Arc<Dialer>,
    mut guest: TcpStream,
    aim: SocketAddr,
) {
    let Some(talk) = bunker.talk() else {
        return bunker.refuse(&attempt(EgressProtocol::Tcp, aim), &Refusal::Connections);
    };
    let mut first = Vec::new();
    let words = timeout(FIRST_WORDS_LIMIT, guest.read_buf(&mut first)).await;
    match (words, first.first()) {
        (Ok(Ok(_)), Some(&TLS_HANDSHAKE)) => {
            serve_tls(&bunker, &dialer, guest, aim, first, talk).await;
        }
        (Ok(Ok(_)), Some(byte)) if byte.is_ascii_uppercase() => {
            plain::serve(bunker, dialer, guest, aim, first).await;
        }
        (_, first) => {
            let why = match first {
                Some(_) => "it is neither TLS nor HTTP, so it names no host",
                None => "the client said nothing, so it named no host",
            };
            bunker.refuse(&attempt(EgressProtocol::Tcp, aim), &Refusal::Protocol(why));
            reset(guest);
        }
    }
}

async fn serve_tls(
    bunker: &Arc<Bunker>,
    dialer: &Dialer,
    mut guest: TcpStream,
    aim: SocketAddr,
    first: Vec<u8>,
    talk: OwnedSemaphorePermit,
) {
    let mut attempt = attempt(EgressProtocol::Tls, aim);
    let hello = timeout(FIRST_WORDS_LIMIT, hello::read(&mut guest, first)).await;
    let Ok(Ok(hello)) = hello else {
        bunker.refuse(&attempt, &Refusal::Protocol("its TLS hello cannot be read"));
        return reset(guest);
    };
    attempt.name = hello.name.as_ref().map(ToString::to_string);
    let connected = async {
        if hello.is_encrypted {
            return Err(Refusal::Protocol("its TLS hello may hide another name (ECH)"));
        }
        let name = hello.name.as_ref();
        let name = name.ok_or(Refusal::Protocol("its TLS hello names no host (no SNI)"))?;
        if !bunker.policy.names.allow(name) {
            return Err(Refusal::Name);
        }
        let remote = dialer.connect(name, aim.port()).await?;
        attempt.aim = remote.peer_addr().map_err(Refusal::Connect)?;
        Ok((bunker.open(attempt.clone())?, remote))
    };
    match connected.await {
        Ok((open, remote)) => {
            drop(talk);
            pump(open, guest, remote, hello.bytes).await;
        }
        Err(refusal) => {
            bunker.refuse(&attempt, &refusal);
            // So that the client says that it was denied, rather than that it was cut off.
            let _ = guest.write_all(&hello::ACCESS_DENIED).await;
            let _ = guest.shutdown().await;
        }
    }
}

/// Closes the connection as a host does on which nobody listens.
fn reset(guest: TcpStream) {
    // If it cannot be, it is closed in the ordinary way.
    let _ = guest.set_zero_linger();
}
