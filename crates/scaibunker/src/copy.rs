//! Copying files between this machine and a bunker.

mod into_bunker;
mod out_of_bunker;
mod pack;
mod place;
mod unpack;

use anyhow::Context as _;
use scaibunker_api::ids::BunkerId;

pub use self::{into_bunker::into_bunker, out_of_bunker::out_of_bunker, place::Place};
use crate::{
    client::{Client, ClientError},
    exit::Failure,
    output::Output,
};

/// A bunker, and how to speak about what is copied.
#[derive(Debug)]
pub struct Copying<'a> {
    pub client: &'a Client,
    pub bunker: BunkerId,
    pub output: Output,
}

/// A failed call, with what it was made for.
fn failed(what: &str, error: ClientError) -> Failure {
    Failure::Error(anyhow::Error::new(error).context(what.to_owned()))
}

/// Something on this machine that failed.
fn here<T>(what: impl FnOnce() -> String, result: std::io::Result<T>) -> Result<T, Failure> {
    Ok(result.with_context(what)?)
}

/// Bytes as people read them.
pub fn shown(path: &[u8]) -> String {
    String::from_utf8_lossy(path).into_owned()
}
