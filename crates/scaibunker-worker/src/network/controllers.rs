//! Where the controllers are, as far as their names tell: no bunker connects there.

use std::{collections::HashMap, io, net::IpAddr, sync::Arc, time::Duration};

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
    let mut known: HashMap<String, Vec<IpAddr>> = HashMap::new();
    loop {
        let mut urls = seeds.clone();
        urls.extend(told.borrow_and_update().iter().map(|controller| controller.url.clone()));
        known.retain(|url, _| urls.contains(url));
        for url in urls {
            match addresses_of(&url).await {
                Ok(addresses) => drop(known.insert(url, addresses)),
                // It is where it was, as far as is known.
                Err(error) => {
                    tracing::warn!(url, %error, "a controller's name cannot be looked up");
                }
            }
        }
        gateway.set_controllers(known.values().flatten().copied().collect()).await;
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

async fn addresses_of(url: &str) -> io::Result<Vec<IpAddr>> {
    let url = Url::parse(url).map_err(io::Error::other)?;
    let (host, port) = url
        .host_str()
        .zip(url.port_or_known_default())
        .ok_or_else(|| io::Error::other("it has no host"))?;
    let found = lookup_host((host.trim_matches(['[', ']']), port)).await?;
    Ok(found.map(|address| address.ip().to_canonical()).collect())
}
