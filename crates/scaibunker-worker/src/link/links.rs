//! Which controllers this worker is linked with: all there are.
//!
//! It begins with those that it was told of, and goes on with those that controllers tell it of. So
//! any controller can reach any worker, and one that comes or goes needs no change of a worker.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use scaibunker_api::worker::ControllerAddress;
use tokio::{sync::watch, task::JoinHandle, time::sleep};
use tokio_util::sync::CancellationToken;

use super::{ControllerClient, Identity, Link, LinkError};

/// Without any link for this long, the worker also asks those that it was told of.
const LOST_AFTER: Duration = Duration::from_secs(15);

/// The links of one worker.
pub struct Links {
    seeds: BTreeSet<String>,
    token: String,
    worker: Arc<Identity>,
    controllers: watch::Sender<Vec<ControllerAddress>>,
    up: watch::Sender<usize>,
}

/// A link that is kept up.
struct Kept {
    stop: CancellationToken,
    running: JoinHandle<()>,
}

impl Links {
    /// Links that begin with the controllers at `seeds`.
    pub fn new(seeds: &[String], token: &str, worker: Identity) -> Result<Self, LinkError> {
        let seeds: BTreeSet<_> = seeds.iter().map(|url| trimmed(url)).collect();
        // What is wrong with an address is told now.
        for seed in &seeds {
            ControllerClient::new(seed, token)?;
        }
        Ok(Self {
            seeds,
            token: token.to_owned(),
            worker: Arc::new(worker),
            controllers: watch::Sender::default(),
            up: watch::Sender::default(),
        })
    }

    /// The controllers that others tell of.
    #[must_use]
    pub fn controllers(&self) -> watch::Receiver<Vec<ControllerAddress>> {
        self.controllers.subscribe()
    }

    /// How many links are up.
    #[must_use]
    pub fn up(&self) -> watch::Receiver<usize> {
        self.up.subscribe()
    }

    /// Keeps the links up until `shutdown`.
    pub async fn run(self, shutdown: CancellationToken) {
        let (mut told, mut up) = (self.controllers.subscribe(), self.up.subscribe());
        let mut kept: BTreeMap<String, Kept> = BTreeMap::new();
        let mut is_lost = false;
        loop {
            let wanted = wanted(&self.seeds, &told.borrow_and_update(), is_lost);
            for (_, unwanted) in kept.extract_if(.., |url, _| !wanted.contains(url)) {
                unwanted.stop.cancel();
                let _ = unwanted.running.await;
            }
            for url in wanted {
                if !kept.contains_key(&url)
                    && let Some(link) = self.keep(&url, &shutdown)
                {
                    kept.insert(url, link);
                }
            }
            let is_down = *up.borrow_and_update() == 0;
            tokio::select! {
                () = shutdown.cancelled() => break,
                _ = told.changed() => is_lost = false,
                _ = up.changed() => is_lost = is_lost && is_down,
                () = sleep(LOST_AFTER), if is_down && !is_lost => is_lost = true,
            }
        }
        for (_, link) in kept {
            let _ = link.running.await;
        }
    }

    fn keep(&self, url: &str, shutdown: &CancellationToken) -> Option<Kept> {
        let controller = match ControllerClient::new(url, &self.token) {
            Ok(controller) => controller,
            Err(error) => {
                tracing::warn!(controller = url, error = %crate::chain(&error), "a controller's address is of no use");
                return None;
            }
        };
        let link = Link {
            controller,
            worker: Arc::clone(&self.worker),
            controllers: self.controllers.clone(),
            up: self.up.clone(),
        };
        let stop = shutdown.child_token();
        Some(Kept { running: tokio::spawn(link.run(stop.clone())), stop })
    }
}

/// The controllers that others tell of; those that the worker was told of while nobody tells of any,
/// or while none of them answers.
fn wanted(seeds: &BTreeSet<String>, told: &[ControllerAddress], is_lost: bool) -> BTreeSet<String> {
    let told: BTreeSet<_> = told.iter().map(|controller| trimmed(&controller.url)).collect();
    match (told.is_empty(), is_lost) {
        (true, _) => seeds.clone(),
        (false, false) => told,
        (false, true) => told.union(seeds).cloned().collect(),
    }
}

fn trimmed(url: &str) -> String {
    url.trim_end_matches('/').to_owned()
}

#[cfg(test)]
mod tests {
    use scaibunker_api::ids::ControllerId;

    use super::*;

    #[test]
    fn the_live_ones_are_wanted_and_the_first_ones_when_all_are_lost() {
        let seeds = BTreeSet::from(["http://balancer".to_owned()]);
        let controller =
            |url: &str| ControllerAddress { id: ControllerId::generate(), url: url.into() };
        let told = [controller("http://a/"), controller("http://b")];
        let urls =
            |urls: &[&str]| urls.iter().map(|url| (*url).to_owned()).collect::<BTreeSet<_>>();
        assert_eq!(wanted(&seeds, &[], false), seeds);
        assert_eq!(wanted(&seeds, &told, false), urls(&["http://a", "http://b"]));
        assert_eq!(wanted(&seeds, &told, true), urls(&["http://a", "http://b", "http://balancer"]));
    }
}
