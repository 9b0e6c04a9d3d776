//! The process: it takes orders from its worker and serves bunkers until the worker is gone.

use std::{
    collections::HashMap,
    fs::File,
    io,
    net::TcpListener as StdListener,
    os::fd::{FromRawFd as _, OwnedFd},
    path::Path,
    process::ExitCode,
    sync::Arc,
    time::Duration,
};

use scaibunker_api::{bunker::NetworkUsage, ids::BunkerId};
use tokio::{
    net::TcpListener,
    time::{MissedTickBehavior, interval, sleep},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    Policy,
    addresses::Addresses,
    audit::AuditLog,
    bunker::Bunker,
    connection,
    control::{Channel, DESCRIPTOR, FromGateway, Sockets, ToGateway, UdpSockets},
    dial::{Dialer, SystemResolver},
    flows::Flows,
    jail, lookups,
};

/// The hidden command that runs the gateway.
pub const HELPER_COMMAND: &str = "egress-gateway";

/// How often the worker hears that the gateway serves, and what its bunkers have used.
const REPORT_INTERVAL: Duration = Duration::from_secs(1);

/// Pause after a connection could not be accepted: the process has too many files open.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Runs the gateway, whose worker is at the other end of [`DESCRIPTOR`]. `root`, an empty directory,
/// becomes its root, and `uid` its user and group.
#[must_use]
pub fn helper_main(root: &Path, uid: u32) -> ExitCode {
    match enter_and_run(root, uid) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // The worker reads it.
            eprintln!("the egress gateway ends: {error}");
            ExitCode::FAILURE
        }
    }
}

fn enter_and_run(root: &Path, uid: u32) -> Result<(), GatewayError> {
    // Files are there only until the root is changed.
    let system = SystemResolver::read()?;
    jail::enter(root, uid)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    // SAFETY: the worker has put it there, and nobody else knows of it.
    let socket = unsafe { OwnedFd::from_raw_fd(DESCRIPTOR) };
    runtime.block_on(async { run(Channel::new(socket)?, system).await })
}

/// The gateway cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum GatewayError {
    #[error("the worker did not say how to start")]
    NotStarted,
    #[error("a bunker came without its sockets")]
    NoSockets,
    #[error(transparent)]
    Jail(#[from] jail::JailError),
    #[error("cannot set up the resolver: {0}")]
    Resolver(#[from] hickory_resolver::net::NetError),
    #[error(transparent)]
    Io(#[from] io::Error),
}

async fn run(channel: Channel, system: SystemResolver) -> Result<(), GatewayError> {
    let Some((ToGateway::Start { exempt }, _)) = channel.receive().await? else {
        return Err(GatewayError::NotStarted);
    };
    let dialer = Arc::new(Dialer::new(system, Addresses::new(exempt))?);
    channel.send(&FromGateway::Ready, &[]).await?;
    let mut bunkers: HashMap<BunkerId, Served> = HashMap::new();
    let mut ticks = interval(REPORT_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let message = tokio::select! {
            message = channel.receive() => message?,
            _ = ticks.tick() => {
                channel.send(&FromGateway::Alive, &[]).await?;
                for served in bunkers.values_mut() {
                    served.report(&channel).await?;
                }
                continue;
            }
        };
        let Some((message, fds)) = message else { return Ok(()) };
        match message {
            ToGateway::Start { .. } => return Err(GatewayError::NotStarted),
            ToGateway::Controllers { addresses } => dialer.addresses.set_controllers(addresses),
            ToGateway::Serve { bunker_id, policy } => {
                let served = Served::start(bunker_id, policy, fds, &dialer)?;
                if let Some(earlier) = bunkers.insert(bunker_id, served) {
                    earlier.end().await;
                }
            }
            ToGateway::Forget { bunker_id } => {
                if let Some(mut served) = bunkers.remove(&bunker_id) {
                    served.report(&channel).await?;
                    served.end().await;
                }
                channel.send(&FromGateway::Forgotten { bunker_id }, &[]).await?;
            }
        }
    }
}

/// A bunker and everything that goes on for it.
struct Served {
    bunker: Arc<Bunker>,
    tasks: Tasks,
    reported: NetworkUsage,
}

/// What ends with the bunker.
#[derive(Clone, Default)]
pub struct Tasks {
    tracker: TaskTracker,
    end: CancellationToken,
}

impl Tasks {
    /// Runs it until the bunker's end at the latest.
    pub fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let end = self.end.clone();
        self.tracker.spawn(async move { end.run_until_cancelled_owned(task).await });
    }

    async fn end(self) {
        self.end.cancel();
        self.tracker.close();
        self.tracker.wait().await;
    }
}

impl Served {
    fn start(
        id: BunkerId,
        policy: Policy,
        fds: Vec<OwnedFd>,
        dialer: &Arc<Dialer>,
    ) -> Result<Self, GatewayError> {
        let mut fds = fds.into_iter();
        let sockets = Sockets::take(&mut fds, &policy).ok_or(GatewayError::NoSockets)?;
        let audit = match policy.is_audited {
            true => Some(AuditLog::new(File::from(fds.next().ok_or(GatewayError::NoSockets)?))),
            false => None,
        };
        let bunker = Arc::new(Bunker::new(id, policy, audit));
        let tasks = Tasks::default();
        for socket in sockets.tcp {
            let listener = TcpListener::from_std(StdListener::from(socket))?;
            let (bunker, dialer) = (Arc::clone(&bunker), Arc::clone(dialer));
            tasks.spawn(accept(listener, bunker, dialer, tasks.clone()));
        }
        for socket in sockets.dns {
            let (bunker, dialer) = (Arc::clone(&bunker), Arc::clone(dialer));
            tasks.spawn(lookups::serve(socket, bunker, dialer, tasks.clone()));
        }
        if let Some(UdpSockets { datagrams, answers }) = sockets.udp {
            for (socket, answers) in datagrams.into_iter().zip(answers) {
                let flows = Flows::new(socket, answers, Arc::clone(&bunker), Arc::clone(dialer))?;
                tasks.spawn(flows.serve(tasks.clone()));
            }
        }
        Ok(Self { bunker, tasks, reported: NetworkUsage::default() })
    }

    async fn report(&mut self, channel: &Channel) -> io::Result<()> {
        let usage = self.bunker.usage();
        if usage != self.reported {
            self.reported = usage;
            let used = FromGateway::Used { bunker_id: self.bunker.id, usage };
            channel.send(&used, &[]).await?;
        }
        Ok(())
    }

    async fn end(self) {
        self.tasks.end().await;
    }
}

async fn accept(listener: TcpListener, bunker: Arc<Bunker>, dialer: Arc<Dialer>, tasks: Tasks) {
    loop {
        match listener.accept().await {
            Ok((guest, _)) => {
                let (bunker, dialer) = (Arc::clone(&bunker), Arc::clone(&dialer));
                tasks.spawn(connection::serve(bunker, dialer, guest));
            }
            Err(_) => sleep(ACCEPT_PAUSE).await,
        }
    }
}
