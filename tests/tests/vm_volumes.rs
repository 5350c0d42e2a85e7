//! Volumes on virtual machines, beside containers that have the same ones. Few tests: each boot takes seconds.

use atoll_client::command;
use atoll_model::SandboxId;
use atoll_model::api::sandboxes::{CreateSandboxRequest, ExecRequest, ForkRequest, VolumeMount};
use atoll_tests::{Atoll, until};

fn with(driver: &str, volume: &str, path: &str, read_only: bool) -> CreateSandboxRequest {
    let memory = if driver == "vm" { 256 } else { 64 };
    CreateSandboxRequest {
        driver: Some(driver.to_owned()),
        memory_mb: Some(memory),
        disk_mb: Some(512),
        volumes: vec![VolumeMount { volume: volume.to_owned(), path: path.to_owned(), read_only }],
        ..CreateSandboxRequest::default()
    }
}

/// With a kernel for machines, and containers too.
async fn both() -> Atoll {
    Atoll::start_with(&["--driver", "auto"], &[]).await
}

async fn ok(atoll: &Atoll, id: &SandboxId, script: &str) -> String {
    let done = atoll.sh(id, script).await;
    assert_eq!(done.exit_code, 0, "{script}: {done:?}");
    done.stdout
}

async fn root_ok(atoll: &Atoll, id: &SandboxId, script: &str) -> String {
    let done = atoll.root(id, script).await;
    assert_eq!(done.exit_code, 0, "{script}: {done:?}");
    done.stdout
}

/// What programs do with files, one after the other; each says its own name when it goes wrong.
const WORK: &str = r#"
set -e
cd /data; mkdir work; cd work
echo one > a; mv a b; test "$(cat b)" = one; test ! -e a
echo two > c; mv c b; test "$(cat b)" = two
ln -s b link; test "$(readlink link)" = b; test "$(cat link)" = two
ln b hard; test "$(stat -c %h b)" = 2; rm b; test "$(cat hard)" = two
mkdir many; python3 - <<'END'
import mmap, os, sqlite3, tempfile
for number in range(5000):
    open(f"many/file-{number}", "w").close()
assert len(os.listdir("many")) == 5000 == len({entry.inode() for entry in os.scandir("many")})
with open("large", "wb") as file:
    file.write(bytes(range(256)) * 4096)
with open("large", "r+b") as file:
    mapped = mmap.mmap(file.fileno(), 0)
    assert mapped[1000:1004] == bytes([232, 233, 234, 235]) and len(mapped) == 1 << 20
    mapped[5:8] = b"new"
    mapped.flush()
    file.truncate(100)
assert open("large", "rb").read()[4:9] == b"\x04new\x08" and os.path.getsize("large") == 100
with open("open", "w+") as file:
    os.unlink("open")
    file.write("still here")
    file.seek(0)
    assert file.read() == "still here"
with tempfile.TemporaryFile(dir=".") as file:
    file.write(b"x" * 300_000)
    file.seek(299_999)
    assert file.read() == b"x"
base = sqlite3.connect("base.db")
base.execute("PRAGMA journal_mode = WAL")
base.execute("CREATE TABLE numbers (it)")
base.executemany("INSERT INTO numbers VALUES (?)", [(number,) for number in range(1000)])
base.commit()
assert base.execute("SELECT sum(it) FROM numbers").fetchone() == (499500,)
base.close()
os.setxattr("hard", "user.note", b"kept")
assert os.getxattr("hard", "user.note") == b"kept"
END
rm -r many
git init -q repository; cd repository
for i in $(seq 20); do echo $i > file-$i; done
git add .; git -c user.name=a -c user.email=a@b commit -qm first; test -z "$(git status --short)"
test "$(git log --oneline | wc -l)" = 1; git gc -q
"#;

