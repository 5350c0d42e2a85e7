//! Forks and snapshots of real sandboxes.

use std::collections::BTreeSet;

use atoll_client::ListSandboxes;
use atoll_model::SandboxStatus;
use atoll_model::api::sandboxes::{CreateSandboxRequest, ForkRequest, Sandbox};
use atoll_model::api::snapshots::CreateSnapshotRequest;
use atoll_tests::{Atoll, until};

async fn fork(atoll: &Atoll, parent: &Sandbox, count: u32) -> Vec<Sandbox> {
    let request = ForkRequest { count: Some(count), ..ForkRequest::default() };
    let forked = atoll.client().fork_sandbox(&parent.id, &request).await.expect("fork");
    let children = forked.items.into_iter().map(|child| match (child.sandbox, child.error) {
        (Some(sandbox), _) => sandbox,
        (None, error) => panic!("no child: {error:?}\n{}", atoll.log()),
    });
    children.collect()
}

#[tokio::test]
async fn children_begin_with_the_files_of_now_and_go_their_own_ways() {
    let atoll = Atoll::start().await;
    let env = [("GREETING".to_owned(), "hello".to_owned())].into();
    let parent = atoll.sandbox_with(CreateSandboxRequest { env, ..Default::default() }).await;
    let set_up = "mkdir -p d/e; echo old > d/e/f; ln d/e/f hard; ln -s d/e/f soft; chmod 4750 hard; echo x > gone; rm gone; \
                  sudo rm /etc/debian_version; sudo rm -rf /usr/share/doc; sudo mkdir /usr/share/doc; setfattr -n user.k -v v d 2>/dev/null; \
                  head -c 5000000 /dev/urandom > big; sha256sum big > sum";
    assert_eq!(atoll.sh(&parent.id, set_up).await.stderr, "");
    let children = fork(&atoll, &parent, 3).await;
    atoll.sh(&parent.id, "echo new > d/e/f; rm -rf d").await;
    let look = "cat d/e/f hard soft; stat -c %a hard; stat -c %h hard; ls -a; sha256sum -c sum; ls /etc/debian_version; \
                ls -A /usr/share/doc; echo $GREETING";
    let answers: BTreeSet<_> = {
        let mut answers = BTreeSet::new();
        for child in &children {
            answers.insert(atoll.sh(&child.id, look).await.stdout);
        }
        answers
    };
    assert_eq!(answers.len(), 1, "{answers:?}");
    let seen = answers.into_iter().next().expect("one answer");
    assert!(
        seen.starts_with("old\nold\nold\n4750\n2\n") && seen.contains("big: OK") && seen.ends_with("hello\n"),
        "{seen}"
    );
    assert!(!seen.contains("gone") && !seen.contains("debian_version") && !seen.contains("copyright"), "{seen}");
    // Each has an identity of its own.
    let identity =
        "cat /proc/sys/kernel/random/boot_id /etc/machine-id /etc/hostname /sys/class/net/eth0/address; hostname -I";
    let mut identities = BTreeSet::new();
    for sandbox in children.iter().chain([&parent]) {
        for line in atoll.sh(&sandbox.id, identity).await.stdout.lines() {
            assert!(identities.insert(line.trim().to_owned()), "{line} twice");
        }
    }
    // What one writes, no other sees.
    atoll.sh(&children[0].id, "echo mine > d/e/f; touch only").await;
    assert_eq!(atoll.sh(&children[1].id, "cat d/e/f; ls only").await.stdout, "old\n");
    // The parent's end is not theirs, and a child's child has all that came before.
    atoll.client().destroy_sandbox(&parent.id).await.expect("destroy");
    let grandchild = fork(&atoll, &children[0], 1).await.remove(0);
    assert_eq!(atoll.sh(&grandchild.id, "cat d/e/f; sha256sum -c sum; ls only").await.stdout, "mine\nbig: OK\nonly\n");
    atoll.stop_and_check().await;
}

/// Programs take two files with the same device and inode number for one: they refuse to copy, or leave one out.
#[tokio::test]
async fn files_of_different_generations_are_different_files() {
    let atoll = Atoll::start().await;
    let parent = atoll.sandbox().await;
    atoll.sh(&parent.id, "for n in $(seq 40); do echo $n > old$n; done").await;
    let child = fork(&atoll, &parent, 1).await.remove(0);
    let request =
        CreateSnapshotRequest { sandbox_id: parent.id.clone(), name: Some("numbers".to_owned()), memory: None };
    atoll.client().create_snapshot(&request, false).await.expect("snapshot");
    let from_snapshot = || CreateSandboxRequest { template: Some("numbers".to_owned()), ..Default::default() };
    let early = atoll.sandbox_with(from_snapshot()).await;
    let look = "for n in $(seq 40); do cat old$n > new$n || exit 1; done; cp old1 old2 && cat new40 old2; \
                find . -type f -links 1 -printf '%D %i\n' | sort | uniq -d";
    for sandbox in [&child, &early] {
        let answer = atoll.sh(&sandbox.id, look).await;
        assert_eq!((answer.stdout.as_str(), answer.stderr.as_str()), ("40\n1\n", ""));
    }
    // What is gone stays gone, whichever of its ancestors had it.
    atoll.sh(&child.id, "rm old3 new3").await;
    let grandchild = fork(&atoll, &child, 1).await.remove(0);
    let answer = atoll.sh(&grandchild.id, "ls old3 new3; ls | wc -l; cat old4 > newer4 && cat newer4").await;
    assert_eq!(answer.stdout, "78\n4\n");
    atoll.stop_and_check().await;
}

