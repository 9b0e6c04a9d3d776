//! Controllers and workers, and what they stand on.

use std::{
    fs,
    net::TcpListener,
    path::{Path, PathBuf},
};

use serde_json::{Value, json};

use crate::{
    api::Api,
    daemon::Daemon,
    network::{Disk, Host, TEST_ADDRESS},
    s3::{self, S3Server},
    servers::{postgres::PostgresServer, redis::RedisServer},
    vms::Vms,
};

pub const WORKER_TOKEN: &str = "a token that all of the fleet have";
const LOOPBACK: &str = "127.0.0.1";
const DISK_SIZE: &str = "384m";

/// What the parts of one fleet are given.
pub struct Settings {
    dir: PathBuf,
    /// Where controllers are.
    address: &'static str,
    has_tls: bool,
    database: String,
    redis: String,
    s3: String,
    target: PathBuf,
}

pub struct Cluster {
    // Dropped in this order: who uses something before what is used.
    pub workers: Vec<Daemon>,
    pub vms: Vms,
    pub controllers: Vec<Daemon>,
    ports: Vec<u16>,
    pub settings: Settings,
    pub postgres: PostgresServer,
    pub redis: RedisServer,
    _s3: S3Server,
    /// One for each worker, if they are apart.
    pub hosts: Vec<Host>,
    pub disks: Vec<Disk>,
    dir: tempfile::TempDir,
}

impl Cluster {
    /// A fleet that is up, all on one host.
    pub fn start(controllers: usize, workers: usize) -> Self {
        Self::start_at(LOOPBACK, false, controllers, workers, Vec::new())
    }

    /// A fleet that is up, each worker on a host with an address and a small disk of its own. Only
    /// [`in_own_namespaces`](crate::network::in_own_namespaces).
    pub fn start_apart(controllers: usize, workers: usize) -> Self {
        let hosts = (0..workers).map(Host::new).collect();
        Self::start_at(TEST_ADDRESS, false, controllers, workers, hosts)
    }

    /// A controller that serves TLS, and a worker. Clients need [`Self::certificate`].
    pub fn start_tls() -> Self {
        Self::start_at(LOOPBACK, true, 1, 1, Vec::new())
    }

    fn start_at(
        address: &'static str,
        has_tls: bool,
        controllers: usize,
        workers: usize,
        hosts: Vec<Host>,
    ) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (postgres, redis) = (PostgresServer::start(), RedisServer::start());
        let s3 = S3Server::start();
        let settings = Settings {
            dir: dir.path().to_owned(),
            address,
            has_tls,
            database: postgres.database(),
            redis: redis.url_of_database(0),
            s3: s3.endpoint.clone(),
            target: Path::new(env!("CARGO_TARGET_TMPDIR")).parent().unwrap().to_owned(),
        };
        let made = rcgen::generate_simple_self_signed([address.to_owned()]).unwrap();
        fs::write(settings.certificate(), made.cert.pem()).unwrap();
        fs::write(settings.key(), made.signing_key.serialize_pem()).unwrap();
        let ports: Vec<_> = (0..controllers).map(|_| free_port(address)).collect();
        let disk_of = |n| Disk::mount(&settings.dir.join(worker_name(n)), DISK_SIZE);
        let disks = (0..hosts.len()).map(disk_of).collect();
        let worker = |n: usize| {
            let worker = settings.worker(&worker_name(n), &ports);
            match hosts.get(n) {
                Some(host) => worker.in_network(host.namespace()),
                None => worker,
            }
        };
        let vm_dirs = (0..workers).map(|n| settings.vms_of(n)).collect();
        let mut cluster = Self {
            vms: Vms::watch(vm_dirs),
            controllers: (0..controllers).map(|n| settings.controller(n, ports[n])).collect(),
            workers: (0..workers).map(worker).collect(),
            ports,
            settings,
            postgres,
            redis,
            _s3: s3,
            hosts,
            disks,
            dir,
        };
        for controller in &mut cluster.controllers {
            controller.start();
            controller.wait_until_ready();
        }
        for worker in &mut cluster.workers {
            worker.start();
        }
        for worker in &mut cluster.workers {
            worker.wait_until_ready();
        }
        cluster
    }

    /// The admin of one of the controllers.
    pub fn api(&self, controller: usize) -> Api {
        Api::new(self.url(controller), self.admin_key())
    }

    /// Where one of the controllers is.
    pub fn url(&self, controller: usize) -> String {
        self.settings.url(self.ports[controller])
    }

    pub fn admin_key(&self) -> String {
        let key = fs::read_to_string(self.dir.path().join("controller-0/admin.key")).unwrap();
        key.trim().to_owned()
    }

    /// One more worker, which is not started.
    pub fn another_worker(&self, name: &str) -> Daemon {
        self.settings.worker(name, &self.ports)
    }

    /// The workers' records.
    pub async fn worker_records(&self, controller: usize) -> Vec<Value> {
        self.api(controller).get("/workers").await.data().as_array().unwrap().clone()
    }

    /// The directories of the VMs that a worker has.
    pub fn vm_dirs(&self, worker: usize) -> Vec<PathBuf> {
        fs::read_dir(self.settings.vms_of(worker))
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .collect()
    }
}

