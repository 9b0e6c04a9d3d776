//! `scaibunker bench images`: an image on its way from a registry to its first bunker.

mod memory;
mod registry;

use std::{
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context as _, anyhow};
use clap::Args;
use futures_util::StreamExt as _;
use scaibunker_api::{
    bunker::CreateBunker,
    ids::ImageId,
    image::{CacheStatus, CreateImage, Image, ImageScope, ImageSource, ImageStatus},
};
use serde::Serialize;

use self::{
    memory::Watch,
    registry::{Contents, Registry},
};
use super::{
    BenchBunkerArgs,
    figure::{self, Figure, Unit, code},
    fleet::Fleet,
    report::{self, Header},
};
use crate::{
    cli::GlobalArgs,
    client::Client,
    exit::{self, Failure},
    output::Progress,
    signals::Stop,
};

/// How often a stored root is read in each round.
const READS: u32 = 5;
const POLL_INTERVAL: Duration = Duration::from_millis(20);
/// No image of this bench should take as long.
const IMAGE_LIMIT: Duration = Duration::from_secs(600);

/// Images: from a registry to their first bunker, and objects out of the storage proxy
///
/// A registry (docker-registry) is started on loopback and an image pushed to it (with skopeo);
/// both must be installed. Then, as often as asked: the image is registered until the worker has
/// it and it is stored, a bunker is made of it at once, and a second image that shares its layers
/// is registered. The memory is the anonymous one of the server and its helpers without VMs, so
/// this has to run on the server's machine, as root or as its user.
#[derive(Debug, Args)]
pub struct ImagesBenchArgs {
    /// A short run, to see that it works [default counts: 3, 500 MiB, 20,000 files]
    #[arg(long)]
    quick: bool,
    /// How often everything is measured
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=100))]
    count: Option<u32>,
    /// MiB of the image's files
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=16_384))]
    image_mb: Option<u32>,
    /// Files of the image
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    files: Option<u32>,
}

/// What is printed with --json.
#[derive(Debug, Serialize)]
struct Report<'a> {
    #[serde(flatten)]
    header: Header<'a>,
    image_mb: u32,
    files: u32,
    figures: Vec<Figure>,
}

/// Measures, removes everything, prints; gives the exit code.
pub async fn run(global: &GlobalArgs, args: &ImagesBenchArgs, stop: Stop) -> Result<u8, Failure> {
    let (client, output) = (global.client()?, global.output());
    let or =
        |given: Option<u32>, usual, quick| given.unwrap_or(if args.quick { quick } else { usual });
    let count = or(args.count, 3, 1);
    let (image_mb, files) = (or(args.image_mb, 500, 8), or(args.files, 20_000, 200));
    let bunker = BenchBunkerArgs { image: "busybox".to_owned(), memory: 256 };
    let header = Header::of("images", &client, &bunker).await;
    let fleet = Fleet::new(client.clone());
    let progress = output.progress("starting a registry");
    let watch = Watch::of_server(&global.data_dir()?)?;
    let registry = Registry::start().await?;
    let measured = async {
        let shell = shell(&client, &fleet, &bunker.request(), &stop).await?;
        let mut bench = Bench {
            client: &client,
            fleet: &fleet,
            stop: &stop,
            images: Vec::new(),
            figures: Figures::new(),
        };
        for round in 0..count {
            progress.say("making an image and pushing it");
            let contents = Contents { seed: round, size_mb: image_mb, files, shell: &shell };
            let reference = registry.push(&contents).await?;
            let larger = registry.push_with_one_more_layer(&contents).await?;
            let measured = bench.round(&reference, &larger, &watch, &progress).await;
            bench.clean_up().await?;
            measured?;
        }
        Ok::<_, Failure>(bench.figures.finished())
    }
    .await;
    drop(progress);
    fleet.end_all().await?;
    let report = Report { header, image_mb, files, figures: measured? };
    let about = format!(", images of {image_mb} MiB in {files} files");
    let table = figure::figures(&report.figures);
    report::print(output, &report, &report.header, &about, &table)?;
    let failed = report.figures.iter().any(Figure::has_failures);
    Ok(if failed { exit::FAILED } else { 0 })
}

/// The busybox of a bunker: it is what runs in the images that are made.
async fn shell(
    client: &Client,
    fleet: &Fleet,
    request: &CreateBunker,
    stop: &Stop,
) -> Result<Vec<u8>, Failure> {
    let ids = fleet.create_running(request, 1, stop).await?;
    let mut bytes = Vec::new();
    for id in ids {
        let mut pieces = client.read_file(id, b"/bin/busybox").await?.into_stream();
        while let Some(piece) = pieces.next().await {
            bytes.extend_from_slice(&piece.context("cannot read the busybox of a bunker")?);
        }
        fleet.end(id).await?;
    }
    Ok(bytes)
}

