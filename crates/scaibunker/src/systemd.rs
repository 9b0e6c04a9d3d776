//! Telling a service manager how the server is, as sd_notify(3) describes it.

use std::{
    env,
    os::{
        linux::net::SocketAddrExt as _,
        unix::net::{SocketAddr, UnixDatagram},
    },
};

/// Tells that the server is ready, if anybody wants to know.
pub fn ready() {
    let Some(name) = env::var_os("NOTIFY_SOCKET") else { return };
    let Some(name) = name.to_str() else { return };
    // A name that begins with `@` is one of the abstract kind.
    let address = match name.strip_prefix('@') {
        Some(name) => SocketAddr::from_abstract_name(name),
        None => SocketAddr::from_pathname(name),
    };
    let told =
        address.and_then(|address| UnixDatagram::unbound()?.send_to_addr(b"READY=1", &address));
    if let Err(error) = told {
        tracing::warn!(%error, "the service manager does not hear that the server is ready");
    }
}
