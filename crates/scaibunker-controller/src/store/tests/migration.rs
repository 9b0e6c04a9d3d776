use std::str::FromStr as _;

use scaibunker_api::{
    bunker::BunkerStatus,
    ids::{ApiKeyId, BunkerId, TenantId, UserId, WorkerId},
};
use sqlx::{
    AnyConnection, Connection as _,
    any::{AnyConnectOptions, install_default_drivers},
};

use super::{Database, now};
use crate::{
    domain::bunker::tests::spec,
    store::{DatabaseUrl, database::MIGRATIONS, to_json, to_micros},
};

pub(super) async fn connect(database: &Database) -> AnyConnection {
    install_default_drivers();
    let url = match &database.url {
        DatabaseUrl::Sqlite(path) => format!("sqlite://{}?mode=rwc", path.display()),
        DatabaseUrl::Postgres(url) => url.to_string(),
    };
    let options = AnyConnectOptions::from_str(&url).unwrap();
    AnyConnection::connect_with(&options).await.unwrap()
}

pub(super) async fn what_the_first_version_wrote_is_there(database: Database) {
    let mut connection = connect(&database).await;
    MIGRATIONS.run_to(1, &mut connection).await.unwrap();
    let (tenant, user) = (TenantId::generate().to_string(), UserId::generate().to_string());
    let (worker, bunker) = (WorkerId::generate().to_string(), BunkerId::generate());
    let spec = to_json("bunkers.spec", &spec()).unwrap();
    let at = to_micros(now());
    for (statement, values) in [
        ("INSERT INTO tenants VALUES ($2, 'first', $1)", vec![tenant.clone()]),
        (
            "INSERT INTO users VALUES ($2, $3, 'admin', 'super_admin', $1)",
            vec![user.clone(), tenant.clone()],
        ),
        (
            "INSERT INTO api_keys VALUES ($2, $3, 'key', 'hash', $1)",
            vec![ApiKeyId::generate().to_string(), user.clone()],
        ),
        ("INSERT INTO workers VALUES ($2, 'w', '1', 'e', 1, 1, 1, '[]', $1)", vec![worker.clone()]),
        (
            "INSERT INTO bunkers (id, tenant_id, owner_id, worker_id, generation, status, \
             lifecycle_mode, spec, created_at) \
             VALUES ($2, $3, $4, $5, 3, 'running', 'ephemeral', $6, $1)",
            vec![bunker.to_string(), tenant.clone(), user.clone(), worker, spec],
        ),
        (
            "INSERT INTO idempotency_keys VALUES ($2, 'k', 'h', $3, NULL, $1)",
            vec![user.clone(), bunker.to_string()],
        ),
    ] {
        let mut query = sqlx::query(statement).bind(at);
        for value in values {
            query = query.bind(value);
        }
        query.execute(&mut connection).await.unwrap();
    }
    connection.close().await.unwrap();

    let store = database.open().await;
    store.ensure_foundations(now()).await.unwrap();
    let read = store.bunker(bunker).await.unwrap().unwrap();
    assert_eq!((read.status(), read.generation), (BunkerStatus::Running, 3));
    assert!(read.buckets.is_empty());
    let key = store.api_key_by_hash("hash").await.unwrap().unwrap();
    assert_eq!(key.user_id.to_string(), user);
    let account = store.account(key.user_id).await.unwrap().unwrap();
    assert_eq!(account.standing.home.tenant_id.to_string(), tenant);
    // Opening it once more changes nothing.
    store.close().await;
    let again = database.open().await;
    assert_eq!(again.bunker(bunker).await.unwrap(), Some(read));
}
