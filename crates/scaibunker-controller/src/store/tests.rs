//! One suite for both databases.

mod accounts;
mod audit;
mod bunkers;
mod foundations;
mod groups;
mod iam;
mod images;
mod lists;
mod losses;
mod migration;
mod quotas;
mod races;
mod snapshots;
mod workers;
mod world;

use jiff::{SignedDuration, Timestamp};
use scaibunker_api::{
    bunker::{BunkerStatus, NetworkProfile},
    ids::{BunkerId, TenantId, UserId, WorkerId},
    worker::Capacity,
};

use super::{DatabaseUrl, IdempotencyKey, Store};
use crate::{
    domain::{
        bunker::{Bunker, Event, tests::spec},
        quota::Bucket,
        worker::WorkerRecord,
    },
    test_servers::postgres::PostgresServer,
};

/// An empty database.
pub(crate) struct Database {
    url: DatabaseUrl,
    _dir: Option<tempfile::TempDir>,
}

pub(crate) fn sqlite() -> Database {
    let dir = tempfile::tempdir().unwrap();
    Database { url: DatabaseUrl::Sqlite(dir.path().join("db")), _dir: Some(dir) }
}

fn postgres() -> Database {
    Database { url: PostgresServer::shared().database().parse().unwrap(), _dir: None }
}

impl Database {
    async fn open(&self) -> Store {
        Store::open(&self.url).await.unwrap()
    }
}

/// A test for each database, of each name in each module.
macro_rules! on_both {
    ($($module:ident: $($name:ident),* $(,)?;)*) => {
        mod on_sqlite {
            $($(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() { super::$module::$name(super::sqlite()).await; })*)*
        }
        mod on_postgres {
            $($(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() { super::$module::$name(super::postgres()).await; })*)*
        }
    };
}

on_both! {
    bunkers:
        a_bunker_is_read_as_it_was_written,
        a_change_of_its_life_needs_the_latest_generation,
        an_edit_replaces_labels_or_changes_nothing,
        activity_only_moves_forward,
        the_live_the_expired_and_the_idle_are_found,
        text_that_a_database_refuses_is_stored_without_it;
    races:
        of_many_changes_of_one_life_one_wins,
        of_many_requests_with_one_key_one_makes_a_bunker,
        images_and_uses_in_any_order_hold_nobody_up,
        two_controllers_may_start_at_once;
    lists:
        each_filter_holds_and_all_together,
        nobody_sees_more_than_the_scope,
        pages_neither_skip_nor_repeat_while_others_insert;
    workers:
        a_worker_is_read_as_it_was_written,
        an_image_keeps_its_id;
    foundations:
        keys_of_requests_keep_their_first_answer,
        the_bootstrap_key_is_replaced,
        a_task_is_one_controllers_until_it_lets_go,
        a_closed_store_is_an_error;
    migration:
        what_the_first_version_wrote_is_there;
    accounts:
        a_member_of_a_group_is_one_of_those_above_it,
        grants_come_from_the_user_and_its_roles,
        a_partners_admin_reaches_the_partners_tenants,
        what_is_suspended_or_deleted_is_told;
    audit:
        entries_are_read_as_they_were_written,
        filters_hold_together,
        pages_neither_skip_nor_repeat_while_others_write,
        old_entries_are_forgotten;
    groups:
        a_groups_name_is_unique_in_its_tenant,
        a_tree_stays_a_tree_however_many_move,
        a_group_in_use_stays,
        members_are_of_the_group_itself,
        pages_are_of_the_scope;
    iam:
        a_partners_name_is_unique_and_it_stays_while_it_has_tenants,
        a_tenant_stays_while_it_has_anything,
        tenants_are_seen_within_the_scope,
        a_user_is_read_as_it_was_written,
        of_two_changes_of_a_user_one_is_late,
        the_last_super_admin_stays_whoever_tries,
        a_deleted_user_is_gone_with_all_that_it_had,
        keys_are_found_by_their_hash_until_they_are_revoked,
        custom_roles_have_unique_names_and_stay_while_they_are_given;
    images:
        an_image_is_read_as_it_was_written,
        what_workers_have_is_the_newest_they_said,
        a_group_has_its_members_until_it_goes,
        a_scan_is_one_scanners_at_a_time;
    snapshots:
        a_snapshot_is_read_as_it_was_written,
        a_pack_is_unused_when_the_last_snapshot_lets_go_of_it,
        who_refers_and_who_lets_go_at_once_agree;
    quotas:
        a_profile_is_read_as_it_was_written,
        the_default_profile_stays_and_is_one,
        a_target_has_one_profile,
        profiles_in_use_stay,
        lists_are_of_the_scope,
        what_is_assigned_to_a_user_is_found;
}