struct Figures {
    ready: Figure,
    memory: Figure,
    bunker: Figure,
    shared: Figure,
    object: Figure,
}

impl Figures {
    fn new() -> Self {
        Self {
            ready: Figure::new("registry to ready", Unit::Milliseconds, Some(45_000.0)),
            memory: Figure::new("anonymous memory meanwhile", Unit::Mebibytes, Some(200.0)),
            bunker: Figure::new("first bunker after that", Unit::Milliseconds, Some(6_000.0)),
            shared: Figure::new("one layer more, to ready", Unit::Milliseconds, Some(22_500.0)),
            object: Figure::new("GET from the storage proxy", Unit::Megabytes, Some(400.0)),
        }
    }

    fn finished(self) -> Vec<Figure> {
        [self.ready, self.memory, self.bunker, self.shared, self.object]
            .map(Figure::finished)
            .into()
    }
}

struct Bench<'a> {
    client: &'a Client,
    fleet: &'a Fleet,
    stop: &'a Stop,
    /// Those that are to be deleted.
    images: Vec<ImageId>,
    figures: Figures,
}

impl Bench<'_> {
    async fn round(
        &mut self,
        reference: &str,
        larger: &str,
        watch: &Watch,
        progress: &Progress,
    ) -> Result<(), Failure> {
        progress.say("from the registry to ready");
        let sampling = watch.begin();
        let (id, took) = self.image(reference).await?;
        self.figures.memory.record(Ok(sampling.peak_mb()));
        self.figures.ready.record(Ok(figure::time(took)));

        progress.say("a first bunker");
        let request = CreateBunker {
            image: id.to_string(),
            memory_mb: Some(256),
            disk_mb: Some(64),
            ..CreateBunker::default()
        };
        let started = Instant::now();
        let made = self.fleet.create_running(&request, 1, self.stop).await?;
        self.figures.bunker.record(Ok(figure::time(started.elapsed())));
        for id in made {
            self.fleet.end(id).await?;
        }

        progress.say("reading from the storage proxy");
        for _ in 0..READS {
            self.figures.object.record(self.read_root(id).await);
        }

        progress.say("an image that shares its layers");
        let (_, took) = self.image(larger).await?;
        self.figures.shared.record(Ok(figure::time(took)));
        Ok(())
    }

    /// Registers an image and waits until it is stored and a worker has it.
    async fn image(&mut self, reference: &str) -> Result<(ImageId, Duration), Failure> {
        let body = CreateImage {
            name: format!("bench-{}", uuid::Uuid::now_v7()),
            source: ImageSource::Oci { reference: reference.to_owned(), registry_auth: None },
            size_mib: 65_536,
            default_cpu_millicores: None,
            default_memory_mb: Some(256),
            default_disk_mb: Some(64),
            scope: ImageScope::Tenant,
            lazy_pull: false,
            entrypoint_env: std::collections::BTreeMap::default(),
        };
        let started = Instant::now();
        let id = self.client.create_image(&body).await?.image.id;
        self.images.push(id);
        while started.elapsed() < IMAGE_LIMIT {
            let image = self.client.image(id).await?;
            if image.status == ImageStatus::Failed {
                let reason = image.status_reason.unwrap_or_default();
                return Err(anyhow!("the image could not be baked: {reason}").into());
            }
            let rows = self.client.image_cache(id).await?;
            let has_arrived = rows.iter().any(|row| row.status == CacheStatus::Ready);
            if image.status == ImageStatus::Ready && has_arrived {
                return Ok((id, started.elapsed()));
            }
            tokio::select! {
                () = tokio::time::sleep(POLL_INTERVAL) => {}
                signal = self.stop.requested() => return Err(Failure::Stopped(signal)),
            }
        }
        Err(anyhow!("the image was not ready within {} s", IMAGE_LIMIT.as_secs()).into())
    }

    async fn clean_up(&mut self) -> Result<(), Failure> {
        for id in self.images.drain(..) {
            self.client.delete::<Image>(id).await?;
        }
        Ok(())
    }

    /// Reads the stored root of an image, as workers do, and gives the rate.
    async fn read_root(&self, id: ImageId) -> Result<f64, String> {
        let image = self.client.image(id).await.map_err(code)?;
        let digest = image.digest.unwrap_or_default();
        let name = digest.trim_start_matches("sha256:");
        let key = format!("images/{id}/{name}.ext4.zst");
        let object = self.client.stored_object(&key).await.map_err(code)?;
        let (started, mut pieces, mut bytes) = (Instant::now(), object.into_stream(), 0);
        while let Some(piece) = pieces.next().await {
            bytes += piece.map_err(|_| "connection broke".to_owned())?.len() as u64;
        }
        Ok(figure::rate(bytes, started.elapsed()))
    }
}

/// Whether a program can be run.
fn has_program(name: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|dir| Path::new(&dir).join(name).is_file())
}