impl Settings {
    fn url(&self, port: u16) -> String {
        let scheme = if self.has_tls { "https" } else { "http" };
        format!("{scheme}://{}:{port}", self.address)
    }

    fn vms_of(&self, worker: usize) -> PathBuf {
        self.dir.join(worker_name(worker)).join("worker/vms")
    }

    /// The file of the certificate that controllers show.
    pub fn certificate(&self) -> PathBuf {
        self.dir.join("certificate.pem")
    }

    fn key(&self) -> PathBuf {
        self.dir.join("key.pem")
    }

    fn controller(&self, number: usize, port: u16) -> Daemon {
        let name = format!("controller-{number}");
        let dir = self.dir.join(&name);
        fs::create_dir_all(&dir).unwrap();
        let args = [
            "--data-dir",
            dir.to_str().unwrap(),
            "controller",
            "--listen",
            &format!("{}:{port}", self.address),
            "--advertise",
            &self.url(port),
            "--s3-bucket",
            s3::BUCKET,
            "--s3-endpoint",
            &self.s3,
            "--s3-region",
            s3::REGION,
            "--trivy",
            "/nonexistent/trivy",
        ];
        let (certificate, key) = (self.certificate(), self.key());
        let tls = ["--tls-cert", certificate.to_str().unwrap(), "--tls-key", key.to_str().unwrap()];
        let args = [&args[..], if self.has_tls { &tls[..] } else { &[] }].concat();
        let variables = [
            ("SCAIBUNKER_WORKER_TOKEN", WORKER_TOKEN),
            ("SCAIBUNKER_CAPABILITY_SECRET", "a secret that all controllers have"),
            ("SCAIBUNKER_DATABASE_URL", &self.database),
            ("SCAIBUNKER_REDIS_URL", &self.redis),
            ("SCAIBUNKER_S3_ACCESS_KEY_ID", s3::ACCESS_KEY_ID),
            ("SCAIBUNKER_S3_SECRET_ACCESS_KEY", s3::SECRET_ACCESS_KEY),
            ("SCAIBUNKER_RATE_LIMIT_KEY", "0"),
            ("SCAIBUNKER_RATE_LIMIT_USER", "0"),
            ("SCAIBUNKER_RATE_LIMIT_TENANT", "0"),
        ];
        Daemon::new(&name, owned(&args), pairs(&variables), &self.dir, "ready at ")
    }

    fn worker(&self, name: &str, ports: &[u16]) -> Daemon {
        let dir = self.dir.join(name);
        let cache = self.target.join("tmp/cache");
        let agent = self.target.join("x86_64-unknown-linux-gnu/guest/scaibunker-guest");
        // It is told of one controller, and hears of the others.
        let args = [
            "--data-dir",
            dir.to_str().unwrap(),
            "worker",
            "--name",
            name,
            "--controller",
            &self.url(ports[0]),
            "--image",
            "busybox",
            "--pool-size",
            "1",
            "--accelerator",
            "tcg",
            "--keep-bunkers",
            "--cache-dir",
            cache.to_str().unwrap(),
            "--guest-agent",
            agent.to_str().unwrap(),
        ];
        let certificate = self.certificate();
        let variables = [
            ("SCAIBUNKER_WORKER_TOKEN", WORKER_TOKEN),
            ("SSL_CERT_FILE", certificate.to_str().unwrap()),
        ];
        Daemon::new(name, owned(&args), pairs(&variables), &self.dir, "linked with a controller")
    }
}

fn worker_name(number: usize) -> String {
    format!("worker-{number}")
}

/// The body of a small bunker's create.
pub fn small() -> Value {
    json!({ "image": "busybox", "memory_mb": 256, "disk_mb": 64, "cpu_millicores": 500 })
}

// Nobody can be told to take any free port and to advertise it, so another process may be quicker.
fn free_port(address: &str) -> u16 {
    TcpListener::bind((address, 0)).unwrap().local_addr().unwrap().port()
}

fn owned(args: &[&str]) -> Vec<String> {
    args.iter().map(|arg| (*arg).to_owned()).collect()
}

fn pairs(variables: &[(&str, &str)]) -> Vec<(String, String)> {
    variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}
