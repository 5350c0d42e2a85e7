//! What both databases promise.

use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use super::testing::{databases, postgres, sqlite};
use super::*;

type Column = (String, String, String, bool);

#[tokio::test]
async fn both_schemas_have_the_same_tables_and_columns() {
    let (left, right) = (sqlite().await, postgres().await);
    let Db::Sqlite { readers, .. } = &left.db else { unreachable!() };
    let Db::Postgres(pool) = &right.db else { unreachable!() };
    let of_sqlite: Vec<(String, String, String, bool, i64)> = sqlx::query_as(
        "SELECT t.name, c.name, lower(c.type), c.\"notnull\", c.pk FROM sqlite_master t JOIN pragma_table_info(t.name) c
         WHERE t.type = 'table' AND t.name NOT LIKE 'sqlite%' AND t.name NOT LIKE '_sqlx%'",
    )
    .fetch_all(readers)
    .await
    .unwrap();
    let of_postgres: Vec<Column> = sqlx::query_as(
        "SELECT table_name::text, column_name::text, data_type::text, is_nullable = 'NO' FROM information_schema.columns
         WHERE table_schema = 'public' AND table_name NOT LIKE '\\_sqlx%'",
    )
    .fetch_all(pool)
    .await
    .unwrap();
    let plain = |kind: &str| match kind {
        "jsonb" => "text".to_owned(),
        "integer" => "bigint".to_owned(),
        other => other.to_owned(),
    };
    let of_sqlite: BTreeSet<Column> = of_sqlite
        .into_iter()
        .map(|(table, column, kind, not_null, key)| (table, column, plain(&kind), not_null || key > 0))
        .collect();
    let of_postgres: BTreeSet<Column> = of_postgres
        .into_iter()
        .map(|(table, column, kind, not_null)| (table, column, plain(&kind), not_null))
        .collect();
    let only_sqlite: Vec<_> = of_sqlite.difference(&of_postgres).collect();
    let only_postgres: Vec<_> = of_postgres.difference(&of_sqlite).collect();
    assert!(only_sqlite.is_empty() && only_postgres.is_empty(), "{only_sqlite:?} {only_postgres:?}");
}

#[tokio::test]
async fn both_schemas_have_the_same_indexes_and_triggers() {
    let (left, right) = (sqlite().await, postgres().await);
    let Db::Sqlite { readers, .. } = &left.db else { unreachable!() };
    let Db::Postgres(pool) = &right.db else { unreachable!() };
    let of_sqlite: Vec<(String,)> = sqlx::query_as(
        "SELECT name FROM sqlite_master WHERE type IN ('index', 'trigger') AND name NOT LIKE 'sqlite_autoindex%'",
    )
    .fetch_all(readers)
    .await
    .unwrap();
    let of_postgres: Vec<(String,)> = sqlx::query_as(
        "SELECT indexname::text FROM pg_indexes WHERE schemaname = 'public'
             AND indexname NOT LIKE '%\\_pkey' AND indexname NOT LIKE '%\\_key'
         UNION SELECT tgname::text FROM pg_trigger WHERE NOT tgisinternal",
    )
    .fetch_all(pool)
    .await
    .unwrap();
    assert_eq!(of_sqlite.into_iter().collect::<BTreeSet<_>>(), of_postgres.into_iter().collect::<BTreeSet<_>>());
}

#[tokio::test]
async fn a_database_opened_again_keeps_its_rows_and_a_newer_one_is_refused_with_a_reason() {
    for test in databases().await {
        settings::set(&test.db, "a", "1", Millis(1)).await.unwrap();
        test.db.check().await.unwrap();
        let again = Db::open(test.url.as_deref(), test.dir.path()).await.unwrap();
        assert_eq!(settings::get(&again, "a").await.unwrap().as_deref(), Some("1"));
        on!(write & again, |c| sqlx::query(
            "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time)
             SELECT 9999, 'from the future', success, checksum, execution_time FROM _sqlx_migrations WHERE version = 1"
        )
        .execute(c)
        .await
        .map(|_| ()))
        .unwrap();
        assert!(again.check().await.is_err());
        let refused = Db::open(test.url.as_deref(), test.dir.path()).await.unwrap_err();
        assert!(refused.to_string().contains("newer Atoll"), "{refused}");
    }
}

#[tokio::test]
async fn the_database_file_is_its_owners_alone() {
    let test = sqlite().await;
    settings::set(&test.db, "a", "1", Millis(1)).await.unwrap();
    for entry in std::fs::read_dir(test.dir.path()).unwrap() {
        let entry = entry.unwrap();
        assert_eq!(entry.metadata().unwrap().permissions().mode() & 0o077, 0, "{:?}", entry.path());
    }
}

#[tokio::test]
async fn a_transaction_that_is_dropped_leaves_nothing() {
    for test in databases().await {
        let mut tx = test.db.begin().await.unwrap();
        on!(tx &mut tx, |c| sqlx::query("INSERT INTO settings (name, value, updated_at) VALUES ('a', '1', 1)")
            .execute(c)
            .await
            .map(|_| ()))
        .unwrap();
        drop(tx);
        assert_eq!(settings::get(&test.db, "a").await.unwrap(), None);
    }
}

#[tokio::test]
async fn a_lease_has_one_holder_until_it_expires() {
    for test in databases().await {
        let (db, minute) = (&test.db, Duration::from_secs(60));
        assert_eq!(leases::take(db, "monitor", "a", Millis(0), minute).await.unwrap(), Some(1));
        assert_eq!(leases::take(db, "monitor", "b", Millis(59_000), minute).await.unwrap(), None);
        assert_eq!(leases::take(db, "monitor", "a", Millis(59_000), minute).await.unwrap(), Some(1));
        assert_eq!(leases::take(db, "monitor", "b", Millis(120_000), minute).await.unwrap(), Some(2));
        leases::release(db, "monitor", "b").await.unwrap();
        assert_eq!(leases::take(db, "monitor", "a", Millis(120_001), minute).await.unwrap(), Some(3));
    }
}

#[tokio::test]
async fn replicas_that_start_at_once_share_one_key() {
    for test in databases().await {
        let fresh = |n: usize| keys::StoredKey {
            kid: String::new(),
            private_pem: format!("private {n}"),
            public_pem: format!("public {n}"),
        };
        let made = futures::future::join_all((0..8).map(|n| {
            let db = test.db.clone();
            async move {
                let key = keys::current_or(&db, "user_jwt", fresh(n), Millis(1)).await.unwrap();
                (key.kid, key.private_pem)
            }
        }))
        .await;
        assert_eq!(made.into_iter().collect::<BTreeSet<_>>().len(), 1);
    }
}
