//! QEMU is killed, and nothing else, in the middle of what is done with a machine: what its sandbox is afterwards, what was
//! answered, and that nothing is left. (What the driver makes of it alone is tested beside the driver.)

use std::fs;
use std::path::PathBuf;

use atoll_model::api::sandboxes::{CreateSandboxRequest, ForkRequest};
use atoll_model::api::snapshots::CreateSnapshotRequest;
use atoll_model::{SandboxId, SandboxStatus};
use atoll_tests::{Atoll, until};

use super::machines::small;

/// One Atoll with machines; which of the points count is said while it runs.
struct Doomed {
    atoll: Atoll,
    marks: tempfile::TempDir,
}

impl Doomed {
    async fn start(points: &[&str], env: &[(&str, &str)]) -> Self {
        atoll_tests::atoll::use_binary(env!("CARGO_BIN_EXE_atoll"));
        let marks = tempfile::tempdir().expect("a directory");
        let kill = |point: &&str| format!("{point}=return(kill {})", marks.path().join(point).display());
        let faults = points.iter().map(kill).collect::<Vec<_>>().join(";");
        // An end is seen at the next heartbeat, by the monitor's next pass.
        let often = [("ATOLL_HEARTBEAT_INTERVAL", "500ms"), ("ATOLL_MONITOR_INTERVAL", "500ms")];
        let always = [("FAILPOINTS", faults.as_str())].into_iter().chain(often);
        let env: Vec<_> = env.iter().copied().chain(always).collect();
        Self { atoll: Atoll::start_with(&["--driver", "vm"], &env).await, marks }
    }

    fn mark(&self, point: &str) -> PathBuf {
        self.marks.path().join(point)
    }

    /// The machine that has begun last dies when this point is come to next.
    fn arm(&self, point: &str) {
        fs::write(self.mark(point), "").expect("arming");
    }

    fn assert_struck(&self, point: &str) {
        assert!(!self.mark(point).exists(), "{point} was not come to");
    }

    /// A machine with a file, and a process.
    async fn machine(&self) -> (SandboxId, String) {
        let id = self.atoll.sandbox_with(small()).await.id;
        self.atoll.sh(&id, "head -c 2M /dev/urandom > big; sha256sum big > sum; sync").await;
        let process = self.process(&id).await;
        (id, process)
    }

    async fn process(&self, id: &SandboxId) -> String {
        self.atoll.sh(id, "sleep 100000 > /dev/null 2>&1 & echo $!").await.stdout.trim().to_owned()
    }

    async fn assert_files(&self, id: &SandboxId, when: &str) {
        let read = self.atoll.sh(id, "sha256sum -c --status sum && echo same").await;
        assert_eq!(read.stdout, "same\n", "{when}: {read:?}");
    }

    /// Memory was kept just if this process is there.
    async fn assert_kept(&self, id: &SandboxId, process: &str, kept: Option<&str>, when: &str) {
        self.assert_files(id, when).await;
        let comm = self.atoll.sh(id, &format!("cat /proc/{process}/comm 2>/dev/null")).await.stdout;
        assert_eq!(kept, Some(if comm == "sleep\n" { "memory" } else { "files" }), "{when}");
    }

    async fn status(&self, id: &SandboxId) -> SandboxStatus {
        self.atoll.client().get_sandbox(id).await.expect("get").status
    }

    async fn has_ended(&self, id: &SandboxId, when: &str) {
        until(&format!("the end of a machine to be seen: {when}"), || async {
            (self.status(id).await == SandboxStatus::Stopped).then_some(())
        })
        .await;
    }

    fn names(&self, below: &str) -> Vec<String> {
        let entries = fs::read_dir(self.atoll.data_dir().join(below)).into_iter().flatten().flatten();
        entries.filter_map(|entry| entry.file_name().into_string().ok()).collect()
    }

    /// Nothing of a sandbox that is not one of `living`, on the disk or in the kernel.
    async fn assert_nothing_else(&self, living: &[&SandboxId], when: &str) {
        let mut living: Vec<String> = living.iter().map(ToString::to_string).collect();
        living.sort();
        until(&format!("nothing to be left {when}"), || async {
            let mut homes = self.names("sandboxes");
            let mut disks = self.names("pool");
            disks.retain(|name| name.parse::<SandboxId>().is_ok());
            homes.sort();
            disks.sort();
            (homes == living && disks == living).then_some(())
        })
        .await;
    }
}

