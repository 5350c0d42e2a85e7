//! Real machines, by the real QEMU, with the real guest agent. The root file system is a small erofs made of this
//! machine's own shell and tools.

mod copies;
#[cfg(feature = "failpoints")]
mod faults;
mod lent;
mod living;
mod processors;
mod spares;
mod v2_alone;

use std::fs;
use std::io::{self, Read, Write};
use std::os::fd::BorrowedFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use atoll_model::LayerId;
use base64::Engine;
use tempfile::TempDir;

use super::*;
use crate::driver::{Kind, Lower, StartFrom, kvm};
use crate::slots::{LAST_BLOCK, SandboxNetwork, Slot};
use crate::storage::{Pool, PoolOptions};

/// A machine without a network.
struct NoNetwork;

impl NetworkAttach for NoNetwork {
    fn attach(&self, _slot: &Slot, _netns: BorrowedFd<'_>) -> io::Result<()> {
        Ok(())
    }

    fn tap(&self, _slot: &Slot) -> io::Result<Option<crate::network::Tap>> {
        Ok(None)
    }
}

struct Fixture {
    driver: VmDriver,
    dir: TempDir,
}

static NEXT: AtomicU8 = AtomicU8::new(100);

/// What the tests call inside.
const TOOLS: [&str; 15] =
    ["sh", "echo", "cat", "cut", "date", "ls", "dd", "od", "sleep", "uname", "id", "mount", "sync", "nproc", "taskset"];