#[tokio::test]
async fn containers_and_machines_share_a_volume_with_owners_modes_and_quota() {
    let mut atoll = both().await;
    atoll_tests::command::text(atoll.cli(&["volume", "create", "data", "--size", "64"]));
    let container = atoll.sandbox_with(with("container", "data", "/data", false)).await.id;
    ok(&atoll, &container, "mkdir /data/d; echo one > /data/d/file; chmod 640 /data/d/file; ln -s d/file /data/link")
        .await;
    root_ok(&atoll, &container, "echo root > /data/roots; chmod 600 /data/roots").await;
    let machine = atoll.sandbox_with(with("vm", "data", "/data", false)).await;
    assert_eq!(machine.driver, "vm");
    let machine = machine.id;
    let reader = atoll.sandbox_with(with("vm", "data", "/mnt/deep/data", true)).await.id;
    for (id, path) in [(&machine, "/data"), (&reader, "/mnt/deep/data")] {
        let seen = ok(&atoll, id, &format!("cd {path}; cat link; stat -c '%U %a' d/file; stat -c '%U %a' roots")).await;
        assert_eq!(seen, "one\nuser 640\nroot 600\n");
        assert_ne!(atoll.sh(id, &format!("cat {path}/roots")).await.exit_code, 0, "modes hold");
        assert_eq!(ok(&atoll, id, &format!("df -m --output=size {path} | tail -1 | tr -d ' '")).await, "64\n");
    }
    // The way back.
    ok(&atoll, &machine, "umask 077; echo two > /data/d/new; mkdir /data/mine").await;
    root_ok(&atoll, &machine, "echo x > /data/owned; chown 7:8 /data/owned; chmod 4755 /data/owned").await;
    assert_eq!(
        ok(
            &atoll,
            &container,
            "cat /data/d/new; stat -c '%U %a' /data/d/new /data/mine; stat -c '%u %g %a' /data/owned"
        )
        .await,
        "two\nuser 600\nuser 700\n7 8 4755\n"
    );
    let far = atoll.root(&machine, "chown 70000 /data/owned").await;
    assert!(far.exit_code != 0, "{far:?}");
    let refused =
        atoll.root(&reader, "cd /mnt/deep/data; echo x > new; rm link; mount -o remount,rw .; echo x > new").await;
    assert!(refused.exit_code != 0 && refused.stderr.matches("Read-only file system").count() >= 3, "{refused:?}");
    // What others change is seen.
    ok(&atoll, &container, "echo longer than before > /data/d/file").await;
    until("the machine to see it", || async {
        (atoll.sh(&machine, "cat /data/d/file").await.stdout == "longer than before\n").then_some(())
    })
    .await;
    let [one, other] = [&machine, &container].map(|id| {
        let atoll = &atoll;
        let script = "cd /data; for i in $(seq 100); do echo line >> log; echo line >> same-$i; done";
        async move { ok(atoll, id, script).await }
    });
    tokio::join!(one, other);
    let seen = ok(&atoll, &container, "cd /data; wc -l < log; cat same-* | wc -l; rm same-*").await;
    assert_eq!(seen, "200\n200\n", "none is over another, whoever made the file");
    ok(&atoll, &machine, WORK).await;
    let full = atoll.sh(&machine, "head -c 100M /dev/zero > /data/big").await;
    assert!(full.exit_code != 0 && full.stderr.contains("quota"), "{full:?}");
    ok(&atoll, &machine, "rm /data/big; echo fits > /data/fits; sync").await;
    assert_eq!(ok(&atoll, &container, "cat /data/fits; test ! -e /data/work/open").await, "fits\n");
    // Programs that lie on a volume, and begin there.
    ok(&atoll, &machine, "cp /bin/echo /data/say; cd /data; ./say hello > said; test $(cat said) = hello").await;
    let on = ExecRequest { cwd: Some("/data".to_owned()), ..command("/data/say", ["here"]) };
    assert_eq!(atoll.client().exec(&machine, &on).await.expect("exec").stdout, "here\n");

    // The last sandbox gone, and after a crash of everything, it is all there, and nothing else.
    for id in [&machine, &reader, &container] {
        atoll.client().destroy_sandbox(id).await.expect("destroy");
    }
    atoll.kill_9();
    atoll.start_again().await;
    until("what was removed to be gone", || async { (unlinked(&atoll, "data").await == 0).then_some(()) }).await;
    until("the volume to be free", || async { atoll.client().delete_volume("data").await.ok() }).await;
    atoll.stop_and_check().await;
}

/// Writes numbers, each on a line of its own, through one open file, and reads each back.
const COUNTER: &str = r#"exec python3 -c '
import os
file = os.open("/data/numbers", os.O_CREAT | os.O_RDWR | os.O_APPEND)
gone = os.open("/data/gone", os.O_CREAT | os.O_RDWR)
os.unlink("/data/gone")
number = 0
while True:
    number += 1
    os.write(file, b"%d\n" % number)
    os.pwrite(gone, b"%20d" % number, 0)
    assert int(os.pread(gone, 20, 0)) == number
    os.mkdir("/data/dir"); os.rename("/data/dir", "/data/moved"); os.rmdir("/data/moved")
'"#;