/// A layer with few files is packed for many children, who have its image below an empty volume.
#[tokio::test]
async fn many_children_have_all_that_few_have_and_their_children_too() {
    let mut atoll = Atoll::start().await;
    let parent = atoll.sandbox().await;
    let set_up = "mkdir -p d/e; echo old > d/e/f; ln d/e/f hard; ln -s d/e/f soft; chmod 4750 hard; mkfifo pipe; \
                  setfattr -n user.k -v v d 2>/dev/null; for n in $(seq 40); do echo $n > old$n; done; \
                  sudo rm /etc/debian_version; sudo rm -rf /usr/share/doc; sudo mkdir /usr/share/doc; sudo touch /root/of-root";
    assert_eq!(atoll.sh(&parent.id, set_up).await.stderr, "");
    let look = "stat -c '%n %F %a %h %U %s' d/e/f hard soft pipe old40; stat -c '%n %F %a %U' d d/e; cat soft; ls -A /usr/share/doc /etc/debian_version; \
                sudo ls /root/of-root; find /home /etc -xdev -printf '%P %m %U %G %y %l\n' | sort | sha256sum";
    let few = fork(&atoll, &parent, 1).await.remove(0);
    let seen = atoll.sh(&few.id, look).await.stdout;
    assert!(seen.contains("hard regular file 4750 2 user 4") && seen.contains("/root/of-root"), "{seen}");
    let many = fork(&atoll, &parent, 12).await;
    assert_eq!(packed(&atoll), 1, "one layer of two has an image");
    for child in &many {
        assert_eq!(atoll.sh(&child.id, look).await.stdout, seen);
    }
    // They write where they like, and no two files are one.
    let write = "for n in $(seq 40); do cat old$n > new$n || exit 1; done; cp old1 old2 && cat new40 old2; rm old3; \
                 find . -type f -links 1 -printf '%D %i\n' | sort | uniq -d";
    assert_eq!(atoll.sh(&many[0].id, write).await.stdout, "40\n1\n");
    assert_eq!(atoll.sh(&many[1].id, "cat old2 old3; ls | grep -c new").await.stdout, "2\n3\n0\n");

    // Their children, again many, and few.
    let of_many = fork(&atoll, &many[0], 9).await;
    let of_few = fork(&atoll, &many[0], 1).await.remove(0);
    atoll.client().destroy_sandbox(&many[0].id).await.expect("destroy");
    for child in of_many.iter().take(2).chain([&of_few]) {
        let answer =
            atoll.sh(&child.id, "ls old3; cat new40 old2 d/e/f; ls | wc -l; cat old4 > newer4 && cat newer4").await;
        assert_eq!(answer.stdout, "40\n1\nold\n83\n4\n");
    }
    // The agent is another one, and what has ended starts from its disk.
    let paused = &of_many[3].id;
    atoll.sh(paused, "echo written > here").await;
    atoll.client().pause_sandbox(paused).await.expect("pause");
    atoll.terminate().await;
    atoll.start_again().await;
    atoll.client().resume_sandbox(paused).await.expect("resume");
    assert_eq!(atoll.sh(paused, "cat here d/e/f new40").await.stdout, "written\nold\n40\n");
    atoll.stop_and_check().await;
}

/// Layers that have an image of their own.
fn packed(atoll: &Atoll) -> usize {
    let files = std::fs::read_dir(atoll.data_dir().join("images")).expect("the images").flatten();
    files.filter(|file| file.file_name().to_string_lossy().starts_with("lay-")).count()
}

#[tokio::test]
async fn a_paused_sandbox_is_forked_where_it_stands_and_stays_paused() {
    let atoll = Atoll::start().await;
    let parent = atoll.sandbox().await;
    atoll.sh(&parent.id, "echo frozen > state").await;
    atoll.client().pause_sandbox(&parent.id).await.expect("pause");
    let child = fork(&atoll, &parent, 1).await.remove(0);
    assert_eq!(atoll.sh(&child.id, "cat state").await.stdout, "frozen\n");
    let parent = atoll.client().get_sandbox(&parent.id).await.expect("get");
    assert_eq!(parent.status, SandboxStatus::Paused);
    atoll.stop_and_check().await;
}

