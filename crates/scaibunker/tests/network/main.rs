//! What bunkers reach, and what they do not: real microVMs with real curl, pip, apt, git and Python,
//! beside an internet of the test's own.
//!
//! Only root can make one. The guest agent must have been built, and QEMU, iproute2 and nftables be
//! installed: `./scripts/test` sees to all of them.

#![expect(clippy::unwrap_used, reason = "a test that fails shall say where")]

mod allowlisted;
mod faults;
mod internet;
mod lab;
mod manual;
mod mirrors;
#[path = "../fleet/network.rs"]
#[allow(dead_code, reason = "another test program uses more of it")]
mod namespaces;
#[path = "../microvm/server.rs"]
#[allow(dead_code, reason = "another test program uses more of it")]
mod server;
#[path = "../../../scaibunker-controller/tests/servers/mod.rs"]
mod servers;
mod transit;
mod unrestricted;
