//! What both databases promise.

use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use super::testing::{databases, empty_postgres, postgres, sqlite};
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

/// (table, columns, table that it refers to, its columns, what a deletion there does)
type Reference = (String, String, String, String, String);

#[tokio::test]
async fn both_schemas_have_the_same_foreign_keys_with_the_same_deletions() {
    let (left, right) = (sqlite().await, postgres().await);
    let Db::Sqlite { readers, .. } = &left.db else { unreachable!() };
    let Db::Postgres(pool) = &right.db else { unreachable!() };
    // A reference without columns is to the primary key.
    let of_sqlite: Vec<Reference> = sqlx::query_as(
        "SELECT r.\"table\", group_concat(r.\"from\", ','), r.target, group_concat(r.\"to\", ','), lower(r.on_delete) FROM (
             SELECT t.name AS \"table\", f.id, f.\"from\", f.\"table\" AS target, f.on_delete, COALESCE(f.\"to\", (
                 SELECT c.name FROM pragma_table_info(f.\"table\") c WHERE c.pk = f.seq + 1)) AS \"to\"
             FROM sqlite_master t JOIN pragma_foreign_key_list(t.name) f WHERE t.type = 'table'
             ORDER BY t.name, f.id, f.seq
         ) r GROUP BY r.\"table\", r.id",
    )
    .fetch_all(readers)
    .await
    .unwrap();
    let of_postgres: Vec<Reference> = sqlx::query_as(
        "SELECT k.conrelid::regclass::text,
             (SELECT string_agg(a.attname, ',' ORDER BY n) FROM unnest(k.conkey) WITH ORDINALITY u(num, n)
                 JOIN pg_attribute a ON a.attrelid = k.conrelid AND a.attnum = u.num),
             k.confrelid::regclass::text,
             (SELECT string_agg(a.attname, ',' ORDER BY n) FROM unnest(k.confkey) WITH ORDINALITY u(num, n)
                 JOIN pg_attribute a ON a.attrelid = k.confrelid AND a.attnum = u.num),
             CASE k.confdeltype WHEN 'a' THEN 'no action' WHEN 'r' THEN 'restrict' WHEN 'c' THEN 'cascade'
                 WHEN 'n' THEN 'set null' ELSE 'set default' END
         FROM pg_constraint k WHERE k.contype = 'f'",
    )
    .fetch_all(pool)
    .await
    .unwrap();
    assert!(of_sqlite.len() > 10, "{of_sqlite:?}");
    let sorted = |all: Vec<Reference>| all.into_iter().collect::<BTreeSet<_>>();
    let (of_sqlite, of_postgres) = (sorted(of_sqlite), sorted(of_postgres));
    let only_sqlite: Vec<_> = of_sqlite.difference(&of_postgres).collect();
    let only_postgres: Vec<_> = of_postgres.difference(&of_sqlite).collect();
    assert!(only_sqlite.is_empty() && only_postgres.is_empty(), "{only_sqlite:#?} {only_postgres:#?}");
}

/// (table, columns in order, unique, only some rows)
type Index = (String, String, bool, bool);

#[tokio::test]
async fn both_schemas_have_indexes_over_the_same_columns_unique_or_not() {
    let (left, right) = (sqlite().await, postgres().await);
    let Db::Sqlite { readers, .. } = &left.db else { unreachable!() };
    let Db::Postgres(pool) = &right.db else { unreachable!() };
    // What makes a primary key, a UNIQUE of the table or an index; an expression has no name in both.
    let of_sqlite: Vec<Index> = sqlx::query_as(
        "SELECT r.\"table\", group_concat(r.name, ','), r.is_unique, r.partial FROM (
             SELECT t.name AS \"table\", i.name AS \"index\", i.\"unique\" AS is_unique, i.partial, COALESCE(c.name, '()') AS name
             FROM sqlite_master t JOIN pragma_index_list(t.name) i JOIN pragma_index_info(i.name) c
             WHERE t.type = 'table' AND t.name NOT LIKE '_sqlx%' ORDER BY t.name, i.name, c.seqno
         ) r GROUP BY r.\"table\", r.\"index\"
         UNION
         SELECT t.name, c.name, TRUE, FALSE FROM sqlite_master t JOIN pragma_table_info(t.name) c
         WHERE t.type = 'table' AND t.name NOT LIKE 'sqlite%' AND t.name NOT LIKE '_sqlx%' AND c.pk = 1
             AND lower(c.type) = 'integer'",
    )
    .fetch_all(readers)
    .await
    .unwrap();
    let of_postgres: Vec<Index> = sqlx::query_as(
        "SELECT i.indrelid::regclass::text,
             (SELECT string_agg(COALESCE(a.attname, '()'), ',' ORDER BY n)
              FROM unnest(i.indkey::int2[]) WITH ORDINALITY u(num, n)
                  LEFT JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = u.num AND u.num > 0),
             i.indisunique, i.indpred IS NOT NULL
         FROM pg_index i JOIN pg_class c ON c.oid = i.indrelid JOIN pg_namespace s ON s.oid = c.relnamespace
         WHERE s.nspname = 'public' AND c.relname NOT LIKE '\\_sqlx%'",
    )
    .fetch_all(pool)
    .await
    .unwrap();
    assert!(of_sqlite.len() > 50, "{}", of_sqlite.len());
    let sorted = |all: Vec<Index>| all.into_iter().collect::<BTreeSet<_>>();
    let (of_sqlite, of_postgres) = (sorted(of_sqlite), sorted(of_postgres));
    let only_sqlite: Vec<_> = of_sqlite.difference(&of_postgres).collect();
    let only_postgres: Vec<_> = of_postgres.difference(&of_sqlite).collect();
    assert!(only_sqlite.is_empty() && only_postgres.is_empty(), "{only_sqlite:#?} {only_postgres:#?}");
}

#[tokio::test]
async fn eight_that_open_an_empty_database_at_once_all_find_the_schema() {
    let postgres_url = empty_postgres().await;
    for url in [None, Some(postgres_url)] {
        let dir = tempfile::tempdir().unwrap();
        let opened = futures::future::join_all((0..8).map(|_| {
            let (url, path) = (url.clone(), dir.path().to_owned());
            tokio::spawn(async move { Db::open(url.as_deref(), &path).await })
        }))
        .await;
        for (index, db) in opened.into_iter().enumerate() {
            let db = db.unwrap().unwrap();
            db.check().await.unwrap();
            settings::set(&db, &format!("of {index}"), "1", Millis(1)).await.unwrap();
            db.close().await;
        }
        let db = Db::open(url.as_deref(), dir.path()).await.unwrap();
        let applied: (i64, i64) =
            on!(read & db, |c| sqlx::query_as("SELECT COUNT(*), COUNT(DISTINCT version) FROM _sqlx_migrations")
                .fetch_one(c)
                .await)
            .unwrap();
        assert_eq!(applied.0, applied.1);
        let written: (i64,) =
            on!(read & db, |c| sqlx::query_as("SELECT COUNT(*) FROM settings WHERE name LIKE 'of %'")
                .fetch_one(c)
                .await)
            .unwrap();
        assert_eq!(written.0, 8);
    }
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
