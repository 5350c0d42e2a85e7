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
    let (fresh, reads) = (Fresh::about(Topic::Rights), AtomicU32::new(0));
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
    let (fresh, reads) = (Fresh::about(Topic::Rights), AtomicU32::new(0));
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
    let before = db.moment(Topic::Rights).unwrap();
    let mut tx = db.begin().await.unwrap();
    settings::set_in(&mut tx, "fresh_test", "two", Millis(1)).await.unwrap();
    assert_eq!(db.moment(Topic::Rights), Some(before));
    drop(tx);
    assert_eq!(value(&db).await.unwrap().as_deref(), Some("one"));
    let mut tx = db.begin().await.unwrap();
    settings::set_in(&mut tx, "fresh_test", "three", Millis(1)).await.unwrap();
    tx.commit().await.unwrap();
    assert_ne!(db.moment(Topic::Rights), Some(before));
}

#[tokio::test]
async fn a_folded_log_and_a_new_one_are_told_apart() {
    let TestDb { db, dir: _dir, .. } = sqlite().await;
    let Db::Sqlite { writer, .. } = &db else { unreachable!() };
    let (fresh, reads) = (Fresh::about(Topic::Rights), AtomicU32::new(0));
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
    let (fresh, reads) = (Fresh::about(Topic::Rights), AtomicU32::new(0));
    change(&db, "one").await;
    for _ in 0..3 {
        assert_eq!(look(&fresh, &db, &reads).await.as_deref(), Some("one"));
    }
    assert_eq!(reads.load(Ordering::Relaxed), 3);
    assert_eq!(db.moment(Topic::Rights), None);
}

/// A commit that leaves rights and templates as they were, by its own word.
async fn write_sandboxes(db: &Db, value: &str) -> Option<Landed> {
    let work = async {
        change(db, value).await;
        Ok::<_, DbError>(Some(()))
    };
    db.write_keeping(&[Topic::Rights, Topic::Templates], work).await.unwrap().unwrap().1
}

#[tokio::test]
async fn a_commit_of_ours_ends_what_it_does_not_keep_and_nothing_else() {
    let TestDb { db, dir: _dir, .. } = sqlite().await;
    let (kept, ended) = (Fresh::about(Topic::Templates), Fresh::about(Topic::Sandboxes));
    let (kept_reads, ended_reads) = (AtomicU32::new(0), AtomicU32::new(0));
    change(&db, "0").await;
    for round in 1..=20 {
        let known = look(&kept, &db, &kept_reads).await;
        assert_eq!(known.as_deref(), Some("0"), "what it is about has not changed, by the word of who has changed it");
        look(&ended, &db, &ended_reads).await;
        let text = round.to_string();
        assert!(write_sandboxes(&db, &text).await.is_some());
        assert_eq!(look(&ended, &db, &ended_reads).await.as_ref(), Some(&text));
    }
    assert_eq!((kept_reads.load(Ordering::Relaxed), ended_reads.load(Ordering::Relaxed)), (1, 21));
    change(&db, "all").await;
    assert_eq!(look(&kept, &db, &kept_reads).await.as_deref(), Some("all"), "any other commit ends everything");
}

#[tokio::test]
async fn another_programs_commit_beside_ours_is_not_taken_for_ours() {
    let TestDb { db, dir, .. } = sqlite().await;
    let other = Db::open(None, dir.path()).await.unwrap();
    let (fresh, reads) = (Fresh::about(Topic::Rights), AtomicU32::new(0));
    for (round, places) in [[true, false, false], [false, true, false], [false, false, true], [true, true, true]]
        .into_iter()
        .cycle()
        .take(20)
        .enumerate()
    {
        change(&db, "before").await;
        look(&fresh, &db, &reads).await;
        // Each time another value: to write what is there already commits nothing.
        let elsewhere = |place: usize| format!("elsewhere {round} {place}");
        if places[0] {
            change(&other, &elsewhere(0)).await;
        }
        let ours = async {
            settings::set(&db, "ours", &round.to_string(), Millis(1)).await?;
            if places[1] {
                change(&other, &elsewhere(1)).await;
            }
            Ok::<_, DbError>(Some(()))
        };
        let landed = db.write_keeping(&[Topic::Rights], ours).await.unwrap().unwrap().1;
        assert_eq!(landed.is_none(), places[1]);
        if places[2] {
            change(&other, &elsewhere(2)).await;
        }
        let last = places.iter().rposition(|there| *there).map(elsewhere);
        assert_eq!(look(&fresh, &db, &reads).await, last);
    }
}

#[tokio::test]
async fn who_has_written_nothing_keeps_nothing_that_others_have_changed() {
    let TestDb { db, dir, .. } = sqlite().await;
    let other = Db::open(None, dir.path()).await.unwrap();
    let (fresh, reads) = (Fresh::about(Topic::Rights), AtomicU32::new(0));
    change(&db, "before").await;
    look(&fresh, &db, &reads).await;
    let nothing = async {
        change(&other, "after").await;
        Ok::<_, DbError>(None::<()>)
    };
    assert!(db.write_keeping(&[Topic::Rights], nothing).await.unwrap().is_none());
    assert_eq!(look(&fresh, &db, &reads).await.as_deref(), Some("after"));
}

#[tokio::test]
async fn what_our_commit_has_made_of_an_answer_is_not_read_again_and_the_others_stay() {
    let TestDb { db, dir: _dir, .. } = sqlite().await;
    let fresh: Fresh<&str, String> = Fresh::about(Topic::Sandboxes);
    let (db, fresh) = (&db, &fresh);
    let read = |key, answer: &'static str| fresh.read(db, key, async move { Ok::<_, DbError>(answer.to_owned()) });
    change(db, "1").await;
    assert_eq!(read("one", "1").await.unwrap(), "1");
    assert_eq!(read("two", "1").await.unwrap(), "1");
    let landed = write_sandboxes(db, "2").await.unwrap();
    fresh.changed(&landed, "one", "2".to_owned());
    assert_eq!(
        (read("one", "anew").await.unwrap(), read("two", "anew").await.unwrap()),
        ("2".to_owned(), "1".to_owned())
    );
    // Told too late: others have written since.
    let late = write_sandboxes(db, "3").await.unwrap();
    change(db, "4").await;
    assert_eq!(read("two", "4").await.unwrap(), "4");
    fresh.changed(&late, "one", "3".to_owned());
    assert_eq!(read("one", "4").await.unwrap(), "4");
}
