//! Where the controllers are, as far as their names tell: no bunker connects there.

use std::{collections::HashSet, net::IpAddr, sync::Arc, time::Duration};

use scaibunker_api::worker::ControllerAddress;
use tokio::{net::lookup_host, sync::watch, time::sleep};
use url::Url;

use super::Gateway;

/// How often names are looked up again.
const INTERVAL: Duration = Duration::from_secs(60);

/// Tells the gateway about the controllers in `seeds` and those that the others tell of, for ever.
pub async fn follow(
    gateway: Arc<Gateway>,
    seeds: Vec<String>,
    mut told: watch::Receiver<Vec<ControllerAddress>>,
) {
    loop {
        let mut urls = seeds.clone();
        urls.extend(told.borrow_and_update().iter().map(|controller| controller.url.clone()));
        let mut addresses = HashSet::new();
        for url in urls {
            addresses.extend(addresses_of(&url).await);
        }
        gateway.set_controllers(addresses).await;
        tokio::select! {
            () = sleep(INTERVAL) => {}
            changed = told.changed() => {
                if changed.is_err() {
                    return;
                }
            }
        }
    }
}

async fn addresses_of(url: &str) -> Vec<IpAddr> {
    let Ok(url) = Url::parse(url) else { return Vec::new() };
    let (Some(host), Some(port)) = (url.host_str(), url.port_or_known_default()) else {
        return Vec::new();
    };
    let host = host.trim_matches(['[', ']']);
    match lookup_host((host, port)).await {
        Ok(found) => found.map(|address| address.ip().to_canonical()).collect(),
        Err(error) => {
            tracing::warn!(host, %error, "a controller's name cannot be looked up");
            Vec::new()
        }
    }
}
