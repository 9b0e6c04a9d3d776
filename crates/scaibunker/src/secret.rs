//! Secrets of the server on this machine.

use std::{
    fs, io,
    io::Write as _,
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::Path,
};

use anyhow::Context as _;

const WORKER_TOKEN_VARIABLE: &str = "SCAIBUNKER_WORKER_TOKEN";
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
    if let Some(token) = of_environment(WORKER_TOKEN_VARIABLE) {
        return Ok(token);
    }
    let path = data_dir.join("worker.token");
    match fs::read_to_string(&path) {
        Ok(text) if !text.trim().is_empty() => Ok(text.trim().to_owned()),
        Ok(_) => write_token(&path),
        Err(error) if error.kind() == io::ErrorKind::NotFound => write_token(&path),
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
