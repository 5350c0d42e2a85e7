//! Real machines, by the real QEMU, with the real guest agent. The root file system is a small erofs made of this
//! machine's own shell and tools.

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
const TOOLS: [&str; 12] = ["sh", "cat", "cut", "date", "ls", "dd", "od", "sleep", "uname", "id", "mount", "sync"];

fn sh(command: &str) -> String {
    let output = Command::new("sh").args(["-ec", command]).output().unwrap();
    assert!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// A root file system of this machine's tools and the libraries that they need.
fn make_image(dir: &Path) {
    let root = dir.join("root");
    let shown = root.display();
    sh(&format!(
        "mkdir -p {shown}/bin {shown}/etc {shown}/tmp {shown}/root; echo root:x:0:0::/root:/bin/sh > {shown}/etc/passwd; echo root:x:0: > {shown}/etc/group"
    ));
    for tool in TOOLS {
        let path = sh(&format!("readlink -f $(command -v {tool})"));
        let path = path.trim();
        sh(&format!(
            "cp {path} {shown}/bin/{tool}; ldd {path} | grep -o '/[^ ]*' | while read -r lib; do \
             mkdir -p {shown}$(dirname $lib); cp -L $lib {shown}$lib; done"
        ));
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
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
                runtime.block_on(async {
                    for id in self.driver.leftovers() {
                        let _removed = self.driver.clean_up(&id).await;
                    }
                    self.driver.shut_down().await;
                });
            });
        });
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

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_lives_through_a_new_agent_a_pause_and_a_second_start_with_its_files() {
    let fixture = Fixture::new();
    let spec = fixture.spec();
    let running = fixture.launch(&spec).await.unwrap();

    // A kernel of its own, root of it, its own name, nothing of the host's.
    assert!(ok(&spec, "uname -r").await.contains("cloud"));
    assert_eq!(ok(&spec, "id -u; cat /etc/hostname; cat /proc/sys/kernel/hostname").await, "0\nisland\nisland");
    assert!(ok(&spec, "mount").await.contains("overlay on / type overlay"));
    ok(&spec, "echo kept > /root/file; echo gone > /bin/extra").await;

    // QEMU is nobody: its own ids, no capability, nothing but its own files, no network.
    let proc = PathBuf::from(format!("/proc/{}", running.init.pid));
    let status = fs::read_to_string(proc.join("status")).unwrap();
    let id = spec.slot.id_base();
    assert!(status.contains(&format!("Uid:\t{id}\t{id}\t{id}\t{id}")), "{status}");
    for line in ["CapEff:\t0000000000000000", "NoNewPrivs:\t1", "Seccomp:\t2", "Groups:\t \n"] {
        assert!(status.contains(line), "{line}: {status}");
    }
    for name in ["net", "mnt", "ipc", "uts", "pid"] {
        let namespace = |of: &Path| fs::read_link(of.join("ns").join(name)).unwrap();
        assert_ne!(namespace(&proc), namespace(Path::new("/proc/self")), "{name}");
    }
    let mut seen: Vec<_> = fs::read_dir(proc.join("root")).unwrap().flatten().map(|it| it.file_name()).collect();
    seen.sort();
    let expected = ["dev", "etc", "initramfs", "kernel", "lib", "lib32", "lib64", "usr"];
    assert!(seen.iter().all(|name| expected.contains(&name.to_str().unwrap())), "{seen:?}");

    // The agent is replaced: the machine goes on, and the new agent reaches it.
    let mark = ok(&spec, "sleep 1000 > /dev/null 2>&1 & echo $!").await;
    let another = fixture.another();
    // It died in the middle of something.
    let mut qmp = qmp::Qmp::connect(&fixture.driver.shared.socket(&spec.id, QMP_SOCKET)).await.unwrap();
    qmp.execute(&qmp::Stop {}).await.unwrap();
    drop(qmp);
    assert!(another.adopt(&spec.id, &running.init, Vec::new()).await.is_some());
    fixture.driver.shared.bridges().clear();
    assert_eq!(ok(&spec, &format!("cat /proc/{mark}/comm")).await, "sleep");
    let later = InitProcess { start_time: running.init.start_time + 1, ..running.init.clone() };
    assert!(another.adopt(&spec.id, &later, Vec::new()).await.is_none());

    // It stands still, and nothing of it is left but a file; it goes on as if nothing had been.
    assert!(another.usage(&spec.id).unwrap().memory_bytes > 16 << 20);
    let begun = ok(&spec, &format!("cut -d' ' -f22 /proc/{mark}/stat")).await;
    for _ in 0..2 {
        let paused = another.pause(&spec.id).await.unwrap();
        assert!(matches!(paused, Paused::Stored { freed_bytes } if freed_bytes > 16 << 20), "{paused:?}");
        assert!(!running.is_alive() && !another.owns(&spec.id));
        assert_eq!(fixture.leavings(), Vec::<String>::new());
        let [memory, devices] = ["memory", "devices"].map(|name| spec.socket_path.with_file_name(name));
        for file in [&memory, &devices] {
            assert_eq!(fs::metadata(file).unwrap().permissions().mode() & 0o777, 0o600);
        }
        let mut steps = Steps::new();
        another.launch(spec.clone(), Arc::new(NoNetwork), &mut steps).await.unwrap();
        assert!(steps.as_slice().iter().any(|step| step.name == RESTORED), "{steps:?}");
        assert!(!memory.exists() && !devices.exists(), "they would not fit the disk any more");
        assert_eq!(
            ok(&spec, &format!("cut -d' ' -f22 /proc/{mark}/stat; cat /root/file")).await,
            format!("{begun}\nkept")
        );
    }
    // What is no memory of a machine, or not what its devices were, is not gone on with: it starts from its disk.
    for name in ["memory", "devices"] {
        another.pause(&spec.id).await.unwrap();
        fs::write(spec.socket_path.with_file_name(name), b"nonsense").unwrap();
        let mut steps = Steps::new();
        another.launch(spec.clone(), Arc::new(NoNetwork), &mut steps).await.unwrap();
        assert!(!steps.as_slice().iter().any(|step| step.name == RESTORED), "{steps:?}");
        assert_eq!(ok(&spec, "cat /root/file").await, "kept");
    }

    // Its end, and a second life on the same disk.
    another.settle(&spec.id).await.unwrap();
    another.clean_up(&spec.id).await.unwrap();
    assert_eq!(fixture.leavings(), Vec::<String>::new());
    drop(another);
    fixture.launch(&spec).await.unwrap();
    assert_eq!(ok(&spec, "cat /root/file; ls /bin/extra").await, "kept\n/bin/extra");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_of_a_disk_has_its_files_and_goes_its_own_way() {
    let fixture = Fixture::new();
    let data = fixture.dir.path().join("data");
    fs::create_dir(&data).unwrap();
    let options = PoolOptions { reserve: 1 << 20, ..PoolOptions::default() };
    let pool = Pool::open(&data, &options).unwrap();
    let on_pool = |mut spec: LaunchSpec| {
        spec.volume = pool.create_volume(&spec.id, spec.disk_bytes).unwrap().path;
        spec
    };
    let parent = on_pool(fixture.spec());
    fixture.launch(&parent).await.unwrap();
    ok(&parent, "echo parent > /root/file").await;
    fixture.driver.settle(&parent.id).await.unwrap();
    let layer = LayerId::new();
    pool.snapshot_volume(&parent.id, &layer).unwrap();

    let mut child = on_pool(fixture.spec());
    child.lowers.insert(0, pool.layer(&layer).unwrap().into());
    fixture.launch(&child).await.unwrap();
    assert_eq!(ok(&child, "cat /root/file").await, "parent");
    ok(&child, "echo child > /root/file; sync").await;
    assert_eq!(ok(&parent, "cat /root/file").await, "parent");
    assert_ne!(ok(&child, "cat /etc/machine-id").await, ok(&parent, "cat /etc/machine-id").await);

    for spec in [&parent, &child] {
        fixture.driver.clean_up(&spec.id).await.unwrap();
        pool.delete_volume(&spec.id).unwrap();
    }
    pool.delete_layer(&layer).unwrap();
    assert!(pool.close().unwrap());
}

/// Two hosts, each with a driver and a pool of its own: what one packs, the other goes on with.
#[tokio::test(flavor = "multi_thread")]
async fn a_layer_that_has_travelled_goes_on_elsewhere_with_memory_or_begins_with_its_files() {
    let (here, there) = (Fixture::new(), Fixture::new());
    let pool = |fixture: &Fixture| {
        let data = fixture.dir.path().join("data");
        fs::create_dir(&data).unwrap();
        Pool::open(&data, &PoolOptions { reserve: 1 << 20, ..PoolOptions::default() }).unwrap()
    };
    let (pool_here, pool_there) = (pool(&here), pool(&there));
    let on_pool = |pool: &Pool, mut spec: LaunchSpec| {
        spec.volume = pool.create_volume(&spec.id, spec.disk_bytes).unwrap().path;
        spec
    };
    let parent = on_pool(&pool_here, here.spec());
    here.launch(&parent).await.unwrap();
    ok(&parent, "echo parent > /root/file").await;
    let mark = ok(&parent, "sleep 1000 > /dev/null 2>&1 & echo $!").await;
    let layer = LayerId::new();
    let files = async { pool_here.snapshot_volume(&parent.id, &layer).is_ok() };
    assert!(here.driver.keep(&parent.id, &layer, true, Box::pin(files)).await.unwrap());
    let version = here.driver.vm_version().unwrap();
    assert!(version.starts_with("QEMU "), "{version}");
    assert_eq!(here.driver.memory_version(&layer).as_ref(), Some(&version));

    let disk = disk::of_layer(&pool_here.layer(&layer).unwrap()).unwrap();
    let packed = || {
        let mut bytes = Vec::new();
        here.driver.pack_machine(&layer, &disk, &mut bytes).unwrap();
        bytes
    };
    let (bundle, size) = (packed(), packed().len() as u64);
    assert!(bundle == packed(), "the same layer gives the same bytes");
    println!("{} MiB for a machine of 256 MiB", size >> 20);
    let import = |bytes: &[u8]| {
        let unpack = |disk: &File| there.driver.unpack_machine(&layer, &mut &*bytes, disk);
        pool_there.import_disk(&layer, "of this", size, unpack)
    };
    assert!(import(&bundle[..bundle.len() / 2]).is_err() && pool_there.layer(&layer).is_none());
    assert!(!there.driver.has_memory(&layer));
    import(&bundle).unwrap();
    assert_eq!(there.driver.memory_version(&layer).as_ref(), Some(&version));

    let child = |start_from: StartFrom| {
        let mut spec = on_pool(&pool_there, there.spec());
        spec.lowers = vec![pool_there.layer(&layer).unwrap().into(), parent.lowers[0].clone()];
        spec.start_from = start_from;
        spec
    };
    let sleeping = "for it in /proc/[0-9]*/comm; do read -r name < $it; [ $name != sleep ] || echo yes; done 2>&-";
    let alive = child(StartFrom::Memory);
    there.launch(&alive).await.unwrap();
    assert_eq!(ok(&alive, &format!("cat /proc/{mark}/comm /root/file")).await, "sleep\nparent");
    assert_ne!(ok(&alive, "cat /etc/machine-id").await, ok(&parent, "cat /etc/machine-id").await);
    let anew = child(StartFrom::Files);
    there.launch(&anew).await.unwrap();
    assert_eq!(ok(&anew, &format!("cat /root/file; {sleeping}")).await, "parent");
    // Memory of a machine of another size is none to it.
    let larger = LaunchSpec { memory_bytes: 320 << 20, ..child(StartFrom::Memory) };
    let error = there.launch(&larger).await.unwrap_err().to_string();
    assert!(error.contains("no memory is kept here"), "{error}");
    let larger = LaunchSpec { memory_bytes: 320 << 20, ..child(StartFrom::Either) };
    there.launch(&larger).await.unwrap();
    assert_eq!(ok(&larger, &format!("cat /root/file; {sleeping}")).await, "parent");

    for (fixture, specs) in [(&here, vec![&parent]), (&there, vec![&alive, &anew, &larger])] {
        for spec in specs {
            fixture.driver.clean_up(&spec.id).await.unwrap();
        }
    }
    for (fixture, pool) in [(&here, pool_here), (&there, pool_there)] {
        fixture.driver.forget_memory(&layer).unwrap();
        pool.delete_layer(&layer).unwrap();
        for id in pool.list_volumes().unwrap() {
            pool.delete_volume(&id).unwrap();
        }
        assert!(pool.close().unwrap());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_launch_that_fails_says_why_and_leaves_nothing() {
    let fixture = Fixture::new();
    let turns = fixture.driver.launches.available_permits();
    let spec = fixture.spec();

    // What a container has left is a directory, which is no disk.
    let foreign = LaunchSpec { lowers: vec![PathBuf::from("/usr").into()], ..spec.clone() };
    let error = fixture.launch(&foreign).await.err().unwrap().to_string();
    assert!(error.contains("that a container has left"), "{error}");

    // No file system on the template: the guest says so, and its words arrive.
    let nonsense = fixture.dir.path().join("nonsense");
    fs::write(&nonsense, vec![7; 1 << 20]).unwrap();
    let broken = LaunchSpec { lowers: vec![Lower { path: "/".into(), file: Some(nonsense) }], ..spec.clone() };
    let error = fixture.launch(&broken).await.err().unwrap().to_string();
    assert!(error.contains("the guest") && error.contains("lower0") && error.contains("erofs"), "{error}");

    // QEMU refuses: its words arrive.
    let huge = LaunchSpec { memory_bytes: 1 << 50, ..spec.clone() };
    let error = fixture.launch(&huge).await.err().unwrap().to_string();
    assert!(error.contains("QEMU"), "{error}");

    // Nobody waits any more.
    let mut steps = Steps::new();
    {
        let launch = fixture.driver.launch(spec.clone(), Arc::new(NoNetwork), &mut steps);
        tokio::select! {
            _ = launch => panic!("it can't be done yet"),
            () = tokio::time::sleep(Duration::from_millis(50)) => {}
        }
    }
    let deadline = std::time::Instant::now() + Duration::from_secs(60);
    while fixture.driver.launches.available_permits() < turns {
        assert!(std::time::Instant::now() < deadline, "{:?}", fixture.leavings());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(fixture.leavings(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn machines_of_a_shape_are_booted_once_and_copies_of_it_have_nothing_in_common() {
    let fixture = Fixture::alone();
    let first = fixture.spec();
    assert_eq!(fixture.launch_in_steps(&first).await.1, "boot");
    let waiting = fixture.dir.path().join("kernel.d/waiting");
    let kept = || fs::read_dir(&waiting).unwrap().flatten().map(|it| it.path()).collect::<Vec<_>>();
    until(|| kept().iter().any(|it| it.join("digest").exists() && !it.to_string_lossy().contains("draft"))).await;
    let place = kept().remove(0);
    assert_eq!(fs::metadata(&waiting).unwrap().permissions().mode() & 0o777, 0o700);

    // Whatever the size of its disk.
    let second = LaunchSpec { disk_bytes: 300 << 20, hostname: "atoll".to_owned(), ..fixture.spec() };
    let third = fixture.spec();
    for spec in [&second, &third] {
        assert_eq!(fixture.launch_in_steps(spec).await.1, "copy");
    }
    let facts = [
        "cat /etc/machine-id",
        "cat /proc/sys/kernel/random/boot_id",
        "dd if=/dev/urandom bs=16 count=1 2>/dev/null | od -x",
    ];
    for fact in facts {
        let mut all = Vec::new();
        for spec in [&first, &second, &third] {
            all.push(ok(spec, fact).await);
        }
        all.sort();
        all.dedup();
        assert_eq!(all.len(), 3, "{fact}: {all:?}");
    }
    assert_eq!(ok(&second, "cat /proc/sys/kernel/hostname").await, "atoll");
    assert!(ok(&second, "cat /sys/class/block/vd*/size").await.lines().any(|it| it == "614400"));
    // It is the right time.
    let now = ok(&third, "date +%s").await.parse::<i64>().unwrap();
    assert!((chrono::Utc::now().timestamp() - now).abs() < 5, "{now}");
    // And it can be paused as any other.
    ok(&third, "echo here > /root/file").await;
    fixture.driver.pause(&third.id).await.unwrap();
    assert_eq!(fixture.launch_in_steps(&third).await.1, RESTORED);
    assert_eq!(ok(&third, "cat /root/file").await, "here");

    // One that is not what it was is not used by the next agent.
    let memory = fs::File::options().read(true).write(true).open(place.join("memory")).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&memory, b"changed", 5 << 20).unwrap();
    let another = fixture.another();
    let fourth = fixture.spec();
    let mut steps = Steps::new();
    another.launch(fourth.clone(), Arc::new(NoNetwork), &mut steps).await.unwrap();
    assert_eq!(steps.as_slice().last().unwrap().name, "boot");
    // One that QEMU does not take is not used either, and the machine boots all the same.
    until(|| place.join("digest").exists()).await;
    fs::write(place.join("devices"), b"nonsense").unwrap();
    let fifth = fixture.spec();
    another.launch(fifth, Arc::new(NoNetwork), &mut steps).await.unwrap();
    assert_eq!(steps.as_slice().last().unwrap().name, "boot");
}

async fn until(mut is_so: impl FnMut() -> bool) {
    let deadline = std::time::Instant::now() + Duration::from_secs(20);
    while !is_so() {
        assert!(std::time::Instant::now() < deadline, "it does not come to that");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// QEMU is killed, or something fails, at each point of a pause: it is paused, or it was never asked to be.
#[cfg(feature = "failpoints")]
#[tokio::test(flavor = "multi_thread")]
async fn a_pause_that_is_cut_short_leaves_before_or_after() {
    let fixture = Fixture::new();
    let spec = fixture.spec();
    let mut running = fixture.launch(&spec).await.unwrap();
    ok(&spec, "echo kept > /root/file").await;
    for point in ["vm::pause::copied", "vm::pause::stopped", "vm::pause::synced", "vm::pause::kept"] {
        // It fails: the machine goes on as if nothing had been.
        let mark = ok(&spec, "sleep 1000 > /dev/null 2>&1 & echo $!").await;
        fail::cfg(point, "return").unwrap();
        assert!(fixture.driver.pause(&spec.id).await.is_err(), "{point}");
        fail::remove(point);
        assert_eq!(ok(&spec, &format!("cat /proc/{mark}/comm")).await, "sleep", "{point}");
        assert!(!fixture.driver.is_stored(&spec.id) && running.is_alive(), "{point}");
        let home: Vec<_> = fs::read_dir(spec.socket_path.parent().unwrap()).unwrap().flatten().collect();
        assert!(
            home.iter().all(|it| it.file_name() == "shape" || it.path().extension().is_some_and(|it| it == "sock")),
            "{point}: {home:?}"
        );

        // QEMU dies.
        let pid = rustix::process::Pid::from_raw(running.init.pid).unwrap();
        fail::cfg_callback(point, move || {
            let _killed = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
        })
        .unwrap();
        let paused = fixture.driver.pause(&spec.id).await;
        fail::remove(point);
        assert_eq!(paused.is_ok(), fixture.driver.is_stored(&spec.id), "{point}: {paused:?}");
        // It stood still with all that it was, so that is kept; before, its files are.
        assert_eq!(paused.is_ok(), point != "vm::pause::copied", "{point}: {paused:?}");
        fixture.driver.clean_up(&spec.id).await.unwrap();
        let (launched, how) = fixture.launch_in_steps(&spec).await;
        running = launched.unwrap();
        assert_eq!(how == RESTORED, paused.is_ok(), "{point}: {how}");
        assert_eq!(ok(&spec, "cat /root/file").await, "kept");
        if paused.is_ok() {
            assert_eq!(ok(&spec, &format!("cat /proc/{mark}/comm")).await, "sleep", "{point}");
        }
    }
}

/// Memory is kept for a layer whole or not at all; its files are, and the machine goes on, in any case.
#[cfg(feature = "failpoints")]
#[tokio::test(flavor = "multi_thread")]
async fn memory_that_can_not_be_kept_for_a_layer_leaves_its_files_and_a_machine_that_goes_on() {
    let fixture = Fixture::new();
    let (spec, driver) = (fixture.spec(), &fixture.driver);
    fixture.launch(&spec).await.unwrap();
    let mark = ok(&spec, "sleep 1000 > /dev/null 2>&1 & echo $!").await;
    let keep = async || {
        let (layer, asked) = (LayerId::new(), std::sync::atomic::AtomicBool::new(false));
        let files = async {
            asked.store(true, Ordering::Relaxed);
            true
        };
        let kept = driver.keep(&spec.id, &layer, true, Box::pin(files)).await.unwrap();
        assert!(asked.load(Ordering::Relaxed), "its files were not kept");
        assert_eq!(kept, driver.has_memory(&layer));
        assert_eq!(driver.memories(), if kept { vec![layer.clone()] } else { Vec::new() });
        driver.forget_memory(&layer).unwrap();
        assert!(driver.memories().is_empty());
        kept
    };
    let goes_on = async |when: &str| assert_eq!(ok(&spec, &format!("cat /proc/{mark}/comm")).await, "sleep", "{when}");
    for point in ["vm::pause::copied", "vm::pause::stopped", "vm::pause::synced", "vm::pause::kept"] {
        fail::cfg(point, "return").unwrap();
        assert!(!keep().await, "{point}");
        fail::remove(point);
        goes_on(point).await;
    }
    // One of an older agent has no shape.
    let shape = spec.socket_path.with_file_name("shape");
    let text = fs::read(&shape).unwrap();
    fs::remove_file(&shape).unwrap();
    assert!(!keep().await);
    goes_on("without a shape").await;
    fs::write(&shape, text).unwrap();
    assert!(keep().await);
    goes_on("kept").await;

    // One that is paused has been written down already.
    driver.pause(&spec.id).await.unwrap();
    assert!(keep().await);
    fs::remove_file(&shape).unwrap();
    assert!(!keep().await);
    fixture.launch(&spec).await.unwrap();
    goes_on("resumed").await;
}

#[test]
fn a_whole_system_says_that_it_runs_and_one_without_a_first_program_never_does() {
    let kernel = Kernel::ensure(&cache(), atoll_assets::GUEST).unwrap();
    assert!(kvm::runs(&kernel, Accel::Tcg));
    let nothing = tempfile::NamedTempFile::new().unwrap();
    let empty = Kernel { initramfs: nothing.path().to_owned(), ..kernel };
    assert!(!kvm::runs(&empty, Accel::Tcg));
}
