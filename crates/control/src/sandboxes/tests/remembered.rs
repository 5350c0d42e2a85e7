//! What is remembered between commits is what a read would have answered, whoever has written.

use super::*;
use crate::db::{Db, auth_version};

/// What is said of a sandbox without asking, and what its row says.
async fn agree(test: &TestApp, id: &SandboxId) {
    let known = test.app.sandboxes.used_last(test.team(), id).await.unwrap().unwrap();
    let row = store::get(&test.app.db, test.team(), id).await.unwrap().unwrap();
    assert_eq!(format!("{known:?}"), format!("{row:?}"));
}

#[tokio::test]
async fn rows_are_known_as_each_change_leaves_them() {
    let database = sqlite().await;
    let other = Db::open(None, database.dir.path()).await.unwrap();
    let test = app(database).await;
    test.fleet.add_host();
    let (sandboxes, owner) = (&test.app.sandboxes, owner(&test));
    let rights = auth_version::read(&test.app.db).await.unwrap();
    let neighbour = sandboxes.create(&owner, new()).await.unwrap().id.0;
    for _ in 0..3 {
        let id = sandboxes.create(&owner, new()).await.unwrap().id.0;
        agree(&test, &id).await;
        sandboxes.pause(&owner, &id).await.unwrap();
        agree(&test, &id).await;
        sandboxes.resume(&owner, &id).await.unwrap();
        agree(&test, &id).await;
        sandboxes.set_timeout(&owner, &id, 77, None).await.unwrap();
        agree(&test, &id).await;
        on!(write & other, |c| sqlx::query("UPDATE sandboxes SET timeout_sec = 78 WHERE id = $1")
            .bind(id.as_str())
            .execute(c)
            .await
            .map(drop))
        .unwrap();
        agree(&test, &id).await;
        sandboxes.destroy(&owner, &id).await.unwrap();
        agree(&test, &id).await;
        agree(&test, &neighbour).await;
    }
    assert_eq!(auth_version::read(&test.app.db).await.unwrap(), rights, "what says that it keeps rights does");
}

#[tokio::test]
async fn a_template_that_has_changed_is_what_the_next_sandbox_is_made_of() {
    let database = sqlite().await;
    let other = Db::open(None, database.dir.path()).await.unwrap();
    let test = app(database).await;
    test.fleet.add_host();
    let (sandboxes, owner) = (&test.app.sandboxes, owner(&test));
    for (round, db) in [&test.app.db, &other, &test.app.db, &other].into_iter().enumerate() {
        let before = sandboxes.create(&owner, new()).await.unwrap();
        let digest = format!("{:064x}", round + 0xabc);
        assert_ne!(before.digest, digest);
        on!(write db, |c| sqlx::query("UPDATE templates SET digest = $1 WHERE name = 'base'")
            .bind(&digest)
            .execute(c)
            .await
            .map(drop))
        .unwrap();
        assert_eq!(sandboxes.create(&owner, new()).await.unwrap().digest, digest);
    }
}
