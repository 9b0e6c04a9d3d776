//! `scaibunker bench files`: files into a bunker and out of it.

use std::time::Instant;

use bytes::Bytes;
use clap::Args;
use futures_util::{StreamExt as _, stream};
use scaibunker_api::{
    bunker::CreateBunker,
    exec::ExecRequest,
    file::{CommitRequest, MAX_PUT_BYTES},
    ids::BunkerId,
};
use serde::Serialize;

use super::{
    BenchBunkerArgs,
    figure::{self, Figure, Unit, code},
    fleet::Fleet,
    report::{self, Header},
};
use crate::{
    cli::GlobalArgs,
    client::{Client, Content},
    commands::exec,
    exit::{self, Failure},
    output::Progress,
    signals::Stop,
};

const MIB: u64 = 1024 * 1024;

/// MiB of a file that is put into the bunker's memory, which holds little.
const MEMORY_MB: u32 = 32;

/// Files go below these. The second one is in memory.
const ON_DISK: &str = "/home/scaibunker-bench";
const IN_MEMORY: &str = "/home/scaibunker-bench-memory";

/// Files into a bunker and out of it
///
/// A `PUT` of 8 MiB, a `GET`, an upload to the signed URL and its commit into the bunker. To see
/// where the time goes: a commit into the bunker's memory, which is the way in without the disk,
/// and what the bunker writes to its disk by itself.
#[derive(Debug, Args)]
pub struct FilesBenchArgs {
    #[command(flatten)]
    bunker: BenchBunkerArgs,
    /// A short run, to see that it works [default counts: 20, 8 MiB, 5, 64 MiB, 256 MiB]
    #[arg(long)]
    quick: bool,
    /// How often a file is put
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    puts: Option<u32>,
    /// MiB of it
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=i64::from(MAX_PUT_MB)))]
    put_mb: Option<u32>,
    /// How often everything else is measured
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=1000))]
    count: Option<u32>,
    /// MiB that are read
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=4096))]
    get_mb: Option<u32>,
    /// MiB that are uploaded and committed
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=4096))]
    commit_mb: Option<u32>,
}

const MAX_PUT_MB: u32 = (MAX_PUT_BYTES / MIB) as u32;

/// What is printed with --json.
#[derive(Debug, Serialize)]
struct Report<'a> {
    #[serde(flatten)]
    header: Header<'a>,
    put_mb: u32,
    get_mb: u32,
    commit_mb: u32,
    figures: Vec<Figure>,
}

/// How much is measured.
#[derive(Debug, Clone, Copy)]
struct Amounts {
    puts: u32,
    put_mb: u32,
    count: u32,
    get_mb: u32,
    commit_mb: u32,
}

impl FilesBenchArgs {
    fn amounts(&self) -> Amounts {
        let or = |given: Option<u32>, usual, quick| {
            given.unwrap_or(if self.quick { quick } else { usual })
        };
        Amounts {
            puts: or(self.puts, 20, 3),
            put_mb: or(self.put_mb, 8, 1),
            count: or(self.count, 5, 1),
            get_mb: or(self.get_mb, 64, 2),
            commit_mb: or(self.commit_mb, 256, 12),
        }
    }

    /// A bunker whose disk holds the largest file, the one that replaces it and the others.
    fn request(&self, amounts: Amounts) -> CreateBunker {
        let disk_mb = 2 * amounts.commit_mb + amounts.get_mb + 2 * MAX_PUT_MB + 128;
        CreateBunker { disk_mb: Some(disk_mb), ..self.bunker.request() }
    }
}

/// Measures, ends the bunker, prints; gives the exit code.
pub async fn run(global: &GlobalArgs, args: &FilesBenchArgs, stop: Stop) -> Result<u8, Failure> {
    let (client, output) = (global.client()?, global.output());
    let amounts = args.amounts();
    let header = Header::of("files", &client, &args.bunker).await;
    let fleet = Fleet::new(client.clone());
    let progress = output.progress("starting a bunker");
    let measured = async {
        let ids = fleet.create_running(&args.request(amounts), 1, &stop).await?;
        let mut figures = Vec::new();
        for id in ids {
            let bench = Bench { client: &client, id, amounts };
            tokio::select! {
                biased;
                signal = stop.requested() => return Err(Failure::Stopped(signal)),
                measured = bench.measure(&progress) => figures.extend(measured),
            }
        }
        Ok(figures)
    };
    let measured = measured.await;
    drop(progress);
    fleet.end_all().await?;
    let Amounts { put_mb, get_mb, commit_mb, .. } = amounts;
    let report = Report { header, put_mb, get_mb, commit_mb, figures: measured? };
    let table = figure::figures(&report.figures);
    let about = format!("; PUT of {put_mb} MiB, GET of {get_mb} MiB, commit of {commit_mb} MiB");
    report::print(output, &report, &report.header, &about, &table)?;
    let failed = report.figures.iter().any(Figure::has_failures);
    Ok(if failed { exit::FAILED } else { 0 })
}

/// One bunker and what is done with it.
struct Bench<'a> {
    client: &'a Client,
    id: BunkerId,
    amounts: Amounts,
}

