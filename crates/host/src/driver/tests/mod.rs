//! Real sandboxes on the real kernel. The root file system's lower layer is the host's own root, read-only: it has a
//! shell and python, and needs no image. The guest is this executable (see `zygote::testing`).

mod isolation;
mod launching;
mod lifecycle;
#[cfg(feature = "failpoints")]
mod undoing;

use std::collections::BTreeSet;
use std::fs;
use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use atoll_model::SandboxId;
use tempfile::TempDir;

use super::*;
use crate::cgroup::Hierarchies;
use crate::slots::{LAST_BLOCK, SandboxNetwork};
use crate::zygote::testing;

/// No network but the loopback that the kernel makes.
struct NoNetwork;

impl NetworkAttach for NoNetwork {
    fn attach(&self, _slot: &Slot, netns: BorrowedFd<'_>) -> std::io::Result<()> {
        rustix::fs::fstat(netns).map(drop).map_err(Into::into)
    }

    fn tap(&self, _slot: &Slot) -> std::io::Result<Option<crate::network::Tap>> {
        Ok(None)
    }
}

/// One driver with a directory of its own; what it launched is gone when it is dropped.
struct Fixture {
    driver: ContainerDriver,
    dir: TempDir,
}

struct Sandbox {
    running: Running,
    spec: LaunchSpec,
}

static NEXT: AtomicU8 = AtomicU8::new(1);

impl Fixture {
    fn new() -> Self {
        Self::on(None)
    }

    /// `None`: the cgroup trees of this machine.
    fn on(hierarchies: Option<Hierarchies>) -> Self {
        let dir = tempfile::Builder::new().prefix("atoll-driver-").tempdir_in("/var/tmp").unwrap();
        let instance = format!("t{}", dir.path().file_name().unwrap().to_str().unwrap().replace("atoll-driver-", ""));
        let config = ContainerConfig { hierarchies, ..ContainerConfig::new(instance, own_program()) };
        Self { driver: ContainerDriver::start(config).unwrap(), dir }
    }

    fn spec(&self) -> LaunchSpec {
        let id = SandboxId::new();
        let volume = self.dir.path().join(id.as_str());
        fs::create_dir(&volume).unwrap();
        let index = NEXT.fetch_add(1, Ordering::Relaxed).max(1);
        LaunchSpec {
            socket_path: self.dir.path().join(format!("{id}.sock")),
            slot: Slot::new(SandboxNetwork::default(), LAST_BLOCK, index).unwrap(),
            lowers: vec![PathBuf::from("/").into()],
            volume,
            kind: Kind::Container,
            disk_bytes: 1 << 30,
            volumes: Vec::new(),
            vcpus: 1,
            memory_bytes: 512 << 20,
            pids_max: 128,
            start_from: StartFrom::Either,
            role: Role::Sandbox,
            hostname: "island".to_owned(),
            guest_config: serde_json::json!({}),
            id,
        }
    }

    async fn launch_spec(&self, spec: LaunchSpec) -> Result<Sandbox, DriverError> {
        let running = self.driver.launch(spec.clone(), Arc::new(NoNetwork), &mut Steps::new()).await?;
        Ok(Sandbox { running, spec })
    }

    async fn launch(&self) -> Sandbox {
        self.launch_spec(self.spec()).await.unwrap()
    }

    /// What of this fixture's sandboxes there is in the kernel: processes' roots aside, all has our directory's name.
    fn leavings(&self) -> Vec<String> {
        let sockets = fs::read_dir(self.dir.path()).unwrap().flatten().map(|entry| entry.path());
        let sockets = sockets.filter(|path| path.extension().is_some_and(|it| it == "sock"));
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let here = self.dir.path().display().to_string();
        let mounts = mounts.lines().filter(|line| line.contains(&here)).map(str::to_owned).collect::<Vec<_>>();
        let cgroups = self.driver.leftovers().into_iter().map(|id| id.to_string());
        sockets.map(|path| path.display().to_string()).chain(mounts).chain(cgroups).collect()
    }
}

/// Removes whatever a driver still has, also from inside a runtime: the test's own, which may be the one that drops a
/// fixture, must not block on another.
pub(in crate::driver) fn end(driver: &dyn Driver) {
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                for id in driver.leftovers() {
                    let _removed = driver.clean_up(&id).await;
                }
                driver.shut_down().await;
            });
        });
    });
}

impl Drop for Fixture {
    fn drop(&mut self) {
        end(&self.driver);
    }
}

impl Sandbox {
    /// As root of the sandbox.
    fn root(&self, command: &str) -> (i32, String) {
        testing::run(&self.spec.socket_path, 'r', command)
    }

    /// As user 1000 of the sandbox.
    fn user(&self, command: &str) -> (i32, String) {
        testing::run(&self.spec.socket_path, 'u', command)
    }

    /// Output of a command that must succeed.
    fn ok(&self, command: &str) -> String {
        let (code, output) = self.root(command);
        assert_eq!(code, 0, "{command}: {output}");
        output.trim_end().to_owned()
    }

    /// A command that must fail for root inside.
    fn refused(&self, command: &str) -> String {
        let (code, output) = self.root(command);
        assert_ne!(code, 0, "{command} succeeded: {output}");
        output
    }

    fn python(&self, program: &str) -> String {
        self.ok(&format!("python3 - <<'END'\n{program}\nEND"))
    }
}

fn own_program() -> std::os::fd::OwnedFd {
    sealed_program(&fs::read("/proc/self/exe").unwrap()).unwrap()
}

/// What is told of an exit code: nothing by a kernel that can't (`process::exit_code`).
fn told(code: i32) -> Option<i32> {
    check::release().is_some_and(|(version, _)| version >= (6, 15)).then_some(code)
}

fn lines(text: &str) -> BTreeSet<&str> {
    text.lines().collect()
}

fn is_gone(path: &Path) -> bool {
    !path.exists()
}
