//! Secrets of the server on this machine.

use std::{
    fs, io,
    io::Write as _,
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::Path,
};

use anyhow::Context as _;

const WORKER_TOKEN_VARIABLE: &str = "SCAIBUNKER_WORKER_TOKEN";
/// What snapshots are sealed with.
pub const SNAPSHOT_SECRET_VARIABLE: &str = "SCAIBUNKER_SNAPSHOT_SECRET";
/// The secret before that one.
pub const PREVIOUS_SNAPSHOT_SECRET_VARIABLE: &str = "SCAIBUNKER_SNAPSHOT_SECRET_PREVIOUS";

/// Shared by the controller and its storage proxies.
pub const CAPABILITY_SECRET_VARIABLE: &str = "SCAIBUNKER_CAPABILITY_SECRET";
/// The one before: what it has signed is still accepted.
pub const PREVIOUS_CAPABILITY_SECRET_VARIABLE: &str = "SCAIBUNKER_CAPABILITY_SECRET_PREVIOUS";
const WORKER_TOKEN_FILE: &str = "worker.token";
/// Made by the controller.
const CAPABILITY_SECRET_FILE: &str = "capability.secret";
const TOKEN_BYTES: usize = 32;

/// Makes a directory that only this user can enter.
pub fn make_private_dir(path: &Path) -> anyhow::Result<()> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .with_context(|| format!("cannot make {}", path.display()))
}

/// A secret that the environment holds; an empty one is none.
pub fn of_environment(variable: &str) -> Option<String> {
    std::env::var(variable).ok().filter(|text| !text.is_empty())
}

/// The secret of workers: the environment's, else the one in the data directory, made when it is
/// missing.
pub fn worker_token(data_dir: &Path) -> anyhow::Result<String> {
    match existing_worker_token(data_dir)? {
        Some(token) => Ok(token),
        None => write_token(&data_dir.join(WORKER_TOKEN_FILE)),
    }
}

/// The secret of workers, if there is one by now.
pub fn existing_worker_token(data_dir: &Path) -> anyhow::Result<Option<String>> {
    of_environment_or(WORKER_TOKEN_VARIABLE, &data_dir.join(WORKER_TOKEN_FILE))
}

/// The secret that signs URLs and capability tokens, if there is one by now.
pub fn existing_capability_secret(data_dir: &Path) -> anyhow::Result<Option<String>> {
    of_environment_or(CAPABILITY_SECRET_VARIABLE, &data_dir.join(CAPABILITY_SECRET_FILE))
}

fn of_environment_or(variable: &str, path: &Path) -> anyhow::Result<Option<String>> {
    if let Some(secret) = of_environment(variable) {
        return Ok(Some(secret));
    }
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text.trim().to_owned()).filter(|secret| !secret.is_empty())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
    }
}

fn write_token(path: &Path) -> anyhow::Result<String> {
    let mut bytes = [0; TOKEN_BYTES];
    rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())
        .context("cannot draw random bytes")?;
    let token: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(path)
        .and_then(|mut file| writeln!(file, "{token}"))
        .with_context(|| format!("cannot write {}", path.display()))?;
    Ok(token)
}
