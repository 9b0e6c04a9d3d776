use scaibunker_api::{
    ids::{AvailabilityGroupId, ImageId},
    image::{
        AvailabilityGroup, CacheStatus, Finding, FindingKind, Image, ImageOrigin, ImageScope,
        ImageStatus, RootConfig, ScanStatus, Severity, SeverityCounts,
    },
    worker::{BakedRoot, ImageFault, ImageFaultCause, ImageReport},
};

use super::{
    Database, seconds,
    world::{World, at},
};
use crate::{
    domain::{
        image::{ImageEvent, ImageRecord, tests::pending},
        scan::ScanOutcome,
    },
    store::{ImageFilter, Inserted, Removed, Updated},
};

fn image(world: &World, name: &str) -> ImageRecord {
    let record = pending();
    let image = Image {
        id: ImageId::generate(),
        name: name.to_owned(),
        scope: ImageScope::Tenant,
        tenant_id: Some(world.tenant),
        partner_id: None,
        created_by: Some(world.user),
        created_at: at(1),
        source: ImageOrigin::Oci { reference: "r.test/a:1".into(), has_registry_auth: true },
        ..record.image.clone()
    };
    ImageRecord { image, registry_auth: Some("sealed".to_owned()), ..record }
}

async fn insert(world: &World, name: &str) -> ImageRecord {
    let record = image(world, name);
    assert_eq!(world.store.insert_image(&record, None).await.unwrap(), Inserted::Done);
    record
}

/// A ready image, which waits for its scan.
async fn ready(world: &World, name: &str) -> ImageRecord {
    let record = insert(world, name).await;
    let baked = BakedRoot {
        key: format!("images/{}/x", record.image.id),
        digest: format!("sha256:{name}"),
        size_bytes: 5,
        manifest_digest: Some("sha256:manifest".to_owned()),
        config: RootConfig { user: "app".to_owned(), ..RootConfig::default() },
    };
    let ready = record.apply(ImageEvent::Stored(Box::new(baked))).unwrap();
    assert_eq!(world.store.update_image(&ready).await.unwrap(), Updated::Done);
    ready
}

pub(super) async fn an_image_is_read_as_it_was_written(database: Database) {
    let world = World::on(&database).await;
    let store = &world.store;
    let first = insert(&world, "app").await;
    assert_eq!(store.image(first.image.id).await.unwrap(), Some(first.clone()));
    let namesake = image(&world, "app");
    assert_eq!(store.insert_image(&namesake, None).await.unwrap(), Inserted::Exists);
    let second = ready(&world, "other").await;
    assert_eq!(store.image(second.image.id).await.unwrap(), Some(second.clone()));
    // Of two changes of one version, the second is late.
    let late = ImageRecord { generation: second.generation, ..second.clone() };
    assert_eq!(store.update_image(&late).await.unwrap(), Updated::Missing);

    let tenant = ImageFilter::Tenant(world.tenant, world.partner);
    let stranger = ImageFilter::Tenant(world.tenant().await, world.partner);
    let names = async |filter: &ImageFilter, name: Option<&str>| {
        let found = store.list_images(filter, name, None, 10).await.unwrap();
        found.into_iter().map(|record| record.image.name).collect::<Vec<_>>()
    };
    assert_eq!(names(&tenant, None).await, ["other", "app"]);
    assert_eq!(names(&tenant, Some("app")).await, ["app"]);
    assert!(names(&stranger, None).await.is_empty());
    assert_eq!(names(&ImageFilter::Partner(world.partner), None).await.len(), 2);

    let id = first.image.id;
    assert_eq!(store.delete_image(id, at(9)).await.unwrap(), Updated::Done);
    assert_eq!(store.delete_image(id, at(9)).await.unwrap(), Updated::Missing);
    assert_eq!(store.image(id).await.unwrap(), None);
    // Its name is free.
    insert(&world, "app").await;
}

pub(super) async fn what_workers_have_is_the_newest_they_said(database: Database) {
    let world = World::on(&database).await;
    let (store, worker) = (&world.store, world.worker);
    store.welcome_worker(worker).await.unwrap();
    let id = ready(&world, "app").await.image.id;
    let asked = async || store.images_to_fan_out().await.unwrap().len();
    assert_eq!((store.workers_of_image(id).await.unwrap(), asked().await), (vec![worker], 1));
    let report = |status, error, seconds| ImageReport {
        image_id: id,
        status,
        progress: 7,
        error,
        digest: None,
        size_bytes: Some(5),
        updated_at: at(seconds),
        baked: None,
    };
    store.put_cache_row(worker, &report(CacheStatus::Ready, None, 20)).await.unwrap();
    store.put_cache_row(worker, &report(CacheStatus::Pulling, None, 19)).await.unwrap();
    let row = async || store.cache_rows(id).await.unwrap().pop();
    assert_eq!(row().await.unwrap().shown.status, CacheStatus::Ready);
    assert_eq!(asked().await, 0);

    // What it no longer has it may get again; what it has let go, or could not get, it is not
    // asked for.
    store.keep_cache_rows(worker, &[]).await.unwrap();
    assert_eq!((row().await, asked().await), (None, 1));
    let fault = |cause| Some(ImageFault { cause, message: "a\0b".to_owned() });
    let evicted = report(CacheStatus::Pending, fault(ImageFaultCause::Evicted), 21);
    store.put_cache_row(worker, &evicted).await.unwrap();
    store.keep_cache_rows(worker, &[]).await.unwrap();
    assert_eq!(row().await.unwrap().shown.error.as_deref(), Some("a\u{fffd}b"));
    assert_eq!(asked().await, 0);
    let failed = report(CacheStatus::Failed, fault(ImageFaultCause::NoSpace), 22);
    store.put_cache_row(worker, &failed).await.unwrap();
    store.forget_failures(id).await.unwrap();
    assert_eq!(row().await, None);
}

