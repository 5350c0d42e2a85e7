//! What the circuit promises while PostgreSQL is away: tried through a door that can be shut.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::net::{UnixListener, UnixStream};
use tokio::sync::watch;

use super::testing::postgres;
use super::{Db, DbError, During, Millis, settings};

/// Stands before a PostgreSQL and passes connections on, while it is open. Shut, it ends those that there are and closes
/// each new one at once.
struct Door {
    open: watch::Sender<bool>,
    came: Arc<AtomicUsize>,
    dir: tempfile::TempDir,
}

impl Door {
    fn before(socket: PathBuf) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(dir.path().join(".s.PGSQL.5432")).unwrap();
        let (open, came) = (watch::Sender::new(true), Arc::new(AtomicUsize::new(0)));
        let (state, count) = (open.subscribe(), Arc::clone(&came));
        tokio::spawn(async move {
            while let Ok((mut client, _)) = listener.accept().await {
                count.fetch_add(1, Ordering::SeqCst);
                let (mut state, socket) = (state.clone(), socket.clone());
                tokio::spawn(async move {
                    if *state.borrow() {
                        let mut server = UnixStream::connect(socket).await.unwrap();
                        tokio::select! {
                            _ = tokio::io::copy_bidirectional(&mut client, &mut server) => {}
                            _ = state.wait_for(|open| !open) => {}
                        }
                    }
                });
            }
        });
        Self { open, came, dir }
    }
}

/// A database behind a door.
async fn behind_a_door() -> (Db, Door, super::testing::TestDb) {
    let test = postgres().await;
    let url = test.url.clone().unwrap();
    let (start, socket_dir) = url.split_once("?host=").unwrap();
    let door = Door::before(PathBuf::from(socket_dir).join(".s.PGSQL.5432"));
    let db = Db::open(Some(&format!("{start}?host={}", door.dir.path().display())), test.dir.path()).await.unwrap();
    (db, door, test)
}

async fn until_away(db: &Db) {
    let Db::Postgres(pool) = db else { unreachable!() };
    pool.clone().opened().await;
}

async fn until_back(db: &Db) {
    while settings::get(db, "a").await.is_err() {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn while_it_is_away_nobody_waits_and_nobody_but_one_tries() {
    let (db, door, _test) = behind_a_door().await;
    settings::set(&db, "a", "1", Millis(1)).await.unwrap();
    door.open.send_replace(false);
    // A connection that breaks is enough.
    let first = settings::get(&db, "a").await.unwrap_err();
    assert!(first.is_away(), "{first:?}");
    until_away(&db).await;
    let before = door.came.load(Ordering::SeqCst);
    for _ in 0..1000 {
        let refused = [
            settings::get(&db, "a").await.unwrap_err(),
            settings::set(&db, "a", "2", Millis(1)).await.unwrap_err(),
            db.begin().await.err().expect("no transaction"),
        ];
        assert!(refused.iter().all(DbError::is_away), "{refused:?}");
    }
    let tried = door.came.load(Ordering::SeqCst) - before;
    assert!(tried < 300, "3,000 statements have made {tried} connections");
    door.open.send_replace(true);
    until_back(&db).await;
    // Nobody gets a connection from before.
    for _ in 0..50 {
        assert_eq!(settings::get(&db, "a").await.unwrap().as_deref(), Some("1"));
    }
}

#[tokio::test]
async fn who_waits_already_is_told_when_it_goes_away() {
    let (db, door, _test) = behind_a_door().await;
    // All connections are in use, so that the next one waits for one of them.
    let mut held = Vec::new();
    for _ in 0..super::POSTGRES_CONNECTIONS {
        held.push(db.begin().await.unwrap());
    }
    let waiting: Vec<_> = (0..8)
        .map(|_| {
            let db = db.clone();
            tokio::spawn(async move { settings::get(&db, "a").await })
        })
        .collect();
    door.open.send_replace(false);
    let mut tx = held.pop().unwrap();
    let broken = on!(tx &mut tx, |c| sqlx::query("SELECT 1").execute(c).await.map(|_| ())).during("ask");
    assert!(broken.unwrap_err().is_away());
    for waiter in waiting {
        assert!(waiter.await.unwrap().unwrap_err().is_away());
    }
    door.open.send_replace(true);
    drop((held, tx));
    until_back(&db).await;
}

#[tokio::test]
async fn a_slow_statement_is_no_reason_to_refuse_others() {
    let (db, door, _test) = behind_a_door().await;
    let Db::Postgres(pool) = &db else { unreachable!() };
    let before = door.came.load(Ordering::SeqCst);
    let slow = sqlx::query("SELECT pg_sleep(3)").execute(pool);
    let others = async {
        // Somebody has looked whether the database is there.
        while door.came.load(Ordering::SeqCst) == before {
            settings::set(&db, "a", "1", Millis(1)).await.unwrap();
        }
    };
    let (slow, ()) = tokio::join!(slow, others);
    slow.unwrap();
    settings::get(&db, "a").await.unwrap();
}
