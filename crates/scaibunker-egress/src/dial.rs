//! Names become connections here and nowhere else.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use hickory_resolver::{
    Hosts, TokioResolver,
    config::{LookupIpStrategy, ResolverConfig, ResolverOpts},
    lookup::Lookup,
    net::{NetError, runtime::TokioRuntimeProvider},
    proto::rr::{Name, RecordType},
    system_conf::read_system_conf,
};
use scaibunker_api::{egress::EgressVerdict, host_name::HostName};
use tokio::{net::TcpStream, time::timeout};

use crate::addresses::{Addresses, Denied};

/// Addresses of one name that are tried.
const MAX_TRIED: usize = 4;
const CONNECT_LIMIT: Duration = Duration::from_secs(8);

/// Why something does not leave the bunker.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    #[error("the network profile does not allow this name")]
    Name,
    #[error("{}", .0.as_str())]
    Address(Denied),
    #[error("{0}")]
    Protocol(&'static str),
    #[error("the bunker has too many connections open")]
    Connections,
    #[error("the bunker looks up too many names")]
    Lookups,
    #[error("it cannot be written down in the audit log")]
    Unrecorded,
    #[error("the name cannot be resolved: {0}")]
    Lookup(NetError),
    #[error("the name has no address")]
    NoAddress,
    #[error("the other side does not speak HTTP, or broke off: {0}")]
    Http(#[source] hyper::Error),
    #[error("nothing answers there: {0}")]
    Connect(#[source] io::Error),
}

impl Refusal {
    /// Whether it was decided here, or turned out elsewhere.
    pub fn verdict(&self) -> EgressVerdict {
        match self {
            Self::Lookup(_) | Self::NoAddress | Self::Http(_) | Self::Connect(_) => {
                EgressVerdict::Failed
            }
            _ => EgressVerdict::Refused,
        }
    }
}

/// Looks up names and connects.
pub struct Dialer {
    resolver: TokioResolver,
    pub addresses: Addresses,
}

/// How this host resolves names: its `resolv.conf` and `hosts`, as they were when it was read.
pub struct SystemResolver {
    config: ResolverConfig,
    options: ResolverOpts,
    hosts: Hosts,
}

impl SystemResolver {
    pub fn read() -> Result<Self, NetError> {
        let (config, mut options) = read_system_conf()?;
        options.ip_strategy = LookupIpStrategy::Ipv4AndIpv6;
        let hosts = Hosts::from_system().unwrap_or_default();
        Ok(Self { config, options, hosts })
    }
}

impl Dialer {
    pub fn new(system: SystemResolver, addresses: Addresses) -> Result<Self, NetError> {
        let provider = TokioRuntimeProvider::default();
        let builder = TokioResolver::builder_with_config(system.config, provider);
        let mut resolver = builder.with_options(system.options).build()?;
        resolver.set_hosts(Arc::new(system.hosts));
        Ok(Self { resolver, addresses })
    }

    /// The addresses of a name that may be connected to, and until when that is known.
    pub async fn resolve(
        &self,
        name: &HostName,
    ) -> Result<(Vec<IpAddr>, std::time::Instant), Refusal> {
        let found = self.resolver.lookup_ip(format!("{name}.")).await.map_err(Refusal::Lookup)?;
        let (mut allowed, mut denied) = (Vec::new(), None);
        for address in found.iter() {
            match self.addresses.check(address) {
                Ok(()) => allowed.push(address),
                Err(why) => denied = Some(why),
            }
        }
        match (allowed.is_empty(), denied) {
            (false, _) => Ok((allowed, found.as_lookup().valid_until())),
            (true, Some(why)) => Err(Refusal::Address(why)),
            (true, None) => Err(Refusal::NoAddress),
        }
    }

    /// Records of any type.
    pub async fn records(&self, name: Name, kind: RecordType) -> Result<Lookup, NetError> {
        self.resolver.lookup(name, kind).await
    }

    /// Connects to the name. Each address is checked when it is connected to: it makes no difference
    /// what the name stood for before.
    pub async fn connect(&self, name: &HostName, port: u16) -> Result<TcpStream, Refusal> {
        let (addresses, _) = self.resolve(name).await?;
        let mut last = Refusal::NoAddress;
        for address in addresses.into_iter().take(MAX_TRIED) {
            match self.connect_to(SocketAddr::new(address, port)).await {
                Ok(stream) => return Ok(stream),
                Err(refusal) => last = refusal,
            }
        }
        Err(last)
    }

    /// Connects to the address, if it may be.
    pub async fn connect_to(&self, address: SocketAddr) -> Result<TcpStream, Refusal> {
        let address = SocketAddr::new(address.ip().to_canonical(), address.port());
        self.addresses.check(address.ip()).map_err(Refusal::Address)?;
        let connected = timeout(CONNECT_LIMIT, TcpStream::connect(address)).await;
        let stream = connected.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
        let stream = stream.map_err(Refusal::Connect)?;
        // What is copied comes in the pieces in which it was sent.
        stream.set_nodelay(true).map_err(Refusal::Connect)?;
        Ok(stream)
    }
}
