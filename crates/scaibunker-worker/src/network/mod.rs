//! The networks of bunkers.
//!
//! ```text
//!  guest ─ virtio-net ─ VMM ─ tap0 │ netfilter ─▶ sockets ─▶ egress gateway ─▶ the world
//!                                  │ (TPROXY)     (passed to the gateway's process)
//!      jail: no network of its own │ a network namespace for each bunker: no route leads out
//! ```
//!
//! A namespace has no name anywhere. It is held by descriptors alone: the worker's, and the tap's in
//! the VMM, by which a restarted worker finds it again. When both are gone, so is everything in it.
//! Because no two bunkers share one, all of them have the same surroundings.

mod audit;
mod bridged;
mod bridges;
mod controllers;
mod gateway;
mod namespace;
mod place;
mod registry_hosts;
mod sockets;
mod stand_in;
mod vm_network;

use std::{io, path::PathBuf, sync::Arc};

use scaibunker_api::{bunker::NetworkProfile, ids::BunkerId, worker::StartNetwork};
use scaibunker_egress::{Names, Policy};

use crate::engine::Nics;

pub use self::{
    audit::AuditLogs,
    bridges::Bridges,
    controllers::follow as follow_controllers,
    gateway::{Gateway, GatewaySettings, ServedBunker},
    namespace::{Namespace, NetworkError},
    registry_hosts::registry_hosts,
    stand_in::StandIn,
    vm_network::VmNetwork,
};

/// What the networks of all bunkers have in common.
pub struct Networks {
    pub gateway: Arc<Gateway>,
    pub audit: Arc<AuditLogs>,
    pub bridges: Bridges,
    /// What the profile `registry` reaches.
    registry_hosts: Vec<String>,
}

impl Networks {
    /// The profiles that bunkers may have where there are networks.
    pub const OFFERED: [NetworkProfile; 5] = [
        NetworkProfile::Isolated,
        NetworkProfile::Registry,
        NetworkProfile::Allowlisted,
        NetworkProfile::Unrestricted,
        NetworkProfile::Transit,
    ];

    /// Fails where this host or this user cannot make a network.
    pub async fn new(
        gateway: GatewaySettings,
        audit: Arc<AuditLogs>,
        bridges: PathBuf,
        registry_hosts: Vec<String>,
    ) -> Result<Self, NetworkError> {
        // The proof that one can be made is to make one.
        let tried = tokio::task::spawn_blocking(move || {
            VmNetwork::create(0, Nics::Gateway)?;
            Bridges::restore(bridges)
        })
        .await;
        let lost = |lost| namespace::failed("try a network")(io::Error::from(lost));
        let bridges = tried.map_err(lost)??;
        Ok(Self { gateway: Gateway::new(gateway), audit, bridges, registry_hosts })
    }

    /// What a bunker may do, if it has a network.
    fn policy(&self, wanted: &StartNetwork) -> Option<Policy> {
        let names = match wanted.profile {
            NetworkProfile::Isolated | NetworkProfile::Transit => return None,
            NetworkProfile::Registry => Names::Listed(self.registry_hosts.clone()),
            NetworkProfile::Allowlisted => Names::Listed(wanted.allowlist.clone()),
            NetworkProfile::Unrestricted => Names::Any,
        };
        let is_audited = wanted.egress_audit;
        Some(Policy { names, bandwidth_mbit: wanted.bandwidth_mbit, is_audited })
    }

    /// Ends what a bunker has under way, and its audit log.
    pub async fn close(&self, id: BunkerId) {
        self.gateway.forget(id).await;
        self.audit.close(id);
    }
}
