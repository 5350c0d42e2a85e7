//! A reboot of the host: every process, mount, link and cgroup is gone and the kernel has another boot id. What comes back
//! is what was on the disk.

use atoll_model::api::sandboxes::{CreateSandboxRequest, VolumeMount};
use atoll_model::sandbox::OnReboot;
use atoll_model::{SandboxId, SandboxStatus};
use atoll_tests::{Atoll, until};

async fn status(atoll: &Atoll, id: &SandboxId) -> SandboxStatus {
    atoll.client().get_sandbox(id).await.expect("get").status
}

#[tokio::test]
async fn sandboxes_come_back_from_their_disks_with_the_same_id_files_tokens_and_address() {
    let mut atoll = Atoll::start().await;
    atoll_tests::command::text(atoll.cli(&["volume", "create", "data", "--size", "32"]));
    let secret = atoll_tests::command::with_input(atoll.cli(&["secret", "set", "word"]), b"sesame");
    assert!(secret.status.success());
    let request = || CreateSandboxRequest {
        memory_mb: Some(64),
        disk_mb: Some(64),
        secrets: [("WORD".to_owned(), "word".to_owned())].into_iter().collect(),
        volumes: vec![VolumeMount { volume: "data".to_owned(), path: "/data".to_owned(), read_only: false }],
        ..CreateSandboxRequest::default()
    };
    let running = atoll.sandbox_with(request()).await.id;
    let paused = atoll.sandbox_with(request()).await.id;
    let mortal = CreateSandboxRequest { on_reboot: Some(OnReboot::Stop), ..request() };
    let mortal = atoll.sandbox_with(mortal).await.id;
    let forked = atoll.client().fork_sandbox(&running, &Default::default()).await.expect("fork");
    let child = forked.items[0].sandbox.as_ref().expect("a child").id.clone();
    let write = "set -e; echo $HOSTNAME > ~/file; sync; sudo rm -rf /usr/share/man; echo $HOSTNAME >> /data/all; sync";
    for id in [&running, &paused, &child] {
        assert_eq!(atoll.sh(id, write).await.exit_code, 0);
    }
    let identity = "hostname -I; cat /etc/machine-id; hostname; echo $WORD";
    let boot = "cat /proc/sys/kernel/random/boot_id";
    let mut before = Vec::new();
    for id in [&running, &paused, &child] {
        before.push((atoll.sh(id, identity).await.stdout, atoll.sh(id, boot).await.stdout));
    }
    let secrets = |id: &SandboxId| {
        std::fs::read_to_string(atoll.data_dir().join("sandboxes").join(id.as_str()).join("secrets.json"))
            .expect("read")
    };
    let tokens: Vec<_> = [&running, &paused, &child].into_iter().map(secrets).collect();
    atoll.client().pause_sandbox(&paused).await.expect("pause");
    atoll.reboot_host();
    atoll.start_again().await;
    for id in [&running, &child] {
        until("a sandbox to run again", || async {
            (status(&atoll, id).await == SandboxStatus::Running).then_some(())
        })
        .await;
    }
    until("the one that stays down to be stopped", || async {
        (status(&atoll, &mortal).await == SandboxStatus::Stopped).then_some(())
    })
    .await;
    // What stood still stands still, and says what it kept.
    assert_eq!(status(&atoll, &paused).await, SandboxStatus::Paused);
    let resumed = atoll.client().resume_sandbox(&paused).await.expect("resume");
    assert_eq!(resumed.kept.as_deref(), Some("files"));
    for (id, (identity_before, boot_before)) in [&running, &paused, &child].into_iter().zip(&before) {
        assert_eq!(&atoll.sh(id, identity).await.stdout, identity_before, "{id}");
        assert_ne!(&atoll.sh(id, boot).await.stdout, boot_before, "{id} does not know that it was started anew");
        let look = "cmp -s ~/file <(hostname) && wc -l < /data/all; ls /usr/share/man 2>/dev/null";
        assert_eq!(atoll.sh(id, look).await.stdout, "3\n", "{id}");
        atoll.assert_well(id).await;
    }
    let secrets = |id: &SandboxId| {
        std::fs::read_to_string(atoll.data_dir().join("sandboxes").join(id.as_str()).join("secrets.json"))
            .expect("read")
    };
    assert_eq!([&running, &paused, &child].into_iter().map(secrets).collect::<Vec<_>>(), tokens);
    atoll.stop_and_check().await;
}
