//! Keeps the egress gateway running, and knows which bunkers it serves.

use std::{
    collections::{HashMap, HashSet},
    fs::File,
    io,
    net::IpAddr,
    os::fd::{AsFd as _, BorrowedFd},
    path::PathBuf,
    process::Stdio,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use futures_util::StreamExt as _;
use ipnet::IpNet;
use scaibunker_api::{bunker::NetworkUsage, ids::BunkerId};
use scaibunker_egress::{
    HELPER_COMMAND, Policy,
    control::{Channel, FromGateway, Sockets, ToGateway},
};
use tokio::{
    process::{Child, Command},
    sync::{Mutex as AsyncMutex, oneshot, watch},
    time::{sleep, timeout},
};
use tokio_util::{
    codec::{FramedRead, LinesCodec},
    sync::CancellationToken,
};

use super::{
    namespace::{Namespace, NetworkError, failed},
    sockets,
};
use crate::{chain, jail};

/// Nothing else has it: the jailed VMMs' begin right after it.
const GATEWAY_UID: u32 = jail::FIRST_UID - 1;

/// A gateway that ended starts again after this.
const RESTART_DELAY: Duration = Duration::from_millis(200);

/// Of what it says on its standard error.
const MAX_LINE_BYTES: usize = 1024;

/// A gateway that says nothing for this long is ended.
const STUCK_LIMIT: Duration = Duration::from_secs(15);

/// What an order waits for a gateway that does not read.
const SEND_LIMIT: Duration = Duration::from_secs(2);

/// The gateway gives a bunker up in no time; one that does not is stuck.
const FORGET_LIMIT: Duration = Duration::from_secs(2);

/// How to run it.
#[derive(Debug, Clone)]
pub struct GatewaySettings {
    /// This program.
    pub program: PathBuf,
    /// An empty directory.
    pub root: PathBuf,
    /// Networks that bunkers reach although they are not the public internet.
    pub exempt: Vec<IpNet>,
}

/// The gateway of one worker.
pub struct Gateway {
    settings: GatewaySettings,
    /// Held while orders are sent, so that a gateway that starts hears of each bunker once.
    orders: AsyncMutex<Orders>,
    /// `None` until it is known where they are. Changed while the orders are held.
    controllers: watch::Sender<Option<HashSet<IpAddr>>>,
    usage: Mutex<HashMap<BunkerId, Used>>,
}

#[derive(Default)]
struct Orders {
    served: HashMap<BunkerId, ServedBunker>,
    /// `None` while no gateway runs.
    channel: Option<Arc<Channel>>,
    forgetting: HashMap<BunkerId, oneshot::Sender<()>>,
}

/// What the gateway needs to serve a bunker.
#[derive(Debug)]
pub struct ServedBunker {
    pub id: BunkerId,
    pub namespace: Arc<Namespace>,
    pub policy: Policy,
    /// Given if the policy wants it.
    pub audit: Option<File>,
}

/// What earlier gateways have counted, and what this one has.
#[derive(Debug, Default, Clone, Copy)]
struct Used {
    before: NetworkUsage,
    now: NetworkUsage,
}

impl Used {
    fn total(self) -> NetworkUsage {
        NetworkUsage {
            sent_bytes: self.before.sent_bytes + self.now.sent_bytes,
            received_bytes: self.before.received_bytes + self.now.received_bytes,
            connections: self.before.connections + self.now.connections,
            open_connections: self.now.open_connections,
            refused: self.before.refused + self.now.refused,
        }
    }
}

impl Gateway {
    /// A gateway that [`Gateway::run`] runs.
    #[must_use]
    pub fn new(settings: GatewaySettings) -> Arc<Self> {
        Arc::new(Self {
            settings,
            orders: AsyncMutex::default(),
            controllers: watch::Sender::default(),
            usage: Mutex::default(),
        })
    }

    /// Starts the process, and again whenever it ends, until the token is cancelled. Waits for
    /// [`Self::set_controllers`]: no bunker shall reach a controller that is not known yet.
    pub async fn run(self: Arc<Self>, shutdown: CancellationToken) {
        let mut controllers = self.controllers.subscribe();
        shutdown.run_until_cancelled(controllers.wait_for(Option::is_some)).await;
        while !shutdown.is_cancelled() {
            let ran = shutdown.run_until_cancelled(self.run_once()).await;
            self.orders.lock().await.channel = None;
            if let Some(ended) = ran {
                let error = ended.err().map_or_else(|| "it stopped".to_owned(), |e| chain(&e));
                tracing::error!(
                    error,
                    "the egress gateway ended: bunkers reach nothing until it is back"
                );
                shutdown.run_until_cancelled(sleep(RESTART_DELAY)).await;
            }
        }
    }

    /// Returns when the gateway has ended; dropped, it ends it.
    async fn run_once(&self) -> Result<(), NetworkError> {
        let (channel, theirs) = Channel::pair().map_err(failed("make a pair of sockets"))?;
        let mut process = self.spawn(theirs.into())?;
        let channel = Arc::new(channel);
        let told = || failed("speak with the egress gateway");
        let start = ToGateway::Start { exempt: self.settings.exempt.clone() };
        channel.send(&start, &[]).await.map_err(told())?;
        {
            let mut orders = self.orders.lock().await;
            for used in self.used().values_mut() {
                *used = Used { before: used.total(), now: NetworkUsage::default() };
            }
            let addresses = self.controllers.borrow().clone().unwrap_or_default();
            let controllers = ToGateway::Controllers { addresses };
            channel.send(&controllers, &[]).await.map_err(told())?;
            for served in orders.served.values() {
                match open_sockets(served).await {
                    Ok(sockets) => send_bunker(&channel, served, &sockets).await.map_err(told())?,
                    Err(error) => {
                        let error = chain(&error);
                        tracing::error!(bunker_id = %served.id, error, "a bunker reaches nothing");
                    }
                }
            }
            orders.channel = Some(Arc::clone(&channel));
            // Nobody answers for the last one.
            orders.forgetting.clear();
        }
        let listening = async {
            loop {
                match timeout(STUCK_LIMIT, channel.receive()).await? {
                    Ok(Some((message, _))) => self.hear(message).await,
                    Ok(None) => return io::Result::Ok(()),
                    Err(error) => return Err(error),
                }
            }
        };
        tokio::select! {
            heard = listening => heard.map_err(failed("hear the egress gateway"))?,
            status = process.wait() => {
                let status = status.map_err(failed("wait for the egress gateway"))?;
                tracing::error!(%status, "the egress gateway's process ended");
            }
        }
        Ok(())
    }

    fn spawn(&self, socket: Stdio) -> Result<Child, NetworkError> {
        let mut process = Command::new(&self.settings.program)
            .arg(HELPER_COMMAND)
            .arg(&self.settings.root)
            .arg(GATEWAY_UID.to_string())
            .env_clear()
            .stdin(socket)
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .map_err(failed("start the egress gateway"))?;
        if let Some(stderr) = process.stderr.take() {
            tokio::spawn(async move {
                // One that is too long is left out: it may be somebody else's words by now.
                let lines = LinesCodec::new_with_max_length(MAX_LINE_BYTES);
                let mut lines = FramedRead::new(stderr, lines);
                while let Some(line) = lines.next().await {
                    if let Ok(line) = line {
                        tracing::warn!(line, "the egress gateway says");
                    }
                }
            });
        }
        Ok(process)
    }

    async fn hear(&self, message: FromGateway) {
        match message {
            FromGateway::Ready => tracing::info!("the egress gateway serves"),
            FromGateway::Alive => {}
            FromGateway::Used { bunker_id, usage } => {
                if let Some(used) = self.used().get_mut(&bunker_id) {
                    used.now = usage;
                }
            }
            FromGateway::Forgotten { bunker_id } => {
                if let Some(waiting) = self.orders.lock().await.forgetting.remove(&bunker_id) {
                    // Who has stopped waiting needs no answer.
                    let _ = waiting.send(());
                }
            }
        }
    }

    fn used(&self) -> std::sync::MutexGuard<'_, HashMap<BunkerId, Used>> {
        self.usage.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Serves a bunker from now on. While no gateway runs, its connections wait for one.
    pub async fn serve(&self, bunker: ServedBunker) -> Result<(), NetworkError> {
        let sockets = open_sockets(&bunker).await?;
        let mut orders = self.orders.lock().await;
        self.used().insert(bunker.id, Used::default());
        if let Some(channel) = &orders.channel {
            // A gateway that is about to end hears nothing; the next one is told of all bunkers.
            if let Err(error) = send_bunker(channel, &bunker, &sockets).await {
                tracing::warn!(bunker_id = %bunker.id, %error, "cannot tell the egress gateway");
            }
        }
        orders.served.insert(bunker.id, bunker);
        Ok(())
    }

    /// Ends what goes on for a bunker. When it returns, its audit log is complete.
    pub async fn forget(&self, id: BunkerId) {
        let forgotten = {
            let mut orders = self.orders.lock().await;
            if orders.served.remove(&id).is_none() {
                return;
            }
            let Some(channel) = orders.channel.clone() else {
                self.used().remove(&id);
                return;
            };
            let (done, forgotten) = oneshot::channel();
            orders.forgetting.insert(id, done);
            let forget = ToGateway::Forget { bunker_id: id };
            if send(&channel, &forget, &[]).await.is_err() {
                orders.forgetting.remove(&id);
            }
            forgotten
        };
        if timeout(FORGET_LIMIT, forgotten).await.is_err() {
            tracing::warn!(bunker_id = %id, "the egress gateway does not give a bunker up");
        }
        self.used().remove(&id);
    }

    /// What a bunker has used of the network, a second ago at most.
    #[must_use]
    pub fn usage(&self, id: BunkerId) -> Option<NetworkUsage> {
        self.used().get(&id).map(|used| used.total())
    }

    /// Says where the controllers are, which no bunker reaches.
    pub async fn set_controllers(&self, addresses: HashSet<IpAddr>) {
        let orders = self.orders.lock().await;
        let news = Some(addresses.clone());
        if *self.controllers.borrow() == news {
            return;
        }
        self.controllers.send_replace(news);
        if let Some(channel) = orders.channel.clone() {
            // As above.
            let _ = send(&channel, &ToGateway::Controllers { addresses }, &[]).await;
        }
    }
}

/// Makes the sockets that the gateway serves a bunker by.
async fn open_sockets(bunker: &ServedBunker) -> Result<Sockets, NetworkError> {
    let (namespace, may_use_udp) = (Arc::clone(&bunker.namespace), bunker.policy.may_use_udp());
    let opened = tokio::task::spawn_blocking(move || sockets::open(&namespace, may_use_udp)).await;
    opened.map_err(|lost| failed("open sockets")(io::Error::from(lost)))?
}

async fn send_bunker(
    channel: &Channel,
    bunker: &ServedBunker,
    sockets: &Sockets,
) -> io::Result<()> {
    let mut fds = sockets.borrow();
    fds.extend(bunker.audit.as_ref().map(|file| file.as_fd()));
    let serve = ToGateway::Serve { bunker_id: bunker.id, policy: bunker.policy.clone() };
    send(channel, &serve, &fds).await
}

async fn send(channel: &Channel, order: &ToGateway, fds: &[BorrowedFd<'_>]) -> io::Result<()> {
    timeout(SEND_LIMIT, channel.send(order, fds)).await?
}
