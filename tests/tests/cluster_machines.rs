//! Snapshots of virtual machines with memory reach every host whose machines run on the same: made on one, they go on
//! running on another, as somebody else. Where no host has that, they are refused, and say why.

use std::fs;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;

use atoll_client::command;
use atoll_model::api::sandboxes::CreateSandboxRequest;
use atoll_model::api::snapshots::CreateSnapshotRequest;
use atoll_model::{HostStatus, SandboxId, SandboxStatus};
use atoll_tests::cluster::{Cluster, Reach};
use atoll_tests::until;

const MACHINES: [(&str, &str); 2] = [("ATOLL_DRIVER", "vm"), ("ATOLL_POOL_SIZE", "4G")];

/// Counts in its own memory, and shows how far it is, and a number that only it has.
const COUNTER: &str = r#"python3 -c '
import os, random, time
mark, count = random.random(), 0
while True:
    count += 1
    open("/dev/shm/new", "w").write("%s %d" % (mark, count))
    os.rename("/dev/shm/new", "/dev/shm/count")
    time.sleep(0.1)
'"#;

async fn count(cluster: &Cluster, id: &SandboxId) -> Option<(String, u64)> {
    let text = cluster.client.exec(id, &command("/bin/cat", ["/dev/shm/count"])).await.ok()?.stdout;
    let (mark, count) = text.split_once(' ')?;
    Some((mark.to_owned(), count.parse().ok()?))
}

/// What a host's machines run on, which it says with its first heartbeat.
async fn said(cluster: &Cluster, host: usize) -> String {
    until("a host to say what its machines run on", || async { cluster.host(host).await.vm_version }).await
}

