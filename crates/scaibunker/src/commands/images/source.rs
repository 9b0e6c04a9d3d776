//! Where an image comes from.

use std::{io::Read as _, path::Path};

use anyhow::{Context as _, anyhow};
use clap::Args;
use futures_util::StreamExt as _;
use scaibunker_api::{
    bunker::CreateBunker,
    image::{ImageSource, RegistryAuth},
    snapshot::Snapshot,
};
use tokio_util::io::ReaderStream;
use uuid::Uuid;

use super::local_archive;
use crate::{
    client::{Client, Content},
    exit::Failure,
    launch, object_ref,
    output::Output,
    secret,
    signals::Stop,
};

const PASSWORD_VARIABLE: &str = "SCAIBUNKER_REGISTRY_PASSWORD";
const WORKER_PREFIX: &str = "worker:";
const SNAPSHOT_PREFIX: &str = "snapshot:";
const MAX_PASSWORD_BYTES: u64 = 64 * 1024;
const PIECE: usize = 256 * 1024;

/// The source, and who asks for it.
#[derive(Debug, Args)]
pub struct SourceArgs {
    /// Registry reference, ./archive.tar, worker:PATH, or snapshot:ID
    source: String,
    /// User at the registry; the password comes from SCAIBUNKER_REGISTRY_PASSWORD
    #[arg(long, value_name = "NAME")]
    registry_user: Option<String>,
    /// Read the password from standard input
    #[arg(long, requires = "registry_user")]
    registry_password_stdin: bool,
}

impl SourceArgs {
    /// The source as the server takes it; an archive on this machine is uploaded.
    pub async fn resolve(self, client: &Client, output: Output) -> Result<ImageSource, Failure> {
        if let Some(path) = self.source.strip_prefix(WORKER_PREFIX) {
            return Ok(ImageSource::Tar { path: Some(path.to_owned()), key: None });
        }
        if let Some(snapshot) = self.source.strip_prefix(SNAPSHOT_PREFIX) {
            let key = upload_snapshot(client, output, snapshot).await?;
            return Ok(ImageSource::Tar { path: None, key: Some(key) });
        }
        if let Some(path) = local_archive(&self.source) {
            let key = upload(client, output, &path).await?;
            return Ok(ImageSource::Tar { path: None, key: Some(key) });
        }
        let auth = match self.registry_user {
            Some(username) if self.registry_password_stdin => {
                Some(RegistryAuth { username, password: password_of_stdin()? })
            }
            Some(username) => Some(registry_auth(username)?),
            None => None,
        };
        Ok(ImageSource::Oci { reference: self.source, registry_auth: auth })
    }
}

/// The user with the environment's password.
pub fn registry_auth(username: String) -> Result<RegistryAuth, Failure> {
    let password = secret::of_environment(PASSWORD_VARIABLE).with_context(|| {
        format!("no password for the registry's user {username}: set {PASSWORD_VARIABLE}")
    })?;
    Ok(RegistryAuth { username, password })
}

fn password_of_stdin() -> anyhow::Result<String> {
    let mut password = String::new();
    std::io::stdin()
        .take(MAX_PASSWORD_BYTES)
        .read_to_string(&mut password)
        .context("cannot read the password from standard input")?;
    let password = password.trim_end_matches(['\r', '\n']);
    if password.is_empty() {
        return Err(anyhow!("standard input has no password"));
    }
    Ok(password.to_owned())
}

async fn new_key(client: &Client) -> Result<String, Failure> {
    let tenant = client.me().await?.tenant.id;
    Ok(format!("images/uploads/{tenant}/{}.tar", Uuid::now_v7()))
}

/// Sends all files of a snapshot to the object store, by way of a bunker that starts from it; their key.
async fn upload_snapshot(
    client: &Client,
    output: Output,
    snapshot: &str,
) -> Result<String, Failure> {
    let snapshot_id = Some(object_ref::resolve::<Snapshot>(client, snapshot).await?);
    let key = new_key(client).await?;
    let stop = Stop::listen().context("cannot listen for signals")?.announced(output);
    let request = CreateBunker { snapshot_id, ..CreateBunker::default() };
    let bunker = launch::launch(client, &request, output, &stop).await?;
    let sending = async {
        let progress = output.byte_progress("copying the snapshot's files", None);
        let count = progress.counter();
        let files = client.read_directory(bunker.id, b"/").await?;
        let pieces = files.into_stream().inspect(move |piece| {
            if let Ok(piece) = piece {
                count(piece.len() as u64);
            }
        });
        Ok(client.upload_archive(&key, Content::stream(None, pieces)).await?)
    };
    let sent = tokio::select! {
        sent = sending => sent,
        signal = stop.requested() => Err(Failure::Stopped(signal)),
    };
    launch::discard(client, bunker.id).await;
    sent.map(|()| key)
}

/// Sends an archive to the object store; its key.
async fn upload(client: &Client, output: Output, path: &Path) -> Result<String, Failure> {
    let shown = path.display().to_string();
    let file = tokio::fs::File::open(path)
        .await
        .with_context(|| format!("cannot open the archive {shown}"))?;
    let found = file.metadata().await.with_context(|| format!("cannot read {shown}"))?;
    if !found.is_file() {
        return Err(anyhow!("{shown} is no file: an archive is one").into());
    }
    let key = new_key(client).await?;
    let progress = output.byte_progress(&format!("uploading {shown}"), Some(found.len()));
    let count = progress.counter();
    let pieces = ReaderStream::with_capacity(file, PIECE).inspect(move |piece| {
        if let Ok(piece) = piece {
            count(piece.len() as u64);
        }
    });
    client.upload_archive(&key, Content::stream(Some(found.len()), pieces)).await?;
    Ok(key)
}
