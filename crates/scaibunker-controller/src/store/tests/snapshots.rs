use jiff::Timestamp;
use scaibunker_api::{
    ids::{BunkerId, ControllerId, ImageId, PackId, SnapshotId},
    snapshot::{Snapshot, SnapshotKind, SnapshotStatus},
};
use scaibunker_snapshot::{
    ChunkName, Key, Layout, Manifest, SnapshotKeys, link::StoredPack, pack::PackEntry,
};

use super::{Database, now, seconds, world::World};
use crate::{
    domain::{
        actor::Scope,
        bunker::tests::spec,
        snapshot::{Machine, SnapshotRecord},
    },
    store::{FinishedSnapshot, Inserted},
};

fn keys() -> SnapshotKeys {
    SnapshotKeys { naming: Key::derive("test", b""), sealing: None }
}

fn name(number: u8) -> ChunkName {
    ChunkName::of(&keys(), &[number])
}

fn record(world: &World) -> SnapshotRecord {
    SnapshotRecord {
        shown: Snapshot {
            id: SnapshotId::generate(),
            tenant_id: world.tenant,
            owner_id: world.user,
            bunker_id: BunkerId::generate(),
            image_id: ImageId::generate(),
            name: Some("kept".to_owned()),
            kind: SnapshotKind::Disk,
            status: SnapshotStatus::Creating,
            status_reason: None,
            size_bytes: 0,
            stored_bytes: 0,
            created_at: now(),
            expires_at: None,
        },
        image_digest: "sha256:1".to_owned(),
        spec: spec(),
        manifest_digest: None,
        machine: Some(Machine { engine: "qemu".to_owned(), cpu_class: "any".to_owned() }),
        is_evicted: false,
        sealed_with: Some("name".to_owned()),
        starter: ControllerId::generate(),
    }
}

async fn insert(world: &World) -> SnapshotRecord {
    let record = record(world);
    assert_eq!(world.store.insert_snapshot(&record, None).await.unwrap(), Inserted::Done);
    record
}

/// A snapshot that is ready, with a new pack that has these chunks.
async fn ready(world: &World, known: &[PackId], chunks: &[u8]) -> (SnapshotId, PackId) {
    let (store, tenant, pack) = (&world.store, world.tenant, PackId::generate());
    let id = insert(world).await.shown.id;
    assert!(store.refer_to_packs(id, tenant, known, &[pack]).await.unwrap());
    let entries = (0..).zip(chunks).map(|(number, chunk)| PackEntry {
        name: name(*chunk),
        number,
        offset: number * 10,
        length: 10,
    });
    let packs = [StoredPack { id: pack, size_bytes: 100, entries: entries.collect() }];
    let empty = Manifest {
        layout: Layout::default(),
        packs: Vec::new(),
        chunks: Vec::new(),
        execs: Vec::new(),
    };
    let manifest = Manifest { packs: vec![pack], ..empty };
    let (_, manifest_digest) = manifest.encode(&keys(), "x").unwrap();
    let finished = FinishedSnapshot {
        id,
        tenant,
        packs: &packs,
        manifest_digest,
        size_bytes: 5,
        stored_bytes: 4,
    };
    assert!(store.finish_snapshot(finished).await.unwrap());
    (id, pack)
}

async fn unused(world: &World) -> Vec<PackId> {
    let later = Timestamp::now().checked_add(seconds(60)).unwrap();
    let found = world.store.unused_packs(later, 100).await.unwrap();
    found.into_iter().map(|(pack, _)| pack).collect()
}

