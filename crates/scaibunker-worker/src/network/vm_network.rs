//! The network of one VM: made before its VMM, and opened to the world when a bunker claims it.

use std::{net::IpAddr, os::fd::OwnedFd, sync::Arc};

use scaibunker_api::{bunker::NetworkProfile, ids::BunkerId, worker::StartNetwork};
use scaibunker_guest_protocol::network::GuestNetwork;

use super::{
    Networks, bridged,
    gateway::ServedBunker,
    namespace::{Namespace, NetworkError, failed},
    place::Place,
};
use crate::engine::Nics;

/// Owns the namespace; nothing is left of it when this and the VMM are gone.
#[derive(Debug)]
pub struct VmNetwork {
    namespace: Arc<Namespace>,
    /// Where it is, unless that is up to a bridge.
    place: Option<Place>,
    /// Until the VMM has them.
    taps: Vec<OwnedFd>,
}

impl VmNetwork {
    /// A network through which nothing goes yet. No other VM has the number at the same time. Blocks
    /// for some milliseconds.
    pub fn create(number: u32, nics: Nics) -> Result<Self, NetworkError> {
        let ((namespace, taps), place) = match nics {
            Nics::None | Nics::Gateway => {
                let place = Place::new(number);
                (Namespace::create(&place)?, Some(place))
            }
            Nics::Bridges(count) => (Namespace::create_bridged(count)?, None),
        };
        Ok(Self { namespace: Arc::new(namespace), place, taps })
    }

    /// That of a VM with this number and profile that an earlier server made, by the first tap that
    /// its VMM has.
    pub fn of(tap: &OwnedFd, number: u32, profile: NetworkProfile) -> Result<Self, NetworkError> {
        let namespace = Namespace::of_tap(tap).map_err(failed("find a VM's network again"))?;
        let place = (profile != NetworkProfile::Transit).then(|| Place::new(number));
        Ok(Self { namespace: Arc::new(namespace), place, taps: Vec::new() })
    }

    /// The taps, for the VMM, which is given them once.
    pub fn take_taps(&mut self) -> Vec<OwnedFd> {
        std::mem::take(&mut self.taps)
    }

    /// What the guest is to be told before a bunker claims it: under emulation its kernel takes some
    /// 80 ms to raise a device for the first time.
    #[must_use]
    pub fn known_before(&self) -> Option<GuestNetwork> {
        self.place.as_ref().map(Place::guest)
    }

    /// The bunker's address in its own network, if the worker gives it one.
    #[must_use]
    pub fn address(&self) -> Option<IpAddr> {
        self.place.as_ref().map(|place| place.address.into())
    }

    /// Lets a bunker reach what its profile allows; what the guest is to be told then.
    pub async fn open(
        &self,
        networks: &Networks,
        id: BunkerId,
        wanted: &StartNetwork,
    ) -> Result<Option<GuestNetwork>, NetworkError> {
        if wanted.profile == NetworkProfile::Transit {
            let (namespace, wanted) = (Arc::clone(&self.namespace), wanted.clone());
            let attach = move || bridged::attach(&namespace, &wanted);
            let attached = tokio::task::spawn_blocking(attach).await;
            let lost = |lost| failed("attach a VM")(std::io::Error::from(lost));
            return attached.map_err(lost)?.map(Some);
        }
        self.serve(networks, id, wanted).await?;
        Ok(None)
    }

    /// Opens the network of an adopted VM, as far as it was closed with the earlier server.
    pub async fn open_again(
        &self,
        networks: &Networks,
        id: BunkerId,
        wanted: &StartNetwork,
    ) -> Result<(), NetworkError> {
        match wanted.profile {
            // Its bridges know nothing of servers.
            NetworkProfile::Transit => Ok(()),
            _ => self.serve(networks, id, wanted).await,
        }
    }

    async fn serve(
        &self,
        networks: &Networks,
        id: BunkerId,
        wanted: &StartNetwork,
    ) -> Result<(), NetworkError> {
        let Some(policy) = networks.policy(wanted) else { return Ok(()) };
        let audit = match policy.is_audited {
            true => Some(networks.audit.open(id).map_err(failed("open an audit log"))?),
            false => None,
        };
        let namespace = Arc::clone(&self.namespace);
        networks.gateway.serve(ServedBunker { id, namespace, policy, audit }).await
    }
}
