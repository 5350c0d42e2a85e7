//! What is remembered ends with the next commit, whoever makes it.

use std::sync::atomic::{AtomicU32, Ordering};

use super::super::testing::{TestDb, postgres, sqlite};
use super::*;
use crate::db::{DbError, Millis, settings};

async fn change(db: &Db, value: &str) {
    settings::set(db, "fresh_test", value, Millis(1)).await.unwrap();
}

async fn value(db: &Db) -> Result<Option<String>, DbError> {
    settings::get(db, "fresh_test").await
}

/// Reads through `fresh`, and counts what was read anew.
async fn look(fresh: &Fresh<(), Option<String>>, db: &Db, reads: &AtomicU32) -> Option<String> {
    let read = async {
        reads.fetch_add(1, Ordering::Relaxed);
        value(db).await
    };
    fresh.read(db, (), read).await.unwrap()
}

#[tokio::test]
async fn an_answer_holds_until_something_is_written() {
    let TestDb { db, dir: _dir, .. } = sqlite().await;
    let (fresh, reads) = (Fresh::default(), AtomicU32::new(0));
    for round in 1..=20 {
        let text = round.to_string();
        change(&db, &text).await;
        for _ in 0..3 {
            assert_eq!(look(&fresh, &db, &reads).await.as_ref(), Some(&text));
        }
        assert_eq!(reads.load(Ordering::Relaxed), round);
    }
}

#[tokio::test]
async fn another_programs_commit_ends_it_too() {
    let TestDb { db, dir, .. } = sqlite().await;
    let other = Db::open(None, dir.path()).await.unwrap();
    let (fresh, reads) = (Fresh::default(), AtomicU32::new(0));
    for round in 0..20 {
        let text = round.to_string();
        change(&other, &text).await;
        assert_eq!(look(&fresh, &db, &reads).await.as_ref(), Some(&text));
        assert_eq!(look(&fresh, &db, &reads).await.as_ref(), Some(&text));
    }
    assert_eq!(reads.load(Ordering::Relaxed), 20);
}

#[tokio::test]
async fn what_is_rolled_back_changes_nothing_and_a_transaction_counts_from_its_commit() {
    let TestDb { db, dir: _dir, .. } = sqlite().await;
    change(&db, "one").await;
    let before = db.moment().unwrap();
    let mut tx = db.begin().await.unwrap();
    settings::set_in(&mut tx, "fresh_test", "two", Millis(1)).await.unwrap();
    assert_eq!(db.moment(), Some(before));
    drop(tx);
    assert_eq!(value(&db).await.unwrap().as_deref(), Some("one"));
    let mut tx = db.begin().await.unwrap();
    settings::set_in(&mut tx, "fresh_test", "three", Millis(1)).await.unwrap();
    tx.commit().await.unwrap();
    assert_ne!(db.moment(), Some(before));
}

#[tokio::test]
async fn a_folded_log_and_a_new_one_are_told_apart() {
    let TestDb { db, dir: _dir, .. } = sqlite().await;
    let Db::Sqlite { writer, .. } = &db else { unreachable!() };
    let (fresh, reads) = (Fresh::default(), AtomicU32::new(0));
    for round in 0..10 {
        let text = round.to_string();
        change(&db, &text).await;
        sqlx::query("PRAGMA wal_checkpoint(TRUNCATE)").execute(writer).await.unwrap();
        assert_eq!(look(&fresh, &db, &reads).await.as_ref(), Some(&text));
    }
}

#[tokio::test]
async fn postgresql_is_asked_each_time() {
    let TestDb { db, dir: _dir, .. } = postgres().await;
    let (fresh, reads) = (Fresh::default(), AtomicU32::new(0));
    change(&db, "one").await;
    for _ in 0..3 {
        assert_eq!(look(&fresh, &db, &reads).await.as_deref(), Some("one"));
    }
    assert_eq!(reads.load(Ordering::Relaxed), 3);
    assert_eq!(db.moment(), None);
}
