//! An agent's restart, crash or orderly stop ends no sandbox.

use std::time::Duration;

use atoll_client::{Event, Start, command};
use atoll_model::SandboxStatus;
use atoll_model::api::sandboxes::{CreateSandboxRequest, ExecRequest};
use atoll_tests::{Atoll, until};

fn tiny() -> CreateSandboxRequest {
    CreateSandboxRequest { memory_mb: Some(64), disk_mb: Some(64), ..CreateSandboxRequest::default() }
}

#[tokio::test]
async fn fifty_sandboxes_survive_a_kill_9_with_their_processes_untouched() {
    let mut atoll = Atoll::start().await;
    let mut before = Vec::new();
    for chunk in 0..5 {
        let made = futures::future::join_all((0..10).map(|_| atoll.sandbox_with(tiny()))).await;
        for sandbox in made {
            let counter = format!("echo start-{chunk} > /tmp/mark; echo $$; exec sleep 100000");
            let start = ExecRequest { tag: Some("counter".into()), ..command("/bin/bash", ["-c", &counter]) };
            let pid = atoll.client().exec_background(&sandbox.id, &start).await.expect("background").pid;
            let stat = atoll.sh(&sandbox.id, &format!("cut -d' ' -f22 /proc/{pid}/stat")).await.stdout;
            before.push((sandbox.id, pid, stat));
        }
    }
    atoll.kill_9();
    atoll.start_again().await;
    let after = futures::future::join_all(before.iter().map(|(id, pid, _)| {
        let script = format!("cut -d' ' -f22 /proc/{pid}/stat; cat /tmp/mark | cut -c1-5");
        let atoll = &atoll;
        async move { atoll.sh(id, &script).await.stdout }
    }))
    .await;
    for ((id, _, stat), now) in before.iter().zip(after) {
        assert_eq!(now, format!("{stat}start\n"), "{id}: its process is not the one that ran before");
        let sandbox = atoll.client().get_sandbox(id).await.expect("get");
        assert_eq!(sandbox.status, SandboxStatus::Running, "{sandbox:?}");
    }
    atoll.stop_and_check().await;
}

#[tokio::test]
async fn an_orderly_stop_leaves_sandboxes_running_and_the_next_start_finds_them() {
    let mut atoll = Atoll::start().await;
    let (running, paused) = (atoll.sandbox_with(tiny()).await.id, atoll.sandbox_with(tiny()).await.id);
    atoll.sh(&running, "echo kept > /home/user/file").await;
    atoll.sh(&paused, "echo kept > /home/user/file").await;
    atoll.client().pause_sandbox(&paused).await.expect("pause");
    atoll.terminate().await;
    atoll.start_again().await;
    until("the running one to run", || async {
        let sandbox = atoll.client().get_sandbox(&running).await.expect("get");
        (sandbox.status == SandboxStatus::Running).then_some(())
    })
    .await;
    assert_eq!(atoll.sh(&running, "cat /home/user/file").await.stdout, "kept\n");
    let sandbox = atoll.client().get_sandbox(&paused).await.expect("get");
    assert_eq!(sandbox.status, SandboxStatus::Paused, "{sandbox:?}");
    atoll.client().resume_sandbox(&paused).await.expect("resume");
    assert_eq!(atoll.sh(&paused, "cat /home/user/file").await.stdout, "kept\n");
    atoll.stop_and_check().await;
}

#[tokio::test]
async fn a_kill_9_at_any_moment_of_a_destroy_leaves_the_sandbox_whole_or_gone() {
    let mut atoll = Atoll::start().await;
    for milliseconds in [0, 2, 6] {
        let id = atoll.sandbox_with(tiny()).await.id;
        let destroy = atoll.client().destroy_sandbox(&id);
        let _ = tokio::time::timeout(Duration::from_millis(milliseconds), destroy).await;
        atoll.kill_9();
        atoll.start_again().await;
        until("the sandbox to be destroyed for good, or wholly there", || async {
            let sandbox = atoll.client().get_sandbox(&id).await.expect("get");
            match sandbox.status {
                SandboxStatus::Stopped => Some(()),
                SandboxStatus::Running => {
                    atoll.assert_well(&id).await;
                    atoll.client().destroy_sandbox(&id).await.expect("destroy");
                    None
                }
                _ => None,
            }
        })
        .await;
        let its = atoll.data_dir().join("sandboxes").join(id.as_str());
        until("its host to have heard of it", || async { (!its.exists()).then_some(()) }).await;
    }
    atoll.stop_and_check().await;
}

#[tokio::test]
async fn streams_of_a_destroyed_sandbox_end_at_once() {
    let atoll = Atoll::start().await;
    let id = atoll.sandbox_with(tiny()).await.id;
    let start = Start { cmd: Some("/bin/sleep".into()), args: vec!["1000".into()], ..Start::default() };
    let mut session = atoll.client().exec_stream(&id, start).await.expect("exec/stream");
    assert!(matches!(session.next().await.expect("an event"), Some(Event::Started { .. })));
    atoll.client().destroy_sandbox(&id).await.expect("destroy");
    let ended = tokio::time::timeout(atoll_tests::wait::PATIENCE, async {
        loop {
            match session.next().await {
                Ok(Some(Event::Exited { .. }) | None) | Err(_) => break,
                Ok(Some(_)) => {}
            }
        }
    });
    ended.await.expect("the stream to end");
    let sandbox = atoll.client().get_sandbox(&id).await.expect("a destroyed one stays readable");
    assert_eq!(sandbox.status, SandboxStatus::Stopped);
    atoll.stop_and_check().await;
}
