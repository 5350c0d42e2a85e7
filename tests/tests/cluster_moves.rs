//! Draining a host: what is paused on it moves to another one with its files, says so, and leaves nothing behind.

use atoll_client::command;
use atoll_model::SandboxStatus;
use atoll_model::api::sandboxes::CreateSandboxRequest;
use atoll_tests::cluster::{Cluster, Database, tiny};
use atoll_tests::until;

/// Files of all kinds; what was there is changed and gone.
const WRITE: &str =
    "set -e; mkdir -p ~/d/e; echo one > ~/d/file; chmod 600 ~/d/file; ln -s d/file ~/link; ln ~/d/file ~/hard
    head -c 3M /dev/urandom > ~/d/e/big; sha256sum ~/d/e/big > ~/sum; rm ~/.bashrc; rm -rf ~/.config; mkdir ~/.config
    mkfifo ~/pipe; truncate -s 5M ~/sparse; sync";
const READ: &str = "cat ~/link ~/hard; stat -c '%U %a %h' ~/d/file; sha256sum -c --status ~/sum && echo same
    ls -A ~/.config | wc -l; test -e ~/.bashrc || echo gone; test -p ~/pipe && echo pipe; stat -c %s ~/sparse; echo $GREETING";
const EXPECTED: &str = "one\none\nuser 600 2\nsame\n0\ngone\npipe\n5242880\nhello\n";

async fn moves_whole(database: Database) {
    let mut cluster = Cluster::start_on(database, 1, 2, &[]).await;
    cluster.admin.drain_host(&cluster.hosts[1].id, true).await.expect("draining");
    let request =
        CreateSandboxRequest { env: [("GREETING".to_owned(), "hello".to_owned())].into_iter().collect(), ..tiny() };
    let made = until("a sandbox", || async { cluster.client.create_sandbox(&request).await.ok() }).await;
    cluster.admin.drain_host(&cluster.hosts[1].id, false).await.expect("undraining");
    let (id, [first, second]) = (made.id, [&cluster.hosts[0].id, &cluster.hosts[1].id].map(Clone::clone));
    assert_eq!(made.host_id.as_ref(), Some(&first));
    cluster.sh(&id, WRITE).await;
    assert_eq!(cluster.sh(&id, READ).await, EXPECTED);
    let process = cluster.long_process(&id).await;
    cluster.client.pause_sandbox(&id).await.expect("pausing");
    let running = cluster.sandbox_on(0).await;

    cluster.admin.drain_host(&first, true).await.expect("draining");
    let moved = until("it to be on the other host", || async {
        let sandbox = cluster.client.get_sandbox(&id).await.ok()?;
        (sandbox.host_id.as_ref() == Some(&second)).then_some(sandbox)
    })
    .await;
    assert_eq!((moved.status, moved.reason.as_deref()), (SandboxStatus::Paused, Some("user")));
    let life = cluster.client.sandbox_events(&id).await.expect("its life").items;
    assert!(life.iter().any(|event| event.reason.as_deref() == Some("moved")), "{life:?}");
    // What runs stays, and the host says what it waits for.
    let drain = cluster.admin.host_drain(&first).await.expect("how far it has come");
    assert!(drain.draining && !drain.drained && drain.sandbox_count == 1, "{drain:?}");
    assert_eq!(drain.sandboxes[0].id, running);
    assert!(drain.sandboxes[0].waits_for.contains("runs"), "{drain:?}");
    cluster.client.pause_sandbox(&running).await.expect("pausing");
    until("nothing to be left on it", || async {
        cluster.admin.get_host(&first).await.ok().filter(|host| host.drained).map(drop)
    })
    .await;

    let resumed = cluster.client.resume_sandbox(&id).await.expect("resuming");
    assert_eq!((resumed.status, resumed.kept.as_deref()), (SandboxStatus::Running, Some("files")));
    assert_eq!(cluster.sh(&id, READ).await, EXPECTED);
    assert_ne!(cluster.start_time(&id, process.0).await, process.1, "its processes are new ones");
    // It goes on as any other: written to, paused, resumed, forked.
    cluster.sh(&id, "echo two >> ~/d/file; sync").await;
    cluster.client.pause_sandbox(&id).await.expect("pausing");
    cluster.client.resume_sandbox(&id).await.expect("resuming");
    let forked = cluster.client.fork_sandbox(&id, &Default::default()).await.expect("a fork");
    let child = forked.items[0].sandbox.as_ref().expect("a child").id.clone();
    assert_eq!(
        cluster.client.exec(&child, &command("cat", ["/home/user/link"])).await.expect("exec").stdout,
        "one\ntwo\n"
    );

    // The former host has nothing, so it can be deleted without force, and leaves nothing in the kernel.
    let data = cluster.hosts[0].node.data_dir();
    let names = |below: &str| -> Vec<_> {
        std::fs::read_dir(data.join(below)).into_iter().flatten().flatten().map(|entry| entry.file_name()).collect()
    };
    until("it to have no sandbox, layer or packed image", || async {
        ["sandboxes", "pool/layers", "images"].iter().all(|below| names(below).is_empty()).then_some(())
    })
    .await;
    let mark = cluster.hosts[0].node.mark();
    cluster.admin.delete_host(&first, false).await.expect("deleting it");
    cluster.hosts[0].node.ended().await;
    until("nothing to be left of it", || async { mark.left().is_empty().then_some(()) }).await;
}

#[tokio::test]
async fn a_paused_sandbox_moves_whole_from_a_host_that_is_drained() {
    tokio::join!(moves_whole(Database::Sqlite), moves_whole(Database::Postgres));
}