fn from(snapshot: &str) -> CreateSandboxRequest {
    CreateSandboxRequest { template: Some(snapshot.to_owned()), ..CreateSandboxRequest::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_goes_on_on_another_host_than_the_one_it_was_kept_on() {
    let mut cluster = Cluster::start_with(1, 0, &[]).await;
    for host in 0..2 {
        cluster.add_host_with(Reach::Address, &MACHINES).await;
        cluster.wait_host(host, HostStatus::Online).await;
    }
    cluster.wait_ready().await;
    let version = said(&cluster, 0).await;
    assert!(version.starts_with("QEMU ") && said(&cluster, 1).await == version, "{version}");
    let drain = async |cluster: &Cluster, host: usize, draining: bool| {
        cluster.admin.drain_host(&cluster.hosts[host].id, draining).await.expect("draining");
    };
    drain(&cluster, 1, true).await;
    let small = CreateSandboxRequest { memory_mb: Some(256), disk_mb: Some(512), ..CreateSandboxRequest::default() };
    let parent = until("a machine", || async {
        cluster.client.create_sandbox(&small).await.inspect_err(|error| println!("none yet: {error}")).ok()
    })
    .await;
    assert_eq!((parent.driver.as_str(), parent.host_id.as_ref()), ("vm", Some(&cluster.hosts[0].id)));
    cluster.sh(&parent.id, "echo brought > file").await;
    cluster.client.exec_background(&parent.id, &command("/bin/bash", ["-c", COUNTER])).await.expect("a counter");
    let (mark, before) = until("the counter to count", || async { count(&cluster, &parent.id).await }).await;
    let request =
        CreateSnapshotRequest { sandbox_id: parent.id.clone(), name: Some("alive".to_owned()), memory: Some(true) };
    let snapshot = cluster.client.create_snapshot(&request, false).await.expect("a snapshot");
    assert_eq!(snapshot.kind, "memory");
    until("the snapshot to be in the object store", || async {
        let shown = cluster.client.get_snapshot("alive").await.ok()?;
        assert_eq!(shown.problem, None);
        shown.stored.then_some(())
    })
    .await;

    drain(&cluster, 0, true).await;
    drain(&cluster, 1, false).await;
    let copy = until("a sandbox of it on the second host", || async {
        let made = cluster.client.create_sandbox(&from("alive")).await;
        made.inspect_err(|error| println!("none yet: {error}")).ok()
    })
    .await;
    assert_eq!((copy.driver.as_str(), copy.host_id.as_ref()), ("vm", Some(&cluster.hosts[1].id)));
    let (its_mark, first) = until("its counter", || async { count(&cluster, &copy.id).await }).await;
    assert!(its_mark == mark && first >= before, "{its_mark} {first}, not {mark} {before}");
    until("it to count on", || async { count(&cluster, &copy.id).await.filter(|(_, now)| *now > first) }).await;
    assert_eq!(cluster.sh(&copy.id, "cat file; hostname").await, format!("brought\n{}\n", copy.id.dns_label()));

    // What was brought is as if it had been made there: the next one begins with it, each as somebody else.
    let another = cluster.client.create_sandbox(&from("alive")).await.expect("another");
    assert_eq!(until("its counter", || async { count(&cluster, &another.id).await }).await.0, mark);
    for fact in
        ["hostname", "cat /etc/machine-id", "cat /proc/sys/kernel/random/boot_id", "head -c 16 /dev/urandom | od -x"]
    {
        let mut told = Vec::new();
        for id in [&parent.id, &copy.id, &another.id] {
            told.push(cluster.sh(id, fact).await);
        }
        assert!(told[0] != told[1] && told[0] != told[2] && told[1] != told[2], "{fact}: {told:?}");
    }
    let fetched = cluster.hosts[1].node.data_dir().join("fetched");
    let left = fs::read_dir(fetched).expect("fetched").flatten().filter(|entry| {
        let mut magic = [0; 5];
        let file = fs::File::open(entry.path());
        file.and_then(|mut file| file.read_exact(&mut magic)).is_ok() && magic == *b"atoll"
    });
    assert_eq!(left.count(), 0, "the file that it came in is not kept");

    // A snapshot of the copy goes the other way.
    let request =
        CreateSnapshotRequest { sandbox_id: copy.id.clone(), name: Some("again".to_owned()), memory: Some(true) };
    assert_eq!(cluster.client.create_snapshot(&request, false).await.expect("a snapshot").kind, "memory");
    until("it to be in the object store", || async {
        cluster.client.get_snapshot("again").await.ok().filter(|it| it.stored)
    })
    .await;
    drain(&cluster, 0, false).await;
    drain(&cluster, 1, true).await;
    let back = until("a sandbox of it on the first host", || async {
        let made = cluster.client.create_sandbox(&from("again")).await;
        made.inspect_err(|error| println!("none yet: {error}")).ok()
    })
    .await;
    assert_eq!(back.host_id.as_ref(), Some(&cluster.hosts[0].id));
    assert_eq!(until("its counter", || async { count(&cluster, &back.id).await }).await.0, mark);

    // Deleted, it is gone from both hosts when nobody stands on it any more.
    for id in [&parent.id, &copy.id, &another.id, &back.id] {
        cluster.client.destroy_sandbox(id).await.expect("destroy");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_paused_machine_moves_with_its_processes_from_a_host_that_is_drained_and_back() {
    let mut cluster = Cluster::start_with(1, 0, &[]).await;
    for host in 0..2 {
        cluster.add_host_with(Reach::Address, &MACHINES).await;
        cluster.wait_host(host, HostStatus::Online).await;
    }
    cluster.wait_ready().await;
    let drain = async |cluster: &Cluster, host: usize, draining: bool| {
        cluster.admin.drain_host(&cluster.hosts[host].id, draining).await.expect("draining");
    };
    drain(&cluster, 1, true).await;
    let small = CreateSandboxRequest { memory_mb: Some(256), disk_mb: Some(512), ..CreateSandboxRequest::default() };
    let made = until("a machine", || async { cluster.client.create_sandbox(&small).await.ok() }).await;
    let id = made.id;
    assert_eq!(made.host_id.as_ref(), Some(&cluster.hosts[0].id));
    cluster.sh(&id, "echo brought > file").await;
    cluster.client.exec_background(&id, &command("/bin/bash", ["-c", COUNTER])).await.expect("a counter");
    let (mark, before) = until("the counter to count", || async { count(&cluster, &id).await }).await;
    let address = "ip -4 -o addr show scope global | awk '{print $4}'";
    let former = cluster.sh(&id, address).await;
    cluster.client.pause_sandbox(&id).await.expect("pausing");

    let arrives = async |cluster: &Cluster, host: usize| {
        until("it to be on the other host", || async {
            let sandbox = cluster.client.get_sandbox(&id).await.ok()?;
            (sandbox.host_id.as_ref() == Some(&cluster.hosts[host].id)).then_some(sandbox)
        })
        .await
    };
    drain(&cluster, 1, false).await;
    drain(&cluster, 0, true).await;
    assert_eq!(arrives(&cluster, 1).await.status, SandboxStatus::Paused);
    until("nothing to be left on the first", || async { cluster.host(0).await.drained.then_some(()) }).await;
    let resumed = cluster.client.resume_sandbox(&id).await.expect("resuming");
    assert_eq!((resumed.status, resumed.kept.as_deref()), (SandboxStatus::Running, Some("memory")));
    let (its_mark, now) = until("its counter", || async { count(&cluster, &id).await }).await;
    assert!(its_mark == mark && now >= before, "{its_mark} {now}, not {mark} {before}");
    until("it to count on", || async { count(&cluster, &id).await.filter(|(_, later)| *later > now) }).await;
    assert_eq!(cluster.sh(&id, "cat file; hostname").await, format!("brought\n{}\n", id.dns_label()));
    let here = cluster.sh(&id, address).await;
    assert!(here.lines().count() == 1 && here != former, "{here}, formerly {former}");
    cluster.sh(&id, "echo and changed >> file").await;
    cluster.client.pause_sandbox(&id).await.expect("pausing");

    // Back, and away again before anybody has resumed it.
    drain(&cluster, 0, false).await;
    drain(&cluster, 1, true).await;
    arrives(&cluster, 0).await;
    drain(&cluster, 1, false).await;
    drain(&cluster, 0, true).await;
    arrives(&cluster, 1).await;
    // The agent that has never seen it run starts anew.
    cluster.hosts[1].node.kill_9();
    cluster.hosts[1].node.run(&[]);
    let resumed = until("it to be resumed", || async { cluster.client.resume_sandbox(&id).await.ok() }).await;
    assert_eq!(resumed.kept.as_deref(), Some("memory"));
    assert_eq!(until("its counter", || async { count(&cluster, &id).await }).await.0, mark);
    assert_eq!(cluster.sh(&id, "cat file").await, "brought\nand changed\n");
    cluster.client.destroy_sandbox(&id).await.expect("destroy");
}

/// A QEMU that says that it is another; nothing is ever started with it.
fn other_qemu(dir: &std::path::Path) -> String {
    let program = dir.join("qemu-system-x86_64");
    fs::write(&program, "#!/bin/sh\necho 'QEMU emulator version 99.1 (a test)'\n").expect("a program");
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).expect("a program");
    format!("{}:{}", dir.display(), std::env::var("PATH").unwrap_or_default())
}

#[tokio::test(flavor = "multi_thread")]
async fn memory_that_no_host_can_go_on_with_is_refused_and_says_why() {
    let mut cluster = Cluster::start_with(1, 0, &[]).await;
    cluster.add_host_with(Reach::Address, &MACHINES).await;
    cluster.wait_host(0, HostStatus::Online).await;
    cluster.wait_ready().await;
    let version = said(&cluster, 0).await;
    let small = CreateSandboxRequest { memory_mb: Some(256), disk_mb: Some(512), ..CreateSandboxRequest::default() };
    let parent = until("a machine", || async { cluster.client.create_sandbox(&small).await.ok() }).await;
    let request =
        CreateSnapshotRequest { sandbox_id: parent.id.clone(), name: Some("alive".to_owned()), memory: Some(true) };
    cluster.client.create_snapshot(&request, false).await.expect("a snapshot");
    until("the snapshot to be in the object store", || async {
        cluster.client.get_snapshot("alive").await.ok().filter(|it| it.stored)
    })
    .await;
    cluster.client.destroy_sandbox(&parent.id).await.expect("destroy");

    let scratch = tempfile::tempdir().expect("a directory");
    let path = other_qemu(scratch.path());
    let env = [MACHINES[0], MACHINES[1], ("PATH", path.as_str())];
    cluster.add_host_with(Reach::Address, &env).await;
    cluster.wait_host(1, HostStatus::Online).await;
    until("the second host to say what its machines run on", || async {
        cluster.host(1).await.vm_version.filter(|other| other.starts_with("QEMU 99.1 (a test)"))
    })
    .await;

    // The one that has it takes nothing now, which may change.
    cluster.admin.drain_host(&cluster.hosts[0].id, true).await.expect("draining");
    let refused = until("a refusal", || async { cluster.client.create_sandbox(&from("alive")).await.err() }).await;
    assert_eq!(refused.status(), Some(503), "{refused}");
    let text = refused.to_string();
    assert!(text.contains("1 draining") && text.contains("1 other_vm_version") && text.contains(&version), "{text}");

    // It is gone.
    let gone = cluster.hosts[0].id.clone();
    cluster.admin.delete_host(&gone, true).await.expect("deleting the host");
    let refused = until("a refusal for good", || async {
        let refused = cluster.client.create_sandbox(&from("alive")).await.expect_err("no host can");
        (refused.status() != Some(503)).then_some(refused)
    })
    .await;
    assert_eq!(refused.status(), Some(409), "{refused}");
    let text = refused.to_string();
    assert!(text.contains(&version) && text.contains("which no host has"), "{text}");
}
