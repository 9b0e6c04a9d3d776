//! `scaibunker images`

mod arrival;
mod scan;
mod source;

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};
use jiff::Timestamp;
use scaibunker_api::image::{CreateImage, Image, ImageScope, PatchImage};

use self::source::SourceArgs;
use crate::{
    cli::GlobalArgs,
    exit::Failure,
    object_ref::resolve,
    quantity::{cpu_millicores, pair, size_mb},
    records, tables,
};

/// List, add and change the images bunkers can be made from
#[derive(Debug, Args)]
pub struct ImagesArgs {
    #[command(subcommand)]
    what: Option<Images>,
}

#[derive(Debug, Subcommand)]
enum Images {
    /// List images, newest first; with --quiet only their ids
    Ls,
    /// Add an image, wait until workers have it, and print its id
    ///
    /// SOURCE is an image in a registry (registry.example/app:1.2, or …@sha256:…), an archive on
    /// this machine (a path with a `/`, such as ./app.tar: what `docker save` writes, an OCI layout,
    /// or a plain tree), `worker:PATH`, an archive in the workers' import directory, or `snapshot:ID`,
    /// the files of a snapshot: its bunker's environment and user are not the image's, whose commands
    /// run as root.
    Add(Box<AddArgs>),
    /// Show an image
    Show {
        /// Id or name
        image: String,
    },
    /// Have the workers get an image, again if they failed, and wait until they have it
    Warm {
        /// Id or name
        image: String,
        /// Do not wait
        #[arg(long)]
        no_wait: bool,
    },
    /// Show what each worker has of an image
    Cache {
        /// Id or name
        image: String,
    },
    /// Scan an image for known vulnerabilities and forgotten secrets, and show what was found
    Scan(scan::ScanArgs),
    /// Change an image's name, defaults or credentials
    Set(Box<SetArgs>),
    /// Delete images, and print their ids
    Rm {
        /// Id or name
        #[arg(value_name = "IMAGE", required = true)]
        images: Vec<String>,
    },
}

#[derive(Debug, Args)]
struct AddArgs {
    name: String,
    #[command(flatten)]
    source: SourceArgs,
    /// Largest root file system, such as 4G
    #[arg(long, value_name = "SIZE", value_parser = size_mb, default_value = "2G")]
    size: u32,
    #[command(flatten)]
    defaults: DefaultArgs,
    /// Who sees it
    #[arg(long, value_enum, default_value_t = ScopeArg::Tenant)]
    scope: ScopeArg,
    /// Have workers fetch it when a bunker wants it, instead of beforehand
    #[arg(long)]
    lazy: bool,
    /// Variable of every command, over the image's own; may be given more than once
    #[arg(long, value_name = "NAME=VALUE", value_parser = pair)]
    env: Vec<(String, String)>,
    /// Do not wait until workers have it
    #[arg(long)]
    no_wait: bool,
}

/// What bunkers get unless they ask for something else.
#[derive(Debug, Args)]
struct DefaultArgs {
    /// CPU of a bunker that asks for none, such as 0.5 or 2
    #[arg(long, value_name = "CORES", value_parser = cpu_millicores)]
    cpu: Option<u32>,
    /// Memory of a bunker that asks for none, such as 512M
    #[arg(long, value_name = "SIZE", value_parser = size_mb)]
    memory: Option<u32>,
    /// Disk of a bunker that asks for none, such as 2G
    #[arg(long, value_name = "SIZE", value_parser = size_mb)]
    disk: Option<u32>,
}

#[derive(Debug, Args)]
struct SetArgs {
    /// Id or name
    image: String,
    /// Its new name
    #[arg(long)]
    name: Option<String>,
    #[command(flatten)]
    defaults: DefaultArgs,
    /// Whether workers fetch it only when a bunker wants it
    #[arg(long, value_name = "BOOL")]
    lazy: Option<bool>,
    /// User at the registry; the password comes from SCAIBUNKER_REGISTRY_PASSWORD
    #[arg(long, value_name = "NAME")]
    registry_user: Option<String>,
}

/// See [`ImageScope`].
#[derive(Debug, Clone, Copy, ValueEnum)]
enum ScopeArg {
    Tenant,
    Partner,
    Platform,
}

impl From<ScopeArg> for ImageScope {
    fn from(scope: ScopeArg) -> Self {
        match scope {
            ScopeArg::Tenant => Self::Tenant,
            ScopeArg::Partner => Self::Partner,
            ScopeArg::Platform => Self::Platform,
        }
    }
}

pub async fn run(global: &GlobalArgs, args: ImagesArgs) -> Result<(), Failure> {
    let (client, output) = (global.client()?, global.output());
    match args.what.unwrap_or(Images::Ls) {
        Images::Ls => records::list(output, &client.list::<Image>().await?, tables::images),
        Images::Add(args) => add(global, *args).await,
        Images::Show { image } => {
            let id = resolve::<Image>(&client, &image).await?;
            records::one(output, &client.image(id).await?, tables::image)
        }
        Images::Warm { image, no_wait } => {
            let id = resolve::<Image>(&client, &image).await?;
            client.warm_image(id).await?;
            let image = if no_wait {
                client.image(id).await?
            } else {
                arrival::follow(&client, output, id).await?
            };
            records::made(output, &image)
        }
        Images::Cache { image } => {
            let rows = client.image_cache(resolve::<Image>(&client, &image).await?).await?;
            if output.is_json() {
                return output.document(&rows);
            }
            output.table(&tables::image_cache(&rows, Timestamp::now()))
        }
        Images::Scan(args) => scan::run(&client, output, args).await,
        Images::Set(args) => {
            let id = resolve::<Image>(&client, &args.image).await?;
            let patch = PatchImage {
                name: args.name,
                default_cpu_millicores: args.defaults.cpu,
                default_memory_mb: args.defaults.memory,
                default_disk_mb: args.defaults.disk,
                lazy_pull: args.lazy,
                entrypoint_env: None,
                registry_auth: args.registry_user.map(source::registry_auth).transpose()?,
            };
            records::one(output, &client.patch::<Image>(id, &patch).await?, tables::image)
        }
        Images::Rm { images } => records::remove::<Image>(&client, output, &images).await,
    }
}

async fn add(global: &GlobalArgs, args: AddArgs) -> Result<(), Failure> {
    let (client, output) = (global.client()?, global.output());
    let source = args.source.resolve(&client, output).await?;
    let body = CreateImage {
        name: args.name,
        source,
        size_mib: args.size,
        default_cpu_millicores: args.defaults.cpu,
        default_memory_mb: args.defaults.memory,
        default_disk_mb: args.defaults.disk,
        scope: args.scope.into(),
        lazy_pull: args.lazy,
        entrypoint_env: args.env.into_iter().collect(),
    };
    let made = client.create_image(&body).await?.image;
    let image = if args.no_wait { made } else { arrival::follow(&client, output, made.id).await? };
    records::made(output, &image)
}

/// Whether a source is an archive on this machine.
fn local_archive(source: &str) -> Option<PathBuf> {
    let is_path = ["/", "./", "../"].iter().any(|start| source.starts_with(start));
    is_path.then(|| source.into())
}