pub(super) async fn a_group_has_its_members_until_it_goes(database: Database) {
    let world = World::on(&database).await;
    let store = &world.store;
    let id = insert(&world, "app").await.image.id;
    let group = |name: &str| AvailabilityGroup {
        id: AvailabilityGroupId::generate(),
        name: name.to_owned(),
        is_default: false,
        worker_ids: Vec::new(),
        image_ids: Vec::new(),
        created_at: at(2),
    };
    let first = group("gpu");
    assert_eq!(store.insert_availability_group(&first, None).await.unwrap(), Inserted::Done);
    assert_eq!(
        store.insert_availability_group(&group("gpu"), None).await.unwrap(),
        Inserted::Exists
    );
    assert_eq!(store.availability_group(first.id).await.unwrap(), Some(first.clone()));
    for _ in 0..2 {
        store.add_group_image(first.id, id).await.unwrap();
        store.add_group_worker(first.id, world.worker).await.unwrap();
    }
    let full = store.availability_group(first.id).await.unwrap().unwrap();
    assert_eq!((full.image_ids, full.worker_ids), (vec![id], vec![world.worker]));
    assert_eq!(store.workers_of_image(id).await.unwrap(), [world.worker]);
    let groups = store.list_availability_groups(None, 10).await.unwrap();
    let default = groups.iter().find(|group| group.is_default).unwrap();
    assert_eq!(default.image_ids, [id], "a new image is in the default group");
    assert_ne!(store.delete_availability_group(default.id).await.unwrap(), Removed::Done);
    assert_eq!(store.delete_availability_group(first.id).await.unwrap(), Removed::Done);
    assert!(store.workers_of_image(id).await.unwrap().is_empty());
}

pub(super) async fn a_scan_is_one_scanners_at_a_time(database: Database) {
    let world = World::on(&database).await;
    let store = &world.store;
    let id = ready(&world, "app").await.image.id;
    let scan = async || store.scan(id).await.unwrap().unwrap();
    assert_eq!(scan().await.status, ScanStatus::Pending);
    store.request_scan(id, at(10)).await.unwrap();
    let lease = store.take_scan(at(20), at(80)).await.unwrap().unwrap();
    assert_eq!(lease.image_id, id);
    assert_eq!(store.take_scan(at(21), at(81)).await.unwrap(), None);
    // Asking again while it runs begins nothing.
    store.request_scan(id, at(30)).await.unwrap();
    assert_eq!(scan().await.status, ScanStatus::Running);
    let lease = store.renew_scan(lease, at(100)).await.unwrap().unwrap();
    assert_eq!(store.take_scan(at(81), at(150)).await.unwrap(), None);

    // One that did not renew its lease has lost it, and what it finds is not written down.
    let other = store.take_scan(at(101), at(200)).await.unwrap().unwrap();
    assert_eq!(store.renew_scan(lease, at(300)).await.unwrap(), None);
    store.finish_scan(lease, Err("late".to_owned()), at(102)).await.unwrap();
    assert_eq!(scan().await.status, ScanStatus::Running);
    let finding = Finding {
        kind: FindingKind::Secret,
        severity: Severity::High,
        id: "key".to_owned(),
        title: "a\0b".to_owned(),
        target: "root/key".to_owned(),
        package: None,
        installed_version: None,
        fixed_version: None,
    };
    let counts = SeverityCounts { high: 2, ..SeverityCounts::default() };
    let outcome = ScanOutcome {
        scanner: "trivy 1".to_owned(),
        counts,
        findings: vec![finding.clone()],
        truncated: true,
    };
    store.finish_scan(other, Ok(outcome), at(103)).await.unwrap();
    let found = scan().await;
    assert_eq!((found.status, found.counts), (ScanStatus::Vulnerable, counts));
    assert_eq!((found.findings.len(), found.truncated), (1, true));
    assert_eq!((found.requested_at, found.finished_at), (Some(at(10)), Some(at(103))));
    let shown = store.image(id).await.unwrap().unwrap();
    assert_eq!(shown.image.scan_status, ScanStatus::Vulnerable);

    // A new request forgets what was found.
    store.request_scan(id, at(110) + seconds(1)).await.unwrap();
    let again = scan().await;
    assert_eq!((again.status, again.counts.high), (ScanStatus::Pending, 0));
    assert_eq!((again.findings.len(), again.finished_at), (0, None));
    let lease = store.take_scan(at(120), at(180)).await.unwrap().unwrap();
    store.finish_scan(lease, Err("no scanner".to_owned()), at(121)).await.unwrap();
    let failed = scan().await;
    assert_eq!(
        (failed.status, failed.message.as_deref()),
        (ScanStatus::Failed, Some("no scanner"))
    );
    assert_eq!(shown.image.status, ImageStatus::Ready);
}
