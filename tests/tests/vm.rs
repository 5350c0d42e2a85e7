//! Sandboxes that are virtual machines, through the real binary. Few tests: without hardware help each boot takes seconds.

use atoll_client::command;
use atoll_model::api::sandboxes::{CreateSandboxRequest, ExecRequest, ForkRequest};
use atoll_model::api::snapshots::CreateSnapshotRequest;
use atoll_model::{SandboxId, SandboxStatus};
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
    // What was urgent while it was greeted is not any more, nor is what it starts.
    let nice = "cat /proc/1/task/*/stat /proc/self/stat | sed 's/.*) //' | cut -d' ' -f17 | sort -u";
    assert_eq!(atoll.root(&id, nice).await.stdout, "0\n");

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
async fn a_snapshot_of_a_machine_has_its_files_and_only_machines_stand_on_it() {
    let atoll = Atoll::start_with(&["--driver", "vm"], &[]).await;
    let parent = atoll.sandbox_with(small()).await;
    atoll.sh(&parent.id, "echo new > file").await;
    let request = CreateSnapshotRequest { sandbox_id: parent.id.clone(), name: Some("kept".to_owned()), memory: None };
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

/// A program that counts, ten times a second, in its own memory, and shows how far it is.
const COUNTER: &str = r#"python3 -c '
import os, random, time
mark, count = random.random(), 0
while True:
    count += 1
    open("/dev/shm/new", "w").write("%s %d" % (mark, count))
    os.rename("/dev/shm/new", "/dev/shm/count")
    time.sleep(0.1)
'"#;

async fn count(atoll: &Atoll, id: &SandboxId) -> (String, u64) {
    let text = atoll.sh(id, "cat /dev/shm/count").await.stdout;
    let (mark, count) = text.split_once(' ').unwrap_or_else(|| panic!("no count: {text:?}"));
    (mark.to_owned(), count.parse().expect("a number"))
}

/// Nothing that tells sandboxes apart is common to two of them, and each reaches its resolver, which says something of a name
/// that nobody has.
async fn assert_nothing_in_common(atoll: &Atoll, all: &[SandboxId]) {
    let facts = [
        "cat /etc/machine-id",
        "cat /proc/sys/kernel/random/boot_id",
        "od -An -N16 -x /dev/urandom",
        "cat /sys/class/net/eth0/address",
        "tail -1 /etc/hosts | cut -f1",
        "python3 -c 'import socket; s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.connect((\"8.8.8.8\", 9)); print(s.getsockname()[0])'",
    ];
    for fact in facts {
        let mut told = Vec::new();
        for id in all {
            let answer = atoll.sh(id, fact).await;
            assert_eq!(answer.exit_code, 0, "{fact}: {answer:?}");
            told.push(answer.stdout);
        }
        told.sort();
        told.dedup();
        assert_eq!(told.len(), all.len(), "{fact}: {told:?}");
    }
    let resolves = r#"python3 -c '
import socket
gateway = open("/etc/resolv.conf").read().split()[1]
asking = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
asking.settimeout(20)
asking.sendto(b"\x12\x34\x01\x00\x00\x01" + bytes(6) + b"\x07invalid\x00\x00\x01\x00\x01", (gateway, 53))
assert asking.recv(512)[:2] == b"\x12\x34"'"#;
    for id in all {
        let answer = atoll.sh(id, resolves).await;
        assert_eq!(answer.exit_code, 0, "{answer:?}");
    }
}

/// From the second machine of a kind on another one comes up before anybody asks; the next is made of that.
#[tokio::test]
async fn a_machine_that_is_up_already_becomes_the_next_of_its_kind_and_goes_with_its_agent() {
    let log = ("ATOLL_LOG", "info,atoll_host::sandboxes=debug");
    let spares = [log, ("ATOLL_SPARE_MACHINES", "1")];
    let mut atoll = Atoll::start_with(&["--driver", "vm"], &spares).await;
    let ready = |log: String| log.matches("a spare machine is ready").count();
    let mut all = Vec::new();
    for _ in 0..2 {
        all.push(atoll.sandbox_with(small()).await.id);
    }
    let homes = |atoll: &Atoll| std::fs::read_dir(atoll.data_dir().join("sandboxes")).expect("records").count();
    until("a spare", || async { (ready(atoll.log()) == 1).then_some(()) }).await;
    assert_eq!(homes(&atoll), 3);
    // Nobody's sandbox.
    assert_eq!(
        atoll.client().list_sandboxes(&atoll_client::ListSandboxes::default()).await.expect("list").items.len(),
        2
    );
    let running =
        std::fs::read_dir("/proc").expect("/proc").flatten().map(|it| it.file_name().into_string().expect("a name"));
    let running: Vec<_> = running.collect();
    let third = atoll.sandbox_with(small()).await;
    all.push(third.id.clone());
    let record = std::fs::read(atoll.data_dir().join("sandboxes").join(third.id.as_str()).join("record.json"));
    let record: serde_json::Value = serde_json::from_slice(&record.expect("a record")).expect("JSON");
    assert!(running.contains(&record["init"]["pid"].to_string()), "it was up before it was asked for");
    assert_nothing_in_common(&atoll, &all).await;
    assert_eq!(atoll.sh(&third.id, "whoami; hostname").await.stdout, format!("user\n{}\n", third.id.dns_label()));

    // There is another by now. The agent dies: that one goes, and what was made of the first is found again.
    until("another spare", || async { (ready(atoll.log()) == 2).then_some(()) }).await;
    atoll.sh(&third.id, "echo kept > file; sleep 1000 > /dev/null 2>&1 &").await;
    atoll.kill_9();
    atoll.start_again().await;
    assert_eq!(homes(&atoll), 3);
    assert_eq!(atoll.sh(&third.id, "cat file; pgrep -c sleep").await.stdout, "kept\n1\n");
    let paused = atoll.client().pause_sandbox(&third.id).await.expect("pause");
    assert_eq!(paused.kept.as_deref(), Some("memory"), "{paused:?}");
    atoll.client().resume_sandbox(&third.id).await.expect("resume");
    assert_eq!(atoll.sh(&third.id, "cat file; pgrep -c sleep").await.stdout, "kept\n1\n");
    atoll.stop_and_check().await;
}

/// Forks and sandboxes of a snapshot with memory go on with the very processes, each as a sandbox of its own.
#[tokio::test]
async fn copies_of_a_running_machine_go_on_with_its_processes_under_their_own_names() {
    let atoll = Atoll::start_with(&["--driver", "vm"], &[]).await;
    let parent = atoll.sandbox_with(small()).await;
    let program = command("/bin/bash", ["-c", COUNTER]);
    let pid = atoll.client().exec_background(&parent.id, &program).await.expect("background").pid;
    until("the counter to count", || async {
        (atoll.sh(&parent.id, "cat /dev/shm/count").await.exit_code == 0).then_some(())
    })
    .await;
    atoll.sh(&parent.id, "echo old > file").await;
    let (mark, before) = count(&atoll, &parent.id).await;

    let two = ForkRequest { count: Some(2), ..ForkRequest::default() };
    let forked = atoll.client().fork_sandbox(&parent.id, &two).await.expect("fork");
    assert_eq!(forked.kept, "memory");
    let mut all = vec![parent.id.clone()];
    all.extend(forked.items.into_iter().map(|item| item.sandbox.unwrap_or_else(|| panic!("{:?}", item.error)).id));
    atoll.sh(&parent.id, "echo new > file").await;

    let request =
        CreateSnapshotRequest { sandbox_id: parent.id.clone(), name: Some("alive".to_owned()), memory: Some(true) };
    let snapshot = atoll.client().create_snapshot(&request, false).await.expect("snapshot");
    assert_eq!(snapshot.kind, "memory");
    let from = CreateSandboxRequest { template: Some("alive".to_owned()), ..CreateSandboxRequest::default() };
    let made = atoll.sandbox_with(from.clone()).await;
    assert_eq!(made.kept.as_deref(), Some("memory"));
    all.push(made.id);
    let files = atoll.sandbox_with(CreateSandboxRequest { start_from: Some("files".to_owned()), ..from }).await;
    assert_eq!(files.kept.as_deref(), Some("files"));
    atoll.client().destroy_sandbox(&files.id).await.expect("destroy");
    // A copy can be copied.
    let one = ForkRequest { count: Some(1), ..ForkRequest::default() };
    let again = atoll.client().fork_sandbox(&all[1], &one).await.expect("fork of a child").items.remove(0);
    all.insert(2, again.sandbox.unwrap_or_else(|| panic!("{:?}", again.error)).id);

    for (number, id) in all.iter().enumerate() {
        // The very process, which goes on.
        let (its_mark, first) = count(&atoll, id).await;
        assert!(its_mark == mark && first >= before, "{number}: {its_mark} {first}, not {mark} {before}");
        until("the count to go on", || async { (count(&atoll, id).await.1 > first).then_some(()) }).await;
        let comm = atoll.sh(id, &format!("tr '\\0' ' ' < /proc/{pid}/cmdline")).await.stdout;
        assert!(comm.contains("random.random()"), "{number}: {comm}");
        let file = if (1..4).contains(&number) { "old\n" } else { "new\n" };
        assert_eq!(atoll.sh(id, "cat file").await.stdout, file, "{number}");
        let names = atoll.sh(id, "hostname; cat /etc/hostname; echo $E2B_SANDBOX_ID").await.stdout;
        let label = id.dns_label();
        assert_eq!(names, format!("{label}\n{label}\n{label}\n"));
    }
    assert_nothing_in_common(&atoll, &all).await;
    // Without the memory to go on with, or with another size, they start from the files.
    let other = CreateSandboxRequest {
        template: Some("alive".to_owned()),
        memory_mb: Some(320),
        ..CreateSandboxRequest::default()
    };
    let other = atoll.sandbox_with(other).await;
    assert_eq!(atoll.sh(&other.id, "cat file; ls /dev/shm").await.stdout, "new\n");
    atoll.client().delete_snapshot("alive").await.expect("delete");
    atoll.stop_and_check().await;
}

#[tokio::test]
async fn of_a_container_no_memory_can_be_kept() {
    let atoll = Atoll::start_with(&["--driver", "container"], &[]).await;
    let sandbox = atoll.sandbox_with(CreateSandboxRequest::default()).await;
    let request = CreateSnapshotRequest { sandbox_id: sandbox.id.clone(), name: None, memory: Some(true) };
    let refused = atoll.client().create_snapshot(&request, false).await.expect_err("a container");
    assert!(refused.to_string().contains("container"), "{refused}");
    atoll.stop_and_check().await;
}