/// Has a deleted file open for some seconds, and lives on.
const HOLDER: &str = r#"exec python3 -c '
import os, time
held = open("/data/held", "wb")
held.write(b"x" * 1_000_000)
held.flush()
os.unlink("/data/held")
assert os.fstat(held.fileno()).st_nlink == 0
open("/tmp/holding", "w").close()
time.sleep(3)
held.close()
time.sleep(1000)
'"#;

async fn unlinked(atoll: &Atoll, volume: &str) -> usize {
    let volume = atoll.client().get_volume(volume).await.expect("get");
    let unlinked = atoll.data_dir().join("pool/volumes").join(volume.id.as_str()).join("unlinked");
    std::fs::read_dir(&unlinked).map(Iterator::count).unwrap_or(0)
}

async fn lines(atoll: &Atoll, id: &SandboxId) -> u64 {
    ok(atoll, id, "cat /data/numbers 2>/dev/null | wc -l").await.trim().parse().expect("a number")
}

async fn goes_on(atoll: &Atoll, id: &SandboxId, what: &str) -> u64 {
    let before = lines(atoll, id).await;
    until(what, || async {
        let now = lines(atoll, id).await;
        (now > before + 20).then_some(now)
    })
    .await
}

#[tokio::test]
async fn a_program_in_the_middle_of_its_files_lives_through_agents_pauses_and_forks() {
    let mut atoll = both().await;
    atoll_tests::command::text(atoll.cli(&["volume", "create", "data", "--size", "64"]));
    let id = atoll.sandbox_with(with("vm", "data", "/data", false)).await.id;
    let container = atoll.sandbox_with(with("container", "data", "/data", false)).await.id;
    // What is closed while there is no agent does not stay.
    let holder = command("/bin/bash", ["-c", HOLDER]);
    let holder = atoll.client().exec_background(&id, &holder).await.expect("background").pid;
    ok(&atoll, &id, "until test -e /tmp/holding; do sleep 0.1; done").await;
    assert_eq!(unlinked(&atoll, "data").await, 1);
    atoll.kill_9();
    tokio::time::sleep(std::time::Duration::from_secs(4)).await;
    atoll.start_again().await;
    until("what was closed to be gone", || async { (unlinked(&atoll, "data").await == 0).then_some(()) }).await;
    assert_eq!(ok(&atoll, &id, &format!("cat /proc/{holder}/comm")).await, "python3\n");
    let program = command("/bin/bash", ["-c", COUNTER]);
    let pid = atoll.client().exec_background(&id, &program).await.expect("background").pid;
    goes_on(&atoll, &container, "the counter to count").await;
    for _ in 0..3 {
        atoll.kill_9();
        atoll.start_again().await;
        goes_on(&atoll, &container, "the counter to go on under the next agent").await;
    }
    for _ in 0..2 {
        let paused = atoll.client().pause_sandbox(&id).await.expect("pause");
        assert_eq!(paused.kept.as_deref(), Some("memory"), "{paused:?}");
        let before = lines(&atoll, &container).await;
        ok(&atoll, &container, "echo others write > /data/meanwhile").await;
        let resumed = atoll.client().resume_sandbox(&id).await.expect("resume");
        assert_eq!(resumed.kept.as_deref(), Some("memory"), "{resumed:?}");
        assert!(goes_on(&atoll, &container, "the counter to go on after the pause").await > before);
        assert_eq!(ok(&atoll, &id, "cat /data/meanwhile").await, "others write\n");
    }
    // The very program, which has seen no error; and each number is there, once, in its order.
    let comm = ok(&atoll, &id, &format!("cat /proc/{pid}/comm; kill -STOP {pid}")).await;
    assert_eq!(comm, "python3\n");
    let all = ok(&atoll, &container, "cat /data/numbers").await;
    for (number, line) in all.lines().enumerate() {
        assert_eq!(line.parse(), Ok(number + 1), "line {number}");
    }
    // A fork has the same volume, and the program in it goes on with its files.
    let forked = atoll.client().fork_sandbox(&id, &ForkRequest::default()).await.expect("fork");
    assert_eq!(forked.kept, "memory");
    let child = forked.items[0].sandbox.as_ref().unwrap_or_else(|| panic!("{:?}", forked.items[0].error)).id.clone();
    assert_eq!(
        ok(&atoll, &child, &format!("cat /proc/{pid}/comm; cat /data/meanwhile")).await,
        "python3\nothers write\n"
    );
    ok(&atoll, &child, "echo child > /data/childs").await;
    assert_eq!(ok(&atoll, &id, "cat /data/childs").await, "child\n");
    atoll.client().destroy_sandbox(&id).await.expect("destroy");
    assert_eq!(ok(&atoll, &child, "cat /data/childs").await, "child\n");
    atoll.stop_and_check().await;
}

