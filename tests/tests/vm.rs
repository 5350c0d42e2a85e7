//! Sandboxes that are virtual machines, through the real binary. Few tests: without hardware help each boot takes seconds.

use atoll_client::command;
use atoll_model::SandboxStatus;
use atoll_model::api::sandboxes::{CreateSandboxRequest, ExecRequest, ForkRequest};
use atoll_model::api::snapshots::CreateSnapshotRequest;
use atoll_tests::{Atoll, until};

fn small() -> CreateSandboxRequest {
    CreateSandboxRequest { memory_mb: Some(256), disk_mb: Some(512), ..CreateSandboxRequest::default() }
}

#[tokio::test]
async fn a_machine_does_what_a_sandbox_does_and_survives_its_agent() {
    let mut atoll = Atoll::start_with(&["--driver", "vm"], &[]).await;
    let sandbox = atoll.sandbox_with(small()).await;
    assert_eq!((sandbox.driver.as_str(), sandbox.status), ("vm", SandboxStatus::Running));
    let id = sandbox.id.clone();

    // A kernel of its own, and root of all of it.
    let here = std::fs::read_to_string("/proc/sys/kernel/osrelease").expect("osrelease");
    assert_ne!(atoll.sh(&id, "uname -r").await.stdout, here);
    assert_eq!(atoll.sh(&id, "whoami; hostname").await.stdout, format!("user\n{}\n", id.dns_label()));
    let mount = r#"mkdir -p /mnt/m && python3 -c 'import ctypes, sys
sys.exit(ctypes.CDLL(None).mount(b"none", b"/mnt/m", b"tmpfs", 0, None))' && grep -c /mnt/m /proc/mounts"#;
    let power = atoll.root(&id, mount).await;
    assert_eq!(power.stdout, "1\n", "{power:?}");
    let disk = atoll.sh(&id, "df -m --output=size / | tail -1").await.stdout;
    let megabytes: u64 = disk.trim().parse().expect("a size");
    assert!((400..=512).contains(&megabytes), "{disk}");

    // The network's rules are those of every sandbox: names, and nothing private.
    assert_eq!(atoll.sh(&id, "cat /etc/resolv.conf | cut -d. -f1").await.stdout, "nameserver 198\n");
    let closed = atoll.sh(&id, "timeout 5 bash -c 'echo > /dev/tcp/10.0.0.1/80' 2>&1; echo $?").await;
    assert!(closed.stdout.ends_with("1\n") && !closed.stdout.contains("124"), "{closed:?}");
    // Its ports are reached from outside, at its own address.
    let serve = "mkdir -p www && echo tide > www/index.html && cd www && exec python3 -m http.server 8000";
    let server = ExecRequest { tag: Some("server".into()), ..command("/bin/bash", ["-c", serve]) };
    let pid = atoll.client().exec_background(&id, &server).await.expect("background").pid;
    let url = "for i in $(seq 200); do python3 -c 'import urllib.request as u; print(u.urlopen(\"http://127.0.0.1:8000\").read().decode(), end=\"\")' && break; sleep 0.1; done 2>/dev/null";
    assert_eq!(atoll.sh(&id, url).await.stdout, "tide\n");

    // The agent is killed: the machine and what runs in it go on.
    atoll.kill_9();
    atoll.start_again().await;
    let comm = atoll.sh(&id, &format!("cat /proc/{pid}/comm; cat www/index.html")).await;
    assert_eq!(comm.stdout, "python3\ntide\n", "{comm:?}");

    // A pause lays it on the disk and frees its memory; an agent's death does that no harm.
    let paused = atoll.client().pause_sandbox(&id).await.expect("pause");
    assert_eq!(paused.kept.as_deref(), Some("memory"), "{paused:?}");
    atoll.kill_9();
    atoll.start_again().await;
    assert_eq!(atoll.client().get_sandbox(&id).await.expect("get").status, SandboxStatus::Paused);
    let resumed = atoll.client().resume_sandbox(&id).await.expect("resume");
    assert_eq!(resumed.kept.as_deref(), Some("memory"), "{resumed:?}");
    assert_eq!(atoll.sh(&id, &format!("cat /proc/{pid}/comm")).await.stdout, "python3\n");

    // It ends by itself: that is seen.
    let end = ExecRequest {
        user: Some("root".into()),
        ..command("/bin/sh", ["-c", "echo o > /proc/sysrq-trigger; sleep 60"])
    };
    let ending = atoll.client().exec(&id, &end);
    let _cut_off = tokio::time::timeout(std::time::Duration::from_secs(30), ending).await;
    until("the end to be seen", || async {
        let sandbox = atoll.client().get_sandbox(&id).await.expect("get");
        (sandbox.status == SandboxStatus::Stopped).then_some(())
    })
    .await;
    atoll.stop_and_check().await;
}

#[tokio::test]
async fn a_fork_and_a_snapshot_of_a_machine_have_its_files_and_only_machines_stand_on_them() {
    let atoll = Atoll::start_with(&["--driver", "vm"], &[]).await;
    let parent = atoll.sandbox_with(small()).await;
    atoll.sh(&parent.id, "echo old > file").await;
    let one = ForkRequest { count: Some(1), ..ForkRequest::default() };
    let child =
        atoll.client().fork_sandbox(&parent.id, &one).await.expect("fork").items.remove(0).sandbox.expect("a child");
    assert_eq!(child.driver, "vm");
    atoll.sh(&parent.id, "echo new > file").await;
    assert_eq!(atoll.sh(&child.id, "cat file; hostname").await.stdout, format!("old\n{}\n", child.id.dns_label()));
    atoll.client().destroy_sandbox(&child.id).await.expect("destroy");

    let request = CreateSnapshotRequest { sandbox_id: parent.id.clone(), name: Some("kept".to_owned()) };
    atoll.client().create_snapshot(&request, false).await.expect("snapshot");
    atoll.client().destroy_sandbox(&parent.id).await.expect("destroy");
    let from = |driver: Option<&str>| CreateSandboxRequest {
        template: Some("kept".to_owned()),
        driver: driver.map(str::to_owned),
        ..CreateSandboxRequest::default()
    };
    let refused = atoll.client().create_sandbox(&from(Some("container"))).await.expect_err("another driver");
    assert!(refused.to_string().contains("for the driver `vm`"), "{refused}");
    let later = atoll.sandbox_with(from(None)).await;
    assert_eq!(atoll.sh(&later.id, "cat file").await.stdout, "new\n");
    atoll.stop_and_check().await;
}