const PAUSE: [&str; 5] =
    ["vm::pause::settled", "vm::pause::copied", "vm::pause::stopped", "vm::pause::synced", "vm::pause::kept"];
const RESUME: [&str; 6] =
    ["vm::started", "vm::loaded", "vm::resume::loaded", "vm::resume::forgotten", "vm::goes_on", "vm::ready"];

/// Once it is to be paused, it is: with its memory if that was on the disk, and else with its files.
#[tokio::test]
async fn a_machine_that_is_killed_while_it_is_paused_or_resumed_has_its_memory_or_its_files() {
    let points: Vec<_> = PAUSE.into_iter().chain(RESUME).collect();
    let doomed = Doomed::start(&points, &[]).await;
    let client = doomed.atoll.client();
    let (id, mut process) = doomed.machine().await;
    for point in PAUSE {
        doomed.arm(point);
        let paused = client.pause_sandbox(&id).await.unwrap_or_else(|error| panic!("{point}: {error}"));
        doomed.assert_struck(point);
        assert_eq!(paused.status, SandboxStatus::Paused, "{point}");
        let whole = ["vm::pause::synced", "vm::pause::kept"].contains(&point);
        assert!(!whole || paused.kept.as_deref() == Some("memory"), "{point}: {:?}", paused.kept);
        let resumed = client.resume_sandbox(&id).await.unwrap_or_else(|error| panic!("{point}: {error}"));
        assert_eq!((resumed.status, &resumed.kept), (SandboxStatus::Running, &paused.kept), "{point}");
        doomed.assert_kept(&id, &process, resumed.kept.as_deref(), point).await;
        process = doomed.process(&id).await;
    }
    for point in RESUME {
        let paused = client.pause_sandbox(&id).await.unwrap_or_else(|error| panic!("{point}: {error}"));
        assert_eq!(paused.kept.as_deref(), Some("memory"), "{point}");
        doomed.arm(point);
        let resumed = client.resume_sandbox(&id).await;
        doomed.assert_struck(point);
        if point == "vm::ready" {
            // It has been ready, and dies as one that runs does.
            break;
        }
        let resumed = resumed.unwrap_or_else(|error| panic!("{point}: {error}"));
        // What has not taken a step can be gone on with by another.
        let whole = !["vm::resume::forgotten", "vm::goes_on"].contains(&point);
        assert_eq!(resumed.kept.as_deref(), Some(if whole { "memory" } else { "files" }), "{point}");
        doomed.assert_kept(&id, &process, resumed.kept.as_deref(), point).await;
        process = doomed.process(&id).await;
    }
    doomed.has_ended(&id, "as soon as it went on").await;
    doomed.assert_nothing_else(&[], "of it").await;

    // It simply runs.
    let (id, _) = doomed.machine().await;
    let marked = atoll_tests::leaks::Mark::of(&doomed.atoll.data_dir()).processes_of(&id);
    for pid in marked {
        // SAFETY: kill has no memory effects; the process is this test's own machine.
        unsafe { libc::kill(pid, libc::SIGKILL) };
    }
    doomed.has_ended(&id, "while it ran").await;
    let reason = client.get_sandbox(&id).await.expect("get").reason;
    assert!(reason.as_deref().is_some_and(|reason| reason.starts_with("exited")), "{reason:?}");
    doomed.assert_nothing_else(&[], "of one that ran").await;
    doomed.atoll.stop_and_check().await;
}

const COPY: [&str; 4] = ["vm::started", "vm::loaded", "vm::goes_on", "vm::ready"];