#[tokio::test]
async fn generations_of_forks_keep_all_files_when_their_stack_is_packed() {
    let atoll = Atoll::start().await;
    let mut at = atoll.sandbox().await;
    let mut expected = String::new();
    for generation in 0..20 {
        let script =
            format!("echo {generation} >> log; echo {generation} > f{generation}; rm -f f{}; ", generation - 2);
        assert_eq!(atoll.sh(&at.id, &script).await.exit_code, 0);
        expected.push_str(&format!("{generation}\n"));
        let child = fork(&atoll, &at, 1).await.remove(0);
        atoll.client().destroy_sandbox(&at.id).await.expect("destroy");
        at = child;
    }
    let answer = atoll.sh(&at.id, "cat log; ls -d f*").await;
    assert_eq!(answer.stdout, format!("{expected}f18\nf19\n"));
    atoll.assert_well(&at.id).await;
    atoll.stop_and_check().await;
}

#[tokio::test]
async fn sandboxes_are_made_from_a_snapshot_also_after_a_restart_and_when_it_lies_in_the_object_store() {
    let mut atoll = Atoll::start().await;
    let origin = atoll.sandbox().await;
    atoll.sh(&origin.id, "echo kept > file; sudo rm -rf /usr/share/man; sudo touch /root/of-root").await;
    let request = CreateSnapshotRequest { sandbox_id: origin.id.clone(), name: Some("mine".to_owned()), memory: None };
    let snapshot = atoll.client().create_snapshot(&request, false).await.expect("snapshot");
    assert_eq!(snapshot.kind, "files");
    atoll.client().destroy_sandbox(&origin.id).await.expect("destroy");
    let made = || async {
        let request = CreateSandboxRequest { template: Some("mine".to_owned()), ..Default::default() };
        let sandbox = atoll.sandbox_with(request).await;
        let answer = atoll.sh(&sandbox.id, "cat file; ls -d /usr/share/man; sudo ls /root").await;
        assert_eq!(answer.stdout, "kept\nof-root\n", "{answer:?}");
        sandbox
    };
    let first = made().await;
    until("the snapshot to be stored", || async {
        atoll.client().get_snapshot("mine").await.ok().filter(|snapshot| snapshot.stored)
    })
    .await;
    atoll.client().destroy_sandbox(&first.id).await.expect("destroy");
    // Without the host's own copy it is fetched, as any other host would.
    atoll.terminate().await;
    for folder in ["images", "pool.img"] {
        let path = atoll.data_dir().join(folder);
        if path.is_dir() {
            std::fs::remove_dir_all(path).expect("remove");
        } else if path.exists() {
            std::fs::remove_file(path).expect("remove");
        }
    }
    atoll.start_again().await;
    let request = CreateSandboxRequest { template: Some("mine".to_owned()), ..Default::default() };
    let second = atoll.sandbox_with(request).await;
    let answer = atoll.sh(&second.id, "cat file; ls -d /usr/share/man; sudo ls /root").await;
    assert_eq!(answer.stdout, "kept\nof-root\n", "{answer:?}");
    // The name goes, its sandboxes stay.
    atoll.client().delete_snapshot("mine").await.expect("delete");
    atoll.assert_well(&second.id).await;
    assert!(atoll.client().list_snapshots(None).await.expect("list").items.is_empty());
    atoll.stop_and_check().await;
}

#[tokio::test]
async fn a_server_that_is_killed_in_the_middle_of_forks_leaves_only_whole_sandboxes() {
    let mut atoll = Atoll::start().await;
    let parent = atoll.sandbox().await;
    atoll.sh(&parent.id, "echo here > file").await;
    for moment in [2, 15, 40, 90] {
        let request = ForkRequest { count: Some(8), ..ForkRequest::default() };
        tokio::select! {
            _ = atoll.client().fork_sandbox(&parent.id, &request) => {}
            () = tokio::time::sleep(std::time::Duration::from_millis(moment)) => {}
        }
        atoll.kill_9();
        atoll.start_again().await;
        let settled = until("every sandbox to be something whole", || async {
            let list = atoll.client().list_sandboxes(&ListSandboxes::default()).await.ok()?;
            let settled =
                list.items.iter().all(|it| matches!(it.status, SandboxStatus::Running | SandboxStatus::Error));
            settled.then_some(list.items)
        })
        .await;
        for sandbox in settled.iter().filter(|it| it.status == SandboxStatus::Running) {
            assert_eq!(atoll.sh(&sandbox.id, "cat file").await.stdout, "here\n");
        }
        for sandbox in settled.iter().filter(|it| it.id != parent.id) {
            atoll.client().destroy_sandbox(&sandbox.id).await.expect("destroy");
        }
    }
    atoll.stop_and_check().await;
}
