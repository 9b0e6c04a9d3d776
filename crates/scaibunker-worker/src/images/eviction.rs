//! Making room: what nobody needs at once goes, the least recently used before others.

use std::{collections::HashSet, io};

use scaibunker_api::ids::ImageId;

use super::{
    budget::{self, Item},
    fault::{self, Fault},
    state::Event,
    store::{ImageEvent, Images},
};
use crate::oci::CachedLayer;

/// Bytes of the disk that images leave free.
const RESERVE_BYTES: u64 = 256 << 20;

/// What eviction chooses from.
#[derive(Debug, Clone)]
enum Evictable {
    Root(String),
    Layer(CachedLayer),
}

impl Images {
    /// Evicts until so many bytes more fit into the budget and onto the disk.
    pub(super) fn make_room(&self, needed_bytes: u64) -> Result<(), Fault> {
        let failed = |error: io::Error| {
            Fault(fault::of_io("look through", &self.0.settings.cache_dir, &error))
        };
        let items = self.evictable().map_err(failed)?;
        let used: u64 = items.iter().map(|item| item.size_bytes).sum();
        let free = self.free_bytes().map_err(failed)?.saturating_sub(RESERVE_BYTES);
        let budget = self.0.settings.budget_bytes.min(used.saturating_add(free));
        let Some(going) = budget::choose(items, needed_bytes, budget) else {
            return Err(fault::over_budget(needed_bytes, self.0.settings.budget_bytes).into());
        };
        for item in going {
            self.evict(&item);
        }
        Ok(())
    }

    /// After the disk was full: everything that nobody needs at once. Whether anything went.
    pub(super) fn evict_everything(&self) -> bool {
        let items = self.evictable().unwrap_or_default();
        let unused = items.iter().filter(|item| !item.in_use);
        unused.filter(|item| self.evict(&item.what)).count() > 0
    }

    fn evictable(&self) -> io::Result<Vec<Item<Evictable>>> {
        let busy = self.busy_digests();
        let roots = self.0.roots.list()?.into_iter().map(|root| Item {
            in_use: root.in_use || busy.contains(&root.digest),
            what: Evictable::Root(root.digest),
            size_bytes: root.size_bytes,
            last_used: root.last_used,
        });
        let layers = self.0.layers.list().map_err(io::Error::other)?;
        let layers = layers.into_iter().map(|layer| Item {
            size_bytes: layer.size_bytes,
            last_used: layer.last_used,
            in_use: layer.in_use,
            what: Evictable::Layer(layer),
        });
        Ok(roots.chain(layers).collect())
    }

    /// Roots that are baked here and not stored yet exist nowhere else.
    fn busy_digests(&self) -> HashSet<String> {
        let all = self.held();
        let unstored = all.values().filter_map(|entry| {
            entry.record.as_ref().filter(|record| record.baked_here && record.baked.is_none())
        });
        unstored.map(|record| record.digest.clone()).collect()
    }

    fn evict(&self, item: &Evictable) -> bool {
        match item {
            Evictable::Root(digest) => self.evict_root(digest),
            Evictable::Layer(layer) => self.0.layers.evict(layer),
        }
    }

    pub(super) fn evict_root(&self, digest: &str) -> bool {
        if !self.0.roots.evict(digest) {
            return false;
        }
        tracing::info!(digest, "a root file system was evicted");
        let of_digest: Vec<ImageId> = {
            let all = self.held();
            let of_digest =
                all.iter().filter(|(_, entry)| entry.held.digest.as_deref() == Some(digest));
            of_digest.map(|(id, _)| *id).collect()
        };
        for id in of_digest {
            self.0.records.remove(id);
            self.note(id, Event::Evicted(fault::evicted()));
        }
        // Nobody listens once the worker stops.
        let _ = self.0.events.send(ImageEvent::Gone(digest.to_owned()));
        true
    }

    fn free_bytes(&self) -> io::Result<u64> {
        let found = rustix::fs::statvfs(&self.0.settings.cache_dir)?;
        Ok(found.f_bavail.saturating_mul(found.f_frsize))
    }
}
