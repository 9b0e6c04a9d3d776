//! Snapshots: what they are, and which of their chunks are stored anew.

use std::collections::{BTreeMap, HashMap, HashSet};

use jiff::Timestamp;
use scaibunker_api::{
    bunker::{CreateBunker, NetworkProfile},
    error::{ErrorBody, ErrorCode},
    ids::{ControllerId, PackId},
    snapshot::{self, CreateSnapshot, PatchSnapshot, SnapshotKind},
};
use scaibunker_snapshot::{
    ChunkName, Digest, FoundChunk,
    link::KnownChunk,
    pack::{MAX_CHUNKS, PackEntry},
};

use super::{bunker::Spec, violations::Violations};

/// What a bunker's memory goes on on, and on nothing else.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Machine {
    pub engine: String,
    pub cpu_class: String,
}

/// A snapshot as the database has it.
#[derive(Debug, Clone, PartialEq)]
pub struct SnapshotRecord {
    pub shown: snapshot::Snapshot,
    /// Of the image below it.
    pub image_digest: String,
    /// What the bunker was.
    pub spec: Spec,
    /// Set once it is ready.
    pub manifest_digest: Option<Digest>,
    /// Where its memory can go on, if it has one.
    pub machine: Option<Machine>,
    /// Whether it is the memory of a bunker that was written out: nobody sees it, and it is no more when
    /// the bunker goes on or ends.
    pub is_evicted: bool,
    /// Names the secret that it is sealed with.
    pub sealed_with: Option<String>,
    /// The controller that takes it.
    pub starter: ControllerId,
}

/// Refuses what cannot be.
pub fn check(request: &CreateSnapshot, now: Timestamp) -> Result<(), ErrorBody> {
    let mut faults = Violations::default();
    faults.text("name", request.name.as_deref(), 1..=128);
    check_expiry(&mut faults, request.expires_at, now);
    faults.into_result()
}

/// Refuses a change that cannot be.
pub fn check_patch(patch: &PatchSnapshot, now: Timestamp) -> Result<(), ErrorBody> {
    let mut faults = Violations::default();
    faults.text("name", patch.name.as_ref().and_then(Option::as_deref), 1..=128);
    check_expiry(&mut faults, patch.expires_at.flatten(), now);
    faults.into_result()
}

fn check_expiry(faults: &mut Violations, expires_at: Option<Timestamp>, now: Timestamp) {
    if expires_at.is_some_and(|at| at <= now) {
        faults.add("expires_at", "must be in the future");
    }
}

/// Refuses a bunker that asks for something else than its snapshot is of.
pub fn check_fit(request: &CreateBunker, was: &Spec, has_memory: bool) -> Result<(), ErrorBody> {
    let mut faults = Violations::default();
    let mut must_be = |field: &str, asked: Option<u32>, was: u32| {
        if asked.is_some_and(|asked| asked != was) {
            faults.add(field, format!("a bunker from this snapshot has {was}; leave it out"));
        }
    };
    must_be("disk_mb", request.disk_mb, was.disk_mb);
    if has_memory {
        must_be("memory_mb", request.memory_mb, was.memory_mb);
        must_be("cpu_millicores", request.cpu_millicores, was.cpu_millicores);
        let has_device = |profile| profile != NetworkProfile::Isolated;
        if request.network_profile == NetworkProfile::Transit
            || has_device(request.network_profile) != has_device(was.network_profile)
        {
            let kept = match has_device(was.network_profile) {
                true => "one of `registry`, `allowlisted` and `unrestricted`",
                false => "`isolated`",
            };
            let message = format!("the memory of this snapshot goes on with {kept}");
            faults.add("network_profile", message);
        }
    }
    faults.into_result()
}

/// Refuses a snapshot of what a bunker's memory cannot be kept with.
pub fn check_memory(kind: SnapshotKind, spec: &Spec) -> Result<(), ErrorBody> {
    let refused = |what| Err(ErrorBody::new(ErrorCode::CannotBeCopied, what));
    match kind {
        SnapshotKind::Memory if spec.gpu_count > 0 => {
            refused("what a bunker has in its GPUs cannot be kept; take a snapshot of its disk")
        }
        SnapshotKind::Memory if spec.network_profile == NetworkProfile::Transit => {
            refused("a bunker on bridges has its addresses there; take a snapshot of its disk")
        }
        _ => Ok(()),
    }
}

/// An error about a snapshot that is no more than being made, or that failed.
pub fn check_ready(record: &SnapshotRecord) -> Result<Digest, ErrorBody> {
    record.manifest_digest.ok_or_else(|| {
        let reason = record.shown.status_reason.as_deref().unwrap_or("it is still being stored");
        let message = format!("snapshot {} is not ready: {reason}", record.shown.id);
        ErrorBody::new(ErrorCode::SnapshotNotReady, message)
    })
}

/// A chunk that is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StoredChunk {
    pub pack: PackId,
    /// Chunks that the pack has in all.
    pub pack_chunks: u64,
    pub entry: PackEntry,
}

/// What a pack must be used for at least to be used at all, as one of so many parts of its chunks:
/// else a chunk here and there would keep packs that are otherwise waste.
const LEAST_USE: u64 = 4;

/// What to store of a disk, and what there is.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// Packs that have some of its chunks already.
    pub packs: Vec<PackId>,
    pub known: Vec<KnownChunk>,
    /// Which of the disk's are new, a pack each. What is on the disk twice is stored once.
    pub new: Vec<Vec<u32>>,
}

