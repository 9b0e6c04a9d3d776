//! A program of this host in the place of a bunker, to measure the gateway without a VM before it.

use std::sync::Arc;

use super::{
    namespace::{Namespace, NetworkError, TAP, run},
    place::Place,
};
use crate::assets::program::IP;

/// A bunker's network with a cable in the place of the VM's device.
#[derive(Debug)]
pub struct StandIn {
    /// What the gateway is to serve.
    pub bunker: Arc<Namespace>,
    /// Where a program is what the guest would be.
    pub client: Namespace,
}

impl StandIn {
    /// A network like that of the VM with this number. Blocks for some milliseconds.
    pub fn create(number: u32) -> Result<Self, NetworkError> {
        let (place, client) = (Place::new(number), Namespace::create_empty()?);
        let cable = format!("link add {TAP} type veth peer name eth0 netns {}\n", client.path());
        let (bunker, _) = Namespace::create_around(&place, || run(IP, &["-batch", "-"], &cable))?;
        client.enter(|| run(IP, &["-batch", "-"], &place.client_ip_batch()))?;
        Ok(Self { bunker: Arc::new(bunker), client })
    }
}
