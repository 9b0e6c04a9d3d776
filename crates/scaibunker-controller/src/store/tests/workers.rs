use scaibunker_api::{
    image::RootConfig,
    worker::{Capacity, ReadyImage},
};

use super::{Database, now, seconds, worker};

fn image(digest: &str) -> ReadyImage {
    ReadyImage {
        name: "debian".to_owned(),
        digest: digest.to_owned(),
        size_bytes: u64::MAX,
        default_cpu_millicores: u32::MAX,
        default_memory_mb: 1,
        default_disk_mb: 1,
        config: RootConfig::default(),
    }
}

pub(super) async fn a_worker_is_read_as_it_was_written(database: Database) {
    let store = database.open().await;
    let mut record = worker();
    record.images = vec![image("sha256:1")];
    store.put_worker(&record).await.unwrap();
    store.put_worker(&worker()).await.unwrap();
    record.name = "renamed".to_owned();
    record.capacity = Capacity { cpu_millicores: u64::MAX, ..record.capacity };
    store.put_worker(&record).await.unwrap();
    let heard = now() + seconds(5);
    store.note_heartbeat(record.id, heard).await.unwrap();
    let workers = store.workers().await.unwrap();
    assert_eq!(workers.len(), 2);
    record.last_heartbeat = heard;
    // A lie of this size is stored as the largest number there is.
    record.capacity.cpu_millicores = i64::MAX as u64;
    assert_eq!(workers.into_iter().find(|worker| worker.id == record.id), Some(record));
}

pub(super) async fn an_image_keeps_its_id(database: Database) {
    let store = database.open().await;
    let first = store.put_built_in_images(&[image("sha256:1")], now()).await.unwrap();
    let smaller = ReadyImage { size_bytes: 5, ..image("sha256:1") };
    let second = store.put_built_in_images(&[image("sha256:2"), smaller], now()).await.unwrap();
    assert_eq!(second[1].id, first[0].id);
    assert_eq!((first[0].size_bytes, second[1].size_bytes), (Some(i64::MAX as u64), Some(5)));
    assert_eq!(second[0].digest.as_deref(), Some("sha256:2"));
    assert_eq!(store.built_in_images().await.unwrap().len(), 2);
    assert!(store.put_built_in_images(&[], now()).await.unwrap().is_empty());
}
