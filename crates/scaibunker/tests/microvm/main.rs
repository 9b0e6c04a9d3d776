//! The real program with real microVMs, through its HTTP API and its commands.
//!
//! Each test starts a server of its own on a free port and a directory of its own. The guest
//! agent must have been built and QEMU be installed: `./scripts/test` sees to both.

#![expect(clippy::unwrap_used, reason = "a test that fails shall say where")]

mod api;
mod caller;
mod commands;
mod exec;
mod faults;
mod files;
mod hostile;
mod image_faults;
mod image_layers;
mod images;
mod kills;
mod lifecycle;
mod manual;
mod manual_images;
mod manual_quotas;
mod manual_snapshots;
mod moments;
mod registry;
mod scans;
mod server;
mod shell;
mod snapshots;
mod uniqueness;
