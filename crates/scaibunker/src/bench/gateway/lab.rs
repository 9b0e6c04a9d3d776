//! Networks in which the gateway can be measured, all in namespaces that end with the bench.
//!
//! ```text
//!  stand-in ─ its bunker's network ─(sockets)─ gateway ─ lab ──┐
//!                                                              ├─ world, with the server
//!  direct ─────────────────────────────────────────────────────┘
//! ```

use std::{
    collections::HashSet,
    fs,
    io::Write as _,
    net::Ipv4Addr,
    path::Path,
    process::{Command, Stdio},
    sync::Arc,
    thread,
};

use anyhow::{Context as _, bail, ensure};
use scaibunker_api::ids::BunkerId;
use scaibunker_egress::{HELPER_COMMAND, Names, Policy};
use scaibunker_worker::network::{
    Gateway, GatewaySettings, Namespace, NetworkError, ServedBunker, StandIn,
};
use tokio::runtime::Runtime;
use tokio_util::sync::CancellationToken;

use super::{client::Client, server};
use crate::bench::machine::resident_mib;

/// Addresses for documentation (RFC 5737), which are nobody's.
pub const WORLD: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 0);
/// The first is `WORLD`'s next.
pub const WORLD_ADDRESSES: u32 = 16;

/// Caps that are measured come on top.
const SPARE_STAND_INS: u32 = 8;

pub struct Lab {
    runtime: Runtime,
    gateway: Arc<Gateway>,
    stand_ins: Vec<StandIn>,
    direct: Namespace,
    shutdown: CancellationToken,
    _root: tempfile::TempDir,
    _world: Namespace,
}

impl Lab {
    /// Works in a lab with so many bunkers to be served and some spare ones.
    pub fn enter<T: Send>(
        bunkers: u32,
        work: impl FnOnce(&Self) -> anyhow::Result<T> + Send,
    ) -> anyhow::Result<T> {
        ensure!(rustix::process::geteuid().is_root(), "only root can make networks: use sudo");
        let home = Namespace::create_empty().context("cannot make a network")?;
        // A thread that a namespace's thread starts is in it as well, as is its process.
        home.enter(|| Ok(Self::make(bunkers).and_then(|lab| work(&lab))))?
    }

    fn make(bunkers: u32) -> anyhow::Result<Self> {
        let (world, direct) = (Namespace::create_empty()?, Namespace::create_empty()?);
        ip(&format!(
            "link set lo up\n\
             link add world type veth peer name lab netns {}\n\
             link set world up\n\
             address add 203.0.113.254/24 dev world\n",
            world.path()
        ))?;
        let addresses: String = (1..=WORLD_ADDRESSES)
            .map(|host| format!("address add 203.0.113.{host}/24 dev lab\n"))
            .collect();
        inside(&world, || {
            ip(&format!(
                "link set lo up\n\
                 link set lab up\n\
                 {addresses}\
                 link add direct type veth peer name eth0 netns {}\n\
                 link set direct up\n\
                 address add 192.0.2.1/24 dev direct\n",
                direct.path()
            ))?;
            serve_in_background()
        })?;
        inside(&direct, || {
            ip("link set lo up\n\
                link set eth0 up\n\
                address add 192.0.2.2/24 dev eth0\n\
                route add default via 192.0.2.1\n")
        })?;

        let root = tempfile::tempdir()?;
        let settings = GatewaySettings {
            program: std::env::current_exe()?,
            root: root.path().to_owned(),
            exempt: vec!["203.0.113.0/24".parse()?],
        };
        let (gateway, shutdown) = (Gateway::new(settings), CancellationToken::new());
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        runtime.block_on(gateway.set_controllers(HashSet::new()));
        runtime.spawn(Arc::clone(&gateway).run(shutdown.clone()));
        let stand_ins = (0..bunkers + SPARE_STAND_INS).map(StandIn::create);
        let stand_ins = stand_ins.collect::<Result<_, _>>()?;
        Ok(Self { runtime, gateway, stand_ins, direct, shutdown, _root: root, _world: world })
    }

    /// Somebody with a cable to the world.
    pub fn direct(&self) -> Client<'_> {
        Client(&self.direct)
    }

    /// Has the gateway serve a bunker with this number, once.
    pub fn serve(&self, number: u32, bandwidth_mbit: Option<u32>) -> anyhow::Result<Client<'_>> {
        let stand_in = self.stand_ins.get(number as usize).context("there are not so many")?;
        let policy = Policy { names: Names::Any, bandwidth_mbit, is_audited: false };
        let namespace = Arc::clone(&stand_in.bunker);
        let bunker = ServedBunker { id: BunkerId::generate(), namespace, policy, audit: None };
        self.runtime.block_on(self.gateway.serve(bunker))?;
        Ok(Client(&stand_in.client))
    }

    /// What the gateway's process has of the memory.
    pub fn gateway_memory_mib(&self) -> anyhow::Result<f64> {
        for task in fs::read_dir("/proc/self/task")? {
            let children = fs::read_to_string(task?.path().join("children")).unwrap_or_default();
            for pid in children.split_whitespace() {
                let process = Path::new("/proc").join(pid);
                let command = fs::read_to_string(process.join("cmdline")).unwrap_or_default();
                if command.split('\0').any(|word| word == HELPER_COMMAND) {
                    return resident_mib(pid.parse()?);
                }
            }
        }
        bail!("the gateway does not run")
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        self.shutdown.cancel();
    }
}

fn inside<T: Send>(
    namespace: &Namespace,
    work: impl FnOnce() -> anyhow::Result<T> + Send,
) -> anyhow::Result<T> {
    namespace.enter(|| Ok::<_, NetworkError>(work()))?
}

/// The server's runtime belongs to this thread's namespace, and ends with the process.
fn serve_in_background() -> anyhow::Result<()> {
    let listener = server::listen().context("the bench's server cannot listen")?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    thread::Builder::new()
        .name("bench server".to_owned())
        .spawn(move || runtime.block_on(server::serve(listener)))?;
    Ok(())
}

/// Runs `ip` in this thread's namespace.
fn ip(lines: &str) -> anyhow::Result<()> {
    let mut child = Command::new("ip")
        .args(["-batch", "-"])
        .stdin(Stdio::piped())
        .spawn()
        .context("cannot run `ip`; it is in Debian's package `iproute2`")?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(lines.as_bytes())?;
    }
    ensure!(child.wait()?.success(), "`ip` refused to make the bench's networks");
    Ok(())
}