fn sh(command: &str) -> String {
    let output = Command::new("sh").args(["-ec", command]).output().unwrap();
    assert!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// Copies a program of this machine to `bin/NAME` of a root file system, and the libraries that it needs.
fn put_program(root: &Path, program: &Path, name: &str) {
    let (root, program) = (root.display(), program.display());
    sh(&format!(
        "cp {program} {root}/bin/{name}; ldd {program} | grep -o '/[^ ]*' | while read -r lib; do \
         mkdir -p {root}$(dirname $lib); cp -L $lib {root}$lib; done"
    ));
}

/// A root file system of this machine's tools and the libraries that they need.
fn make_image(dir: &Path) {
    let root = dir.join("root");
    let shown = root.display();
    sh(&format!(
        "mkdir -p {shown}/bin {shown}/etc {shown}/tmp {shown}/root; echo root:x:0:0::/root:/bin/sh > {shown}/etc/passwd; echo root:x:0: > {shown}/etc/group"
    ));
    for tool in TOOLS {
        let path = sh(&format!("readlink -f $(which {tool})"));
        put_program(&root, Path::new(path.trim()), tool);
    }
    let image = dir.join("root.erofs");
    sh(&format!("mkfs.erofs {} {shown}", image.display()));
}

pub(super) fn cache() -> PathBuf {
    std::env::var_os("ATOLL_CACHE_DIR").map_or_else(|| PathBuf::from("/var/cache/atoll"), PathBuf::from)
}

fn driver(dir: &Path, kernel: Kernel) -> VmDriver {
    let instance = format!("t{}", dir.file_name().unwrap().to_str().unwrap().replace("atoll-vm-", ""));
    let config =
        VmConfig::new(&instance, dir.to_owned(), kernel, Accel::of_this_machine(&cache(), atoll_assets::GUEST));
    VmDriver::start(VmConfig { memories: dir.join("memories.d"), ..config }).unwrap()
}

impl Fixture {
    fn new() -> Self {
        let dir = tempfile::Builder::new().prefix("atoll-vm-").tempdir_in("/var/tmp").unwrap();
        let kernel = Kernel::ensure(&cache(), atoll_assets::GUEST).unwrap();
        Self { driver: driver(dir.path(), kernel), dir }
    }

    /// With a kernel of its own, so that the machines that wait with it are its own too.
    fn alone() -> Self {
        let dir = tempfile::Builder::new().prefix("atoll-vm-").tempdir_in("/var/tmp").unwrap();
        let kernel = Kernel::ensure(&cache(), atoll_assets::GUEST).unwrap();
        let copy = |file: &Path| {
            let copy = dir.path().join("kernel.d").join(file.file_name().unwrap());
            fs::create_dir_all(copy.parent().unwrap()).unwrap();
            fs::copy(file, &copy).unwrap();
            copy
        };
        let kernel = Kernel { image: copy(&kernel.image), initramfs: copy(&kernel.initramfs), ..kernel };
        Self { driver: driver(dir.path(), kernel), dir }
    }

    /// Another driver on the same machines, as a new agent has it.
    fn another(&self) -> VmDriver {
        driver(self.dir.path(), self.driver.shared.kernel.clone())
    }

    fn spec(&self) -> LaunchSpec {
        let image = self.dir.path().join("root.erofs");
        if !image.exists() {
            make_image(self.dir.path());
        }
        let id = SandboxId::new();
        let (home, volume) = (self.dir.path().join(id.as_str()), self.dir.path().join(format!("{id}.volume")));
        fs::create_dir(&home).unwrap();
        fs::create_dir(&volume).unwrap();
        let slot = Slot::new(SandboxNetwork::default(), LAST_BLOCK, NEXT.fetch_add(1, Ordering::Relaxed)).unwrap();
        LaunchSpec {
            socket_path: home.join("guest.sock"),
            kind: Kind::Vm,
            slot,
            lowers: vec![Lower { path: PathBuf::from("/"), file: Some(image) }],
            volume,
            disk_bytes: 256 << 20,
            volumes: Vec::new(),
            vcpus: 1,
            memory_bytes: 256 << 20,
            pids_max: 128,
            start_from: StartFrom::Either,
            role: Role::Sandbox,
            hostname: "island".to_owned(),
            guest_config: serde_json::json!({ "sandbox_id": id.as_str() }),
            id,
        }
    }

    async fn launch(&self, spec: &LaunchSpec) -> Result<Running, DriverError> {
        self.launch_in_steps(spec).await.0
    }

    /// And how it began: `boot`, `copy` or `restore`.
    async fn launch_in_steps(&self, spec: &LaunchSpec) -> (Result<Running, DriverError>, &'static str) {
        let mut steps = Steps::new();
        let launched = self.driver.launch(spec.clone(), Arc::new(NoNetwork), &mut steps).await;
        for step in steps.as_slice() {
            println!("{:>8} ms  {}", step.took.as_millis(), step.name);
        }
        (launched, steps.as_slice().last().map_or("", |step| step.name))
    }

    /// What a failed or ended machine has left: cgroups, sockets, processes.
    fn leavings(&self) -> Vec<String> {
        let mut left: Vec<String> = self.driver.leftovers().iter().map(ToString::to_string).collect();
        let homes = fs::read_dir(self.dir.path()).unwrap().flatten().map(|entry| entry.path());
        for home in homes.filter(|path| path.is_dir() && path.extension().is_none()) {
            let files = fs::read_dir(home).unwrap().flatten().map(|it| it.path());
            left.extend(
                files.filter(|it| it.extension().is_some_and(|it| it == "sock")).map(|it| it.display().to_string()),
            );
        }
        left
    }
}

impl Drop for Fixture {
    fn drop(&mut self) {
        crate::driver::tests::end(&self.driver);
    }
}

/// Runs a shell command inside: its exit code and output.
fn run(socket: &Path, command: &str) -> (i64, String) {
    let body = serde_json::json!({ "cmd": "/bin/sh", "args": ["-c", command] }).to_string();
    let mut stream = UnixStream::connect(socket).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    let head = format!(
        "POST /atoll.guest.v1.GuestService/Exec HTTP/1.1\r\nhost: guest\r\nx-atoll-trusted: 1\r\n\
         content-type: application/json\r\nconnection: close\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all((head + &body).as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, text) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 200"), "{answer}");
    let answer: serde_json::Value = serde_json::from_str(text).unwrap();
    let bytes = |name: &str| {
        let text = answer.get(name).and_then(serde_json::Value::as_str).unwrap_or_default();
        String::from_utf8(base64::engine::general_purpose::STANDARD.decode(text).unwrap()).unwrap()
    };
    let code = answer.get("exitCode").and_then(serde_json::Value::as_i64).unwrap_or(0);
    (code, bytes("stdout") + &bytes("stderr"))
}

async fn ok(spec: &LaunchSpec, command: &str) -> String {
    let (socket, command) = (spec.socket_path.clone(), command.to_owned());
    tokio::task::spawn_blocking(move || {
        let (code, output) = run(&socket, &command);
        assert_eq!(code, 0, "{command}: {output}");
        output.trim_end().to_owned()
    })
    .await
    .unwrap()
}

async fn until(mut is_so: impl FnMut() -> bool) {
    let deadline = std::time::Instant::now() + Duration::from_secs(20);
    while !is_so() {
        assert!(std::time::Instant::now() < deadline, "it does not come to that");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