impl Bench<'_> {
    async fn measure(&self, progress: &Progress) -> Vec<Figure> {
        let Amounts { puts, put_mb, count, get_mb, commit_mb } = self.amounts;
        progress.say("small files");
        let mut put = Figure::new("PUT", Unit::Milliseconds, Some(250.0));
        for _ in 0..puts {
            put.record(self.put(put_mb).await);
        }

        progress.say("reading");
        let mut get = Figure::new("GET", Unit::Megabytes, None);
        match self.write_inside("get", get_mb).await {
            Ok(_) => {
                for _ in 0..count {
                    get.record(self.get(get_mb).await);
                }
            }
            Err(code) => get.record(Err(code)),
        }

        progress.say("large files");
        let mut upload = Figure::new("upload to the signed URL", Unit::Megabytes, None);
        let mut commit = Figure::new("commit", Unit::Megabytes, Some(80.0));
        for _ in 0..count {
            self.upload_and_commit(commit_mb, ON_DISK, Some(&mut upload), &mut commit).await;
        }

        progress.say("large files, without the disk");
        let mut in_memory = Figure::new("commit into memory (no disk)", Unit::Megabytes, None);
        match self.sh(&format!("mkdir -p {IN_MEMORY} && mount -t tmpfs none {IN_MEMORY}")).await {
            Ok(()) => {
                for _ in 0..count {
                    let size = MEMORY_MB.min(commit_mb);
                    self.upload_and_commit(size, IN_MEMORY, None, &mut in_memory).await;
                }
            }
            Err(code) => in_memory.record(Err(code)),
        }

        progress.say("the disk alone");
        let mut disk = Figure::new("dd in the bunker (disk alone)", Unit::Megabytes, None);
        for _ in 0..count {
            // Over the file that the commits made, so that the disk holds both.
            disk.record(self.write_inside("commit", commit_mb).await);
        }
        [put, get, upload, commit, in_memory, disk].map(Figure::finished).into()
    }

    async fn put(&self, size_mb: u32) -> Result<f64, String> {
        let path = format!("{ON_DISK}/put");
        let bytes = Bytes::from(noise().repeat(size_mb as usize));
        let started = Instant::now();
        let written = self.client.write_file(self.id, path.as_bytes(), None, bytes.into()).await;
        written.map_err(code)?;
        Ok(figure::time(started.elapsed()))
    }

    async fn get(&self, size_mb: u32) -> Result<f64, String> {
        let path = format!("{ON_DISK}/get");
        let started = Instant::now();
        let download = self.client.read_file(self.id, path.as_bytes()).await.map_err(code)?;
        let mut pieces = download.into_stream();
        let mut bytes = 0;
        while let Some(piece) = pieces.next().await {
            bytes += piece.map_err(|_| "connection broke".to_owned())?.len() as u64;
        }
        if bytes != u64::from(size_mb) * MIB {
            return Err("wrong size".to_owned());
        }
        Ok(figure::rate(bytes, started.elapsed()))
    }

    /// Measures the two steps apart; an upload that failed has no commit.
    async fn upload_and_commit(
        &self,
        size_mb: u32,
        directory: &str,
        upload: Option<&mut Figure>,
        commit: &mut Figure,
    ) {
        let key = match self.upload(size_mb).await {
            Ok((key, rate)) => {
                if let Some(upload) = upload {
                    upload.record(Ok(rate));
                }
                key
            }
            Err(code) => return upload.unwrap_or(commit).record(Err(code)),
        };
        commit.record(self.commit(key, size_mb, directory).await);
    }

    async fn upload(&self, size_mb: u32) -> Result<(String, f64), String> {
        let size = u64::from(size_mb) * MIB;
        let to = self.client.begin_upload(self.id, size).await.map_err(code)?;
        let piece = Bytes::from(noise());
        let pieces = stream::iter((0..size_mb).map(move |_| Ok(piece.clone())));
        let started = Instant::now();
        self.client.send_upload(&to, Content::stream(Some(size), pieces)).await.map_err(code)?;
        Ok((to.key, figure::rate(size, started.elapsed())))
    }

    async fn commit(&self, key: String, size_mb: u32, directory: &str) -> Result<f64, String> {
        let size = u64::from(size_mb) * MIB;
        let dest_path = format!("{directory}/commit");
        let commit = CommitRequest { key, dest_path, mode: None, uid: None, gid: None };
        let started = Instant::now();
        let made = self.client.commit_upload(self.id, &commit, size).await.map_err(code)?;
        if made.size_bytes != size {
            return Err("wrong size".to_owned());
        }
        Ok(figure::rate(size, started.elapsed()))
    }

    /// Has the bunker itself write a file, and gives the rate.
    async fn write_inside(&self, name: &str, size_mb: u32) -> Result<f64, String> {
        let started = Instant::now();
        let write = format!("dd if=/dev/zero of={ON_DISK}/{name} bs=1M count={size_mb}");
        self.sh(&format!("mkdir -p {ON_DISK} && {write} 2>/dev/null")).await?;
        Ok(figure::rate(u64::from(size_mb) * MIB, started.elapsed()))
    }

    /// Runs a line as root.
    async fn sh(&self, line: &str) -> Result<(), String> {
        let words = ["sh", "-c", line].map(str::to_owned).to_vec();
        let user = Some("root".to_owned());
        let request = ExecRequest { user, timeout_s: 600, ..exec::request(words) };
        let answer = self.client.exec(self.id, &request).await.map_err(code)?;
        match answer.outcome.exit_code {
            0 => Ok(()),
            failed => Err(format!("exit code {failed}")),
        }
    }
}

/// 1 MiB that cannot be compressed.
fn noise() -> Vec<u8> {
    let mut state = 0x9e37_79b9_u32;
    let next = || {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        state
    };
    std::iter::repeat_with(next).take(MIB as usize / 4).flat_map(u32::to_le_bytes).collect()
}