/// Who asked for it gets another one, or an error; what has been ready was a sandbox, and ends as one.
#[tokio::test]
async fn a_machine_that_is_killed_while_it_begins_is_begun_anew_or_leaves_nothing() {
    let spares = ["vm::spare::named", "vm::spare::moved", "vm::spare::goes_on"];
    let points: Vec<_> = COPY.into_iter().chain(spares).collect();
    let env = [("ATOLL_LOG", "info,atoll_host::sandboxes=debug"), ("ATOLL_SPARE_MACHINES", "1")];
    let doomed = Doomed::start(&points, &env).await;
    let client = doomed.atoll.client();
    let mut living = Vec::new();
    // Of which no spare is made: each is of another size.
    let mut sizes = 513..;
    let mut create = async || {
        let kind = CreateSandboxRequest { disk_mb: sizes.next(), ..small() };
        client.create_sandbox(&kind).await.map(|made| made.id)
    };
    for point in COPY {
        doomed.arm(point);
        // The first of all boots, and so does one whose former machine that waited was given up.
        let made = loop {
            let made = create().await;
            if !doomed.mark(point).exists() {
                break made;
            }
            client.destroy_sandbox(&made.expect("a machine that nobody killed")).await.expect("destroy");
        };
        match (point, made) {
            ("vm::ready", Ok(id)) => doomed.has_ended(&id, point).await,
            // It was to boot, or had been ready.
            ("vm::started" | "vm::ready", Err(_)) => {}
            (_, made) => {
                let id = made.unwrap_or_else(|error| panic!("{point}: {error}"));
                assert_eq!(doomed.atoll.sh(&id, "hostname").await.stdout, format!("{}\n", id.dns_label()), "{point}");
                living.push(id);
            }
        }
        doomed.assert_nothing_else(&living.iter().collect::<Vec<_>>(), point).await;
    }
    living.push(doomed.atoll.sandbox_with(small()).await.id);
    living.push(doomed.atoll.sandbox_with(small()).await.id);
    for (ready, point) in (1..).zip(spares) {
        until("a spare", || async {
            (doomed.atoll.log().matches("a spare machine is ready").count() >= ready).then_some(())
        })
        .await;
        doomed.arm(point);
        let id = doomed.atoll.sandbox_with(small()).await.id;
        doomed.assert_struck(point);
        assert_eq!(doomed.atoll.sh(&id, "hostname").await.stdout, format!("{}\n", id.dns_label()), "{point}");
        living.push(id);
    }
    // The next spare goes with its agent.
    let mut atoll = doomed.atoll;
    atoll.terminate().await;
    atoll.unset("ATOLL_SPARE_MACHINES");
    atoll.start_again().await;
    atoll.stop_and_check().await;
}

const KEEP: [&str; 5] =
    ["vm::pause::copied", "vm::pause::stopped", "vm::keep::made", "vm::pause::synced", "vm::pause::kept"];

/// Its sandbox has ended then. What is listed as kept is whole, with memory or without, and says which; of all else nothing
/// is left.
#[tokio::test]
async fn a_machine_that_is_killed_while_it_is_kept_or_forked_leaves_what_is_whole_or_nothing() {
    let doomed = Doomed::start(&KEEP, &[]).await;
    let client = doomed.atoll.client();
    for point in KEEP {
        let (id, process) = doomed.machine().await;
        doomed.arm(point);
        let request =
            CreateSnapshotRequest { sandbox_id: id.clone(), name: Some("kept".to_owned()), memory: Some(true) };
        let made = client.create_snapshot(&request, false).await;
        doomed.assert_struck(point);
        doomed.has_ended(&id, point).await;
        let listed = client.list_snapshots(None).await.expect("snapshots").items;
        assert_eq!(listed.len(), usize::from(made.is_ok()), "{point}: {made:?}");
        if let Some(snapshot) = listed.first() {
            let from = CreateSandboxRequest { template: Some("kept".to_owned()), ..CreateSandboxRequest::default() };
            let copy = doomed.atoll.sandbox_with(from).await.id;
            doomed.assert_kept(&copy, &process, Some(&snapshot.kind), point).await;
            client.destroy_sandbox(&copy).await.expect("destroy");
            client.delete_snapshot("kept").await.expect("delete");
        }
    }
    for point in ["vm::pause::copied", "vm::pause::stopped", "vm::keep::made"] {
        let (id, process) = doomed.machine().await;
        doomed.arm(point);
        let forked = client.fork_sandbox(&id, &ForkRequest { count: Some(1), ..ForkRequest::default() }).await;
        doomed.assert_struck(point);
        doomed.has_ended(&id, point).await;
        if let Ok(forked) = forked {
            let child = forked.items.into_iter().find_map(|item| item.sandbox).expect("a child").id;
            doomed.assert_kept(&child, &process, Some(&forked.kept), point).await;
            client.destroy_sandbox(&child).await.expect("destroy");
        }
    }
    doomed.assert_nothing_else(&[], "of those that were kept").await;
    // Layers are control's to collect, half an hour later; what memory there is of them is whole.
    let layers = doomed.names("pool/layers");
    for layer in doomed.names("memories") {
        let files = doomed.names(&format!("memories/{layer}"));
        let whole = files.iter().any(|name| name == "devices") && !files.iter().any(|name| name.ends_with(".new"));
        assert!(whole && layers.contains(&layer), "{layer}: {files:?}");
    }
    doomed.atoll.stop_and_check().await;
}
