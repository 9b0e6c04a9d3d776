//! `scaibunker login` and `scaibunker logout`

use std::{
    fs,
    io::{self, BufRead as _, IsTerminal as _, Write as _},
    path::PathBuf,
};

use anyhow::{Context as _, anyhow, bail};
use clap::Args;

use crate::{
    cli::GlobalArgs,
    client::{API_KEY_VARIABLE, Client, Credential, Endpoint},
    credentials,
    exit::Failure,
    output::Output,
    secret,
    signals::Stop,
    terminal::HiddenInput,
};

/// More than any key has.
const MAX_KEY_BYTES: u64 = 4096;

/// Store an API key for the server at --url, so that later commands need neither
///
/// The key is asked for, checked with the server, and kept in
/// $XDG_CONFIG_HOME/scaibunker/credentials.toml, which only you can read. There is one login; the
/// next replaces it. Without --url it is for the server of the login before, else for the one on
/// this machine.
#[derive(Debug, Args)]
pub struct LoginArgs {
    /// Read the key from a file
    #[arg(long, value_name = "FILE", conflicts_with = "key_stdin")]
    key_file: Option<PathBuf>,
    /// Read the key from standard input
    #[arg(long)]
    key_stdin: bool,
}

pub async fn run(global: &GlobalArgs, args: &LoginArgs) -> Result<(), Failure> {
    let output = global.output();
    let path = credentials::path()?;
    let url = global.server_url()?;
    let api_key = match &args.key_file {
        Some(file) => key_of_file(file)?,
        None if args.key_stdin => first_line(io::stdin().lock())?,
        None => ask(&url).await?,
    };
    let endpoint =
        Endpoint::of(&Credential { url, api_key: api_key.clone() }).map_err(anyhow::Error::from)?;
    let me = Client::new(&endpoint)?.me().await?;
    let login = Credential { url: endpoint.base().to_owned(), api_key };
    credentials::write(&path, &login)?;

    output.note(&format!(
        "logged in to {} as {} ({}) of the tenant {}; the key is in {}",
        login.url,
        me.user.name,
        me.user.role.as_str(),
        me.tenant.name,
        path.display(),
    ));
    warn(&endpoint, output);
    if output.is_json() { output.document(&me) } else { Ok(()) }
}

/// Tells what is not as the person may think.
fn warn(endpoint: &Endpoint, output: Output) {
    if endpoint.is_open_to_others() {
        output.note("warning: the key goes over the network unencrypted; use an https:// address");
    }
    if secret::of_environment(API_KEY_VARIABLE).is_some() {
        output.note(&format!("warning: {API_KEY_VARIABLE} is set and comes before this login"));
    }
}

/// Forget the stored API key
///
/// The key itself stays valid; `scaibunker keys rm` revokes it.
pub fn forget(global: &GlobalArgs) -> Result<(), Failure> {
    let removed = credentials::remove(&credentials::path()?)?;
    global.output().note(if removed { "logged out" } else { "there was no login" });
    Ok(())
}

fn key_of_file(file: &PathBuf) -> anyhow::Result<String> {
    let opened = fs::File::open(file)
        .with_context(|| format!("cannot read the key from {}", file.display()))?;
    first_line(io::BufReader::new(opened))
}

/// Asks at the terminal, without showing what is typed.
async fn ask(url: &str) -> Result<String, Failure> {
    if !io::stdin().is_terminal() {
        return Err(anyhow!("nobody to ask for the key; give --key-stdin or --key-file").into());
    }
    // Signals are taken over first: one that came between would leave the terminal changed.
    let stop = Stop::listen().context("cannot listen for signals")?;
    let hidden = HiddenInput::enter().context("cannot keep the terminal from showing the key")?;
    let _ = write!(io::stderr(), "API key for {url}: ");
    let typed = tokio::task::spawn_blocking(|| first_line(io::stdin().lock()));
    let key = tokio::select! {
        signal = stop.requested() => Err(Failure::Stopped(signal)),
        key = typed => key.context("the key was not read")?.map_err(Failure::Error),
    };
    drop(hidden);
    // The end of the line was not shown either.
    let _ = writeln!(io::stderr());
    key
}

fn first_line(source: impl io::BufRead) -> anyhow::Result<String> {
    let mut line = String::new();
    source.take(MAX_KEY_BYTES).read_line(&mut line).context("cannot read the key")?;
    match line.trim() {
        "" => bail!("the key is empty"),
        key => Ok(key.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_one_line_and_bounded() {
        assert_eq!(first_line(&b" sgk_1 \r\nmore"[..]).unwrap(), "sgk_1");
        assert!(first_line(&b"\n"[..]).is_err() && first_line(&b""[..]).is_err());
        assert!(first_line(&b"\xff\n"[..]).is_err());
        let endless = io::BufReader::new(io::repeat(b'k'));
        assert_eq!(first_line(endless).unwrap().len() as u64, MAX_KEY_BYTES);
    }
}
