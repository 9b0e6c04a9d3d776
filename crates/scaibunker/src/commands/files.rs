//! `scaibunker files`

use anyhow::anyhow;
use clap::{
    Args, Subcommand,
    builder::{OsStringValueParser, TypedValueParser},
};
use jiff::Timestamp;
use scaibunker_api::{
    file::{MkdirRequest, MoveRequest},
    ids::BunkerId,
};

use crate::{
    bunker_ref,
    cli::GlobalArgs,
    client::Client,
    copy::{Place, shown},
    exit::Failure,
    tables,
};

/// Look at the files of a bunker and change them; `scaibunker cp` copies them
#[derive(Debug, Args)]
pub struct FilesArgs {
    #[command(subcommand)]
    what: Files,
}

/// A path in a bunker.
#[derive(Debug, Clone)]
struct Remote {
    bunker: String,
    path: Vec<u8>,
}

#[derive(Debug, Subcommand)]
enum Files {
    /// List a directory; with --quiet only the paths
    Ls {
        #[arg(value_name = "BUNKER:/PATH", value_parser = remote())]
        at: Remote,
    },
    /// Show one file, directory or link
    Stat {
        #[arg(value_name = "BUNKER:/PATH", value_parser = remote())]
        at: Remote,
    },
    /// Make a directory, and those it is in
    Mkdir {
        #[arg(value_name = "BUNKER:/PATH", value_parser = remote())]
        at: Remote,
    },
    /// Rename a file or directory
    Mv {
        #[arg(value_name = "BUNKER:/PATH", value_parser = remote())]
        from: Remote,
        /// Its new path in the same bunker
        #[arg(value_name = "/PATH")]
        to: String,
        /// Replace a file that is there already
        #[arg(long, short)]
        force: bool,
    },
    /// Remove a file, or a directory that is empty
    Rm {
        #[arg(value_name = "BUNKER:/PATH", value_parser = remote())]
        at: Remote,
        /// A directory with all that is in it
        #[arg(long, short)]
        recursive: bool,
    },
}

fn remote() -> impl TypedValueParser<Value = Remote> {
    OsStringValueParser::new().try_map(|text| match Place::parse(text) {
        Ok(Place::Bunker { bunker, path }) => Ok(Remote { bunker, path }),
        Ok(_) => Err("it has to be `BUNKER:/path`".to_owned()),
        Err(error) => Err(error.to_string()),
    })
}

impl Remote {
    async fn bunker(&self, client: &Client) -> Result<BunkerId, Failure> {
        bunker_ref::resolve(client, &self.bunker).await
    }

    /// The path where the API takes it as text.
    fn text(&self) -> Result<String, Failure> {
        let text = String::from_utf8(self.path.clone());
        text.map_err(|_| {
            anyhow!("{} is not UTF-8; use `scaibunker exec`", shown(&self.path)).into()
        })
    }
}

pub async fn run(global: &GlobalArgs, args: FilesArgs) -> Result<(), Failure> {
    let (client, output) = (global.client()?, global.output());
    let (entries, is_one) = match args.what {
        Files::Ls { at } => {
            let id = at.bunker(&client).await?;
            (client.list_directory(id, &at.path).await?, false)
        }
        Files::Stat { at } => (vec![client.stat(at.bunker(&client).await?, &at.path).await?], true),
        Files::Mkdir { at } => {
            let request = MkdirRequest { path: at.text()?, mode: None, uid: None, gid: None };
            client.make_directory(at.bunker(&client).await?, &request).await?;
            return Ok(());
        }
        Files::Mv { from, to, force } => {
            let request = MoveRequest { from: from.text()?, to, overwrite: force };
            client.move_file(from.bunker(&client).await?, &request).await?;
            return Ok(());
        }
        Files::Rm { at, recursive } => {
            let id = at.bunker(&client).await?;
            return Ok(client.delete_file(id, &at.path, recursive).await?);
        }
    };
    match entries.as_slice() {
        [entry] if is_one && output.is_json() => output.document(entry),
        entries if output.is_json() => output.document(&entries),
        entries if output.is_quiet() => {
            let paths: String = entries.iter().map(|entry| format!("{}\n", entry.path)).collect();
            output.data(paths.as_bytes())
        }
        entries => output.table(&tables::files(entries, Timestamp::now())),
    }
}