/// A store with a user and a worker.
pub(crate) struct Home {
    pub(crate) store: Store,
    tenant: TenantId,
    pub(crate) owner: UserId,
    worker: WorkerId,
}

/// A time as databases have it: to the microsecond.
fn now() -> Timestamp {
    Timestamp::from_microsecond(Timestamp::now().as_microsecond()).unwrap()
}

fn seconds(count: i64) -> SignedDuration {
    SignedDuration::from_secs(count)
}

fn worker() -> WorkerRecord {
    WorkerRecord {
        id: WorkerId::generate(),
        name: "worker".to_owned(),
        version: "1".to_owned(),
        engine: "simulated".to_owned(),
        cpu_class: "any".to_owned(),
        capacity: Capacity {
            cpu_millicores: 8_000,
            memory_mb: 16_384,
            disk_mb: 100_000,
            gpu_count: 2,
        },
        gpu_type: Some("a100".to_owned()),
        network_profiles: vec![NetworkProfile::Isolated, NetworkProfile::Registry],
        images: Vec::new(),
        last_heartbeat: now(),
        drained_at: None,
    }
}

impl Home {
    pub(crate) async fn open(database: &Database) -> Self {
        let store = database.open().await;
        store.ensure_foundations(now()).await.unwrap();
        store.replace_bootstrap_key("hash", "sgk_", now()).await.unwrap();
        let owner = store.api_key_by_hash("hash").await.unwrap().unwrap().user_id;
        let tenant = store.user(owner).await.unwrap().unwrap().user.tenant_id;
        let worker = worker();
        store.put_worker(&worker).await.unwrap();
        Self { store, tenant, owner, worker: worker.id }
    }

    /// A pending bunker that is not written down.
    fn bunker(&self) -> Bunker {
        let (id, owner) = (BunkerId::generate(), (self.tenant, self.owner));
        Bunker::placed(id, owner, self.worker, Vec::new(), spec(), now())
    }

    async fn insert(&self, bunker: &Bunker) {
        self.store.insert_bunker(bunker, None).await.unwrap();
    }

    async fn read(&self, bunker: &Bunker) -> Bunker {
        self.store.bunker(bunker.id).await.unwrap().unwrap()
    }

    /// Takes a bunker that is written down through `events`.
    async fn lead(&self, mut bunker: Bunker, events: &[Event]) -> Bunker {
        for event in events {
            bunker = bunker.apply(event.clone()).unwrap();
            assert!(self.store.update_life(&bunker).await.unwrap());
        }
        bunker
    }

    /// A bunker that is written down in this status.
    pub(crate) async fn bunker_in(&self, status: BunkerStatus, buckets: Vec<Bucket>) -> Bunker {
        let at = now();
        let end = Event::EndRequested { reason: None };
        let events = match status {
            BunkerStatus::Pending => vec![],
            BunkerStatus::Provisioning => vec![Event::Acknowledged],
            BunkerStatus::Running => vec![Event::Started { at, ip_address: None }],
            BunkerStatus::Paused => {
                vec![Event::Started { at, ip_address: None }, Event::Paused { reason: None, at }]
            }
            BunkerStatus::Terminating => vec![end],
            BunkerStatus::Terminated => vec![end, Event::Released { at }],
            BunkerStatus::Failed => vec![Event::Failed { reason: "no".to_owned(), at }],
        };
        let mut bunker = self.bunker();
        bunker.buckets = buckets;
        self.insert(&bunker).await;
        self.lead(bunker, &events).await
    }

    fn key(&self, key: &str) -> IdempotencyKey {
        let request_hash = "of the body".to_owned();
        IdempotencyKey { user_id: self.owner, key: key.to_owned(), request_hash, answer: None }
    }
}