#[tokio::test]
async fn a_snapshot_with_memory_goes_on_without_the_volume_or_with_another_one() {
    let atoll = both().await;
    for name in ["data", "other"] {
        atoll_tests::command::text(atoll.cli(&["volume", "create", name, "--size", "32"]));
    }
    let parent = atoll.sandbox_with(with("vm", "data", "/data", false)).await.id;
    ok(&atoll, &parent, "echo first > /data/file; echo here > file").await;
    let program = command("/bin/bash", ["-c", "exec 3< /data/file; while :; do sleep 1; done"]);
    let pid = atoll.client().exec_background(&parent, &program).await.expect("background").pid;
    let request = atoll_model::api::snapshots::CreateSnapshotRequest {
        sandbox_id: parent.clone(),
        name: Some("alive".to_owned()),
        memory: Some(true),
    };
    assert_eq!(atoll.client().create_snapshot(&request, false).await.expect("snapshot").kind, "memory");
    let from = |volume: Option<&str>| {
        let volumes = volume.map_or_else(Vec::new, |volume| with("vm", volume, "/data", false).volumes);
        CreateSandboxRequest { template: Some("alive".to_owned()), volumes, ..CreateSandboxRequest::default() }
    };
    let without = atoll.sandbox_with(from(None)).await.id;
    let seen =
        ok(&atoll, &without, &format!("cat /proc/{pid}/comm file; ls -A /data; grep -c fuse.atoll /proc/mounts; true"))
            .await;
    assert_eq!(seen, "bash\nhere\n0\n");
    let other = atoll.sandbox_with(from(Some("other"))).await.id;
    assert_eq!(ok(&atoll, &other, &format!("cat /proc/{pid}/comm; ls -A /data; echo new > /data/new")).await, "bash\n");
    let gone = atoll.root(&other, &format!("timeout 20 cat /proc/{pid}/fd/3")).await;
    assert!(gone.exit_code != 0 && gone.exit_code != 124, "{gone:?}");
    assert_eq!(ok(&atoll, &parent, "ls -A /data").await, "file\n");
    atoll.client().delete_snapshot("alive").await.expect("delete");
    atoll.stop_and_check().await;
}

#[tokio::test]
async fn after_a_reboot_of_the_host_a_machine_has_its_volumes_and_nothing_that_was_open() {
    let mut atoll = both().await;
    for name in ["data", "more"] {
        atoll_tests::command::text(atoll.cli(&["volume", "create", name, "--size", "32"]));
    }
    let mut request = with("vm", "data", "/data", false);
    request.volumes.extend(with("vm", "more", "/srv/more", false).volumes);
    let id = atoll.sandbox_with(request).await.id;
    ok(&atoll, &id, "echo kept > /data/file; echo other > /srv/more/file; sync /data/file /srv/more/file").await;
    let program = command("/bin/bash", ["-c", "echo x > /data/gone; exec 3< /data/gone; rm /data/gone; sleep 1000"]);
    atoll.client().exec_background(&id, &program).await.expect("background");
    until("a deleted file to be open", || async { (unlinked(&atoll, "data").await == 1).then_some(()) }).await;
    atoll.reboot_host();
    atoll.start_again().await;
    let nothing = command("/bin/true", [""; 0]);
    until("the machine to run again", || async { atoll.client().exec(&id, &nothing).await.ok() }).await;
    let seen = ok(&atoll, &id, "cat /data/file /srv/more/file; ls -A /data; echo more >> /data/file").await;
    assert_eq!(seen, "kept\nother\nfile\n");
    assert_eq!(unlinked(&atoll, "data").await, 0);
    // And at rest: paused as a whole, and resumed by the next boot.
    let paused = atoll.client().pause_sandbox(&id).await.expect("pause");
    assert_eq!(paused.kept.as_deref(), Some("memory"), "{paused:?}");
    atoll.kill_9();
    atoll.start_again().await;
    let resumed = atoll.client().resume_sandbox(&id).await.expect("resume");
    assert_eq!(resumed.kept.as_deref(), Some("memory"), "{resumed:?}");
    assert_eq!(ok(&atoll, &id, "cat /data/file /srv/more/file").await, "kept\nmore\nother\n");
    atoll.stop_and_check().await;
}