/// Decides which chunks are taken from packs that there are.
#[must_use]
pub fn plan(chunks: &[FoundChunk], stored: &HashMap<ChunkName, Vec<StoredChunk>>) -> Plan {
    let mut seen = HashSet::new();
    let distinct: Vec<_> = chunks.iter().filter(|chunk| seen.insert(chunk.name)).collect();
    let places = |chunk: &FoundChunk| stored.get(&chunk.name).into_iter().flatten();
    let mut uses: BTreeMap<PackId, u64> = BTreeMap::new();
    for place in distinct.iter().flat_map(|chunk| places(chunk)) {
        *uses.entry(place.pack).or_default() += 1;
    }
    let is_worth_it = |place: &&StoredChunk| {
        uses.get(&place.pack).is_some_and(|used| used * LEAST_USE >= place.pack_chunks)
    };
    let (mut plan, mut numbers, mut new) = (Plan::default(), BTreeMap::new(), Vec::new());
    for chunk in distinct {
        let Some(place) = places(chunk).find(is_worth_it) else {
            new.push(chunk.index);
            continue;
        };
        let pack = *numbers.entry(place.pack).or_insert_with(|| {
            plan.packs.push(place.pack);
            (plan.packs.len() - 1) as u32
        });
        plan.known.push(KnownChunk { pack, entry: place.entry });
    }
    plan.new = new.chunks(MAX_CHUNKS).map(<[u32]>::to_vec).collect();
    plan
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use scaibunker_snapshot::{Key, SnapshotKeys};

    use super::*;
    use crate::domain::bunker::tests::spec;

    fn name(number: u8) -> ChunkName {
        let keys = SnapshotKeys { naming: Key::derive("test", b""), sealing: None };
        ChunkName::of(&keys, &[number])
    }

    fn entry(number: u8) -> PackEntry {
        PackEntry { name: name(number), number: 0, offset: 0, length: 1 }
    }

    fn disk(numbers: &[u8]) -> Vec<FoundChunk> {
        let chunks = (0..).zip(numbers);
        chunks.map(|(index, number)| FoundChunk { index, name: name(*number) }).collect()
    }

    proptest! {
        #[test]
        fn every_chunk_is_known_or_new_and_no_other_is(
            numbers in proptest::collection::vec(any::<u8>(), 0..200),
            stored in proptest::collection::vec((any::<u8>(), 0usize..4, 1u64..40), 0..60),
        ) {
            let packs: Vec<PackId> = (0..4).map(|_| PackId::generate()).collect();
            let mut known: HashMap<ChunkName, Vec<StoredChunk>> = HashMap::new();
            for (number, pack, pack_chunks) in stored {
                let place = StoredChunk { pack: packs[pack], pack_chunks, entry: entry(number) };
                known.entry(name(number)).or_default().push(place);
            }
            let chunks = disk(&numbers);
            let plan = plan(&chunks, &known);
            let new: Vec<_> = plan.new.iter().flatten().map(|at| chunks[*at as usize].name).collect();
            let all: Vec<_> = plan.known.iter().map(|known| known.entry.name).chain(new).collect();
            let distinct: HashSet<_> = chunks.iter().map(|chunk| chunk.name).collect();
            prop_assert_eq!(all.len(), distinct.len());
            prop_assert_eq!(all.into_iter().collect::<HashSet<_>>(), distinct);
            prop_assert!(plan.new.iter().all(|pack| (1..=MAX_CHUNKS).contains(&pack.len())));
            let used: HashSet<_> = plan.known.iter().map(|known| known.pack).collect();
            prop_assert_eq!(used.len(), plan.packs.len());
        }
    }

    #[test]
    fn a_pack_that_would_be_mostly_waste_is_not_kept_for_a_chunk() {
        let place = |pack_chunks| {
            let place = StoredChunk { pack: PackId::generate(), pack_chunks, entry: entry(1) };
            HashMap::from([(name(1), vec![place])])
        };
        assert_eq!(plan(&disk(&[1, 1]), &place(4)).packs.len(), 1);
        assert_eq!(plan(&disk(&[1, 1]), &place(5)).new, [[0]]);
    }

    #[test]
    fn what_cannot_be_is_named() {
        let now = Timestamp::UNIX_EPOCH;
        let faults = |request| {
            let error = check(&request, now).unwrap_err();
            error.details.into_iter().map(|detail| detail.field).collect::<Vec<_>>()
        };
        let wrong = CreateSnapshot {
            name: Some(String::new()),
            expires_at: Some(now),
            ..CreateSnapshot::default()
        };
        assert_eq!(faults(wrong), ["name", "expires_at"]);
        check(&CreateSnapshot::default(), now).unwrap();
        let past = PatchSnapshot { expires_at: Some(Some(now)), ..PatchSnapshot::default() };
        assert_eq!(check_patch(&past, now).unwrap_err().details[0].field, "expires_at");
    }

    #[test]
    fn a_bunker_fits_what_it_starts_from() {
        let was = spec();
        let faults = |request: CreateBunker, has_memory| match check_fit(&request, &was, has_memory)
        {
            Ok(()) => Vec::new(),
            Err(error) => error.details.into_iter().map(|detail| detail.field).collect(),
        };
        let other = || CreateBunker {
            disk_mb: Some(was.disk_mb + 1),
            memory_mb: Some(was.memory_mb + 2),
            cpu_millicores: Some(was.cpu_millicores),
            network_profile: NetworkProfile::Registry,
            ..CreateBunker::default()
        };
        assert_eq!(faults(other(), false), ["disk_mb"]);
        assert_eq!(faults(other(), true), ["disk_mb", "memory_mb", "network_profile"]);
        assert!(faults(CreateBunker::default(), true).is_empty());
        let gpus = Spec { gpu_count: 1, ..spec() };
        assert!(check_memory(SnapshotKind::Memory, &gpus).is_err());
        assert!(check_memory(SnapshotKind::Disk, &gpus).is_ok());
        assert!(check_memory(SnapshotKind::Memory, &was).is_ok());
    }
}