pub(super) async fn a_snapshot_is_read_as_it_was_written(database: Database) {
    let world = World::on(&database).await;
    let store = &world.store;
    let written = insert(&world).await;
    let id = written.shown.id;
    assert_eq!(store.snapshot(id).await.unwrap(), Some(written.clone()));
    assert_eq!(store.unfinished_snapshots().await.unwrap(), std::slice::from_ref(&written));
    let (other, _) = ready(&world, &[], &[1]).await;
    let listed = store.list_snapshots(Scope::Tenant(world.tenant), None, 10).await.unwrap();
    assert_eq!(listed.iter().map(|one| one.shown.id).collect::<Vec<_>>(), [other, id]);
    assert!(listed[0].manifest_digest.is_some());
    assert_eq!((listed[0].shown.size_bytes, listed[0].shown.stored_bytes), (5, 4));
    let stranger = Scope::Tenant(world.tenant().await);
    assert!(store.list_snapshots(stranger, None, 10).await.unwrap().is_empty());

    let mut changed = written.shown.clone();
    changed.name = None;
    changed.expires_at = Some(now());
    assert!(store.update_snapshot(&changed).await.unwrap());
    let expired = store.expired_snapshots(now(), 10).await.unwrap();
    assert_eq!(expired.into_iter().map(|one| one.shown).collect::<Vec<_>>(), [changed.clone()]);

    // Only who takes it says that it failed, and once.
    let somebody = ControllerId::generate();
    assert!(!store.fail_snapshot(id, somebody, "no").await.unwrap());
    assert!(store.fail_snapshot(id, written.starter, "why").await.unwrap());
    assert!(!store.fail_snapshot(id, written.starter, "again").await.unwrap());
    let failed = store.snapshot(id).await.unwrap().unwrap().shown;
    assert_eq!(failed.status_reason.as_deref(), Some("why"));
    assert!(store.delete_snapshot(id).await.unwrap());
    assert!(!store.delete_snapshot(id).await.unwrap());
    assert!(!store.update_snapshot(&changed).await.unwrap());
}

pub(super) async fn a_pack_is_unused_when_the_last_snapshot_lets_go_of_it(database: Database) {
    let world = World::on(&database).await;
    let (store, tenant) = (&world.store, world.tenant);
    let (first, one) = ready(&world, &[], &[1, 2]).await;
    let (second, two) = ready(&world, &[one], &[3]).await;
    let found = store.stored_chunks(tenant, &[name(1), name(3), name(4)]).await.unwrap();
    assert_eq!(found.len(), 2);
    let place = found[&name(1)][0];
    assert_eq!((place.pack, place.pack_chunks, place.entry.offset), (one, 2, 0));
    let stranger = world.tenant().await;
    assert!(store.stored_chunks(stranger, &[name(1)]).await.unwrap().is_empty());

    store.delete_snapshot(first).await.unwrap();
    assert!(unused(&world).await.is_empty(), "the second needs it");
    store.delete_snapshot(second).await.unwrap();
    let mut both = unused(&world).await;
    both.sort();
    assert_eq!(both, [one, two]);
    // What is unused is referred to no more, not even before it is deleted.
    assert!(store.stored_chunks(tenant, &[name(1)]).await.unwrap().is_empty());
    let late = insert(&world).await.shown.id;
    let new = PackId::generate();
    assert!(!store.refer_to_packs(late, tenant, &[one], &[new]).await.unwrap());
    assert!(!unused(&world).await.contains(&new), "nothing of it was written");
    // One that was not stored is of no use to others.
    assert!(store.refer_to_packs(late, tenant, &[], &[new]).await.unwrap());
    store.fail_snapshot(late, ControllerId::generate(), "").await.unwrap();
    assert!(!unused(&world).await.contains(&new));
    store.delete_snapshot(late).await.unwrap();
    assert!(unused(&world).await.contains(&new));
    for pack in unused(&world).await {
        store.forget_pack(pack).await.unwrap();
    }
    assert!(unused(&world).await.is_empty());
    assert!(!store.refer_to_packs(late, tenant, &[], &[PackId::generate()]).await.unwrap());
}

pub(super) async fn who_refers_and_who_lets_go_at_once_agree(database: Database) {
    let world = World::on(&database).await;
    let (store, tenant) = (&world.store, world.tenant);
    for _ in 0..20 {
        let (first, pack) = ready(&world, &[], &[1]).await;
        let next = insert(&world).await.shown.id;
        let (known, new) = ([pack], []);
        let (referred, _) = tokio::join!(
            store.refer_to_packs(next, tenant, &known, &new),
            store.delete_snapshot(first)
        );
        assert_eq!(referred.unwrap(), !unused(&world).await.contains(&pack));
        store.delete_snapshot(next).await.unwrap();
    }
}
