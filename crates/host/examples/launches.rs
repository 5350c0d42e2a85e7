//! Where the time of a launch goes: `launches IMAGE.erofs GUEST [COUNT] [AT_ONCE]`, as root.
//!
//! Launches from a mounted image onto a btrfs in a loop file, without a network, and prints the median and the 99th
//! percentile of every step. For the whole way through the REST API see `scripts/bench.sh`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use atoll_host::driver::{
    ContainerConfig, ContainerDriver, Driver, Kind, LaunchSpec, NetworkAttach, Role, StartFrom, Steps, sealed_program,
};
use atoll_host::slots::{LAST_BLOCK, SandboxNetwork, Slot};
use atoll_model::SandboxId;

struct NoNetwork;

impl NetworkAttach for NoNetwork {
    fn attach(&self, _slot: &Slot, _netns: std::os::fd::BorrowedFd<'_>) -> std::io::Result<()> {
        Ok(())
    }

    fn tap(&self, _slot: &Slot) -> std::io::Result<Option<atoll_host::network::Tap>> {
        Ok(None)
    }
}

fn sh(command: &str) {
    let status = Command::new("sh").args(["-ec", command]).status().expect("sh runs");
    assert!(status.success(), "{command}");
}

fn spec(dir: &Path, number: usize) -> LaunchSpec {
    let id = SandboxId::new();
    let volume = dir.join("pool").join(id.as_str());
    sh(&format!("btrfs -q subvolume create {}", volume.display()));
    let index = u8::try_from(number % 255 + 1).expect("a small number");
    LaunchSpec {
        slot: Slot::new(SandboxNetwork::default(), LAST_BLOCK - u8::try_from(number / 255).expect("few"), index)
            .expect("a slot"),
        lowers: vec![dir.join("base").into()],
        volume,
        kind: Kind::Container,
        disk_bytes: 1 << 30,
        volumes: Vec::new(),
        vcpus: std::env::var("VCPUS").ok().and_then(|text| text.parse().ok()).unwrap_or(1),
        memory_bytes: 512 << 20,
        pids_max: 256,
        start_from: StartFrom::Either,
        role: Role::Sandbox,
        hostname: "bench".to_owned(),
        guest_config: serde_json::json!({"sandbox_id": id.as_str(), "vcpus": 1, "memory_bytes": 512 << 20}),
        socket_path: dir.join(format!("{id}.sock")),
        id,
    }
}

fn percentile(sorted: &[Duration], of_100: usize) -> f64 {
    sorted[(sorted.len() * of_100 / 100).min(sorted.len() - 1)].as_secs_f64() * 1_000.0
}

fn main() {
    let arguments: Vec<_> = std::env::args().collect();
    let [_, image, guest, rest @ ..] = arguments.as_slice() else {
        eprintln!("launches IMAGE.erofs GUEST [COUNT] [AT_ONCE]");
        std::process::exit(2);
    };
    let count: usize = rest.first().map_or(100, |text| text.parse().expect("a count"));
    let at_once: usize = rest.get(1).map_or(1, |text| text.parse().expect("a number"));
    let dir = PathBuf::from(format!("/var/tmp/atoll-launches-{}", std::process::id()));
    let shown = dir.display();
    sh(&format!(
        "mkdir -p {shown}/base {shown}/pool; truncate -s 8G {shown}/pool.img; mkfs.btrfs -q {shown}/pool.img; \
         mount -o loop,nosuid,nodev {shown}/pool.img {shown}/pool; mount -t erofs {image} {shown}/base"
    ));
    let program = sealed_program(&std::fs::read(guest).expect("the guest")).expect("memory");
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    runtime.block_on(measure(&dir, program, count, at_once));
    sh(&format!("umount {shown}/base; umount {shown}/pool; rm -r {shown}"));
}

async fn measure(dir: &Path, program: std::os::fd::OwnedFd, count: usize, at_once: usize) {
    let mut config = ContainerConfig::new(format!("b{}", std::process::id()), program);
    config.zygotes = std::env::var("ZYGOTES").ok().and_then(|text| text.parse().ok()).unwrap_or(1);
    let driver = Arc::new(ContainerDriver::start(config).expect("a driver"));
    let specs: Vec<_> = (0..count).map(|number| spec(dir, number)).collect();
    let mut times: BTreeMap<&'static str, Vec<Duration>> = BTreeMap::new();
    let mut order: Vec<(&'static str, Duration)> = Vec::new();
    let mut ids = Vec::new();
    let begun = Instant::now();
    for some in specs.chunks(at_once) {
        let launches: Vec<_> = some
            .iter()
            .map(|spec| {
                let (driver, spec) = (Arc::clone(&driver), spec.clone());
                tokio::spawn(async move {
                    let mut trace = Steps::new();
                    let result = driver.launch(spec, Arc::new(NoNetwork), &mut trace).await;
                    (result.expect("it launches"), trace.elapsed(), trace)
                })
            })
            .collect();
        for launch in launches {
            let (running, whole, trace) = launch.await.expect("the task ends");
            ids.push(running);
            times.entry("whole").or_default().push(whole);
            for step in trace.as_slice() {
                if !times.contains_key(step.name) {
                    order.push((step.name, step.began));
                }
                times.entry(step.name).or_default().push(step.took);
            }
        }
    }
    println!("{count} launches, {at_once} at once: {:.1} ms in all", begun.elapsed().as_secs_f64() * 1_000.0);
    if std::env::var_os("HOLD").is_some() {
        println!("holding; press enter");
        let _line = std::io::stdin().read_line(&mut String::new());
    }
    order.sort_by_key(|(_, began)| *began);
    order.push(("whole", Duration::ZERO));
    for (name, began) in order {
        let sorted = times.get_mut(name).expect("measured");
        sorted.sort();
        println!(
            "{name:<20} at {:>7.3}  p50 {:>7.3}  p99 {:>7.3} ms",
            began.as_secs_f64() * 1_000.0,
            percentile(sorted, 50),
            percentile(sorted, 99)
        );
    }
    let mut frozen = Vec::new();
    let mut killed = Vec::new();
    for running in &ids {
        let start = Instant::now();
        driver.pause(&running.id).await.expect("it pauses");
        frozen.push(start.elapsed());
        driver.resume(&running.id).await.expect("it resumes");
        let start = Instant::now();
        driver.kill(&running.id).await.expect("it dies");
        killed.push(start.elapsed());
        driver.clean_up(&running.id).await.expect("it goes");
    }
    for (name, mut sorted) in [("pause", frozen), ("kill", killed)] {
        sorted.sort();
        println!("{name:<20} p50 {:>7.3}  p99 {:>7.3} ms", percentile(&sorted, 50), percentile(&sorted, 99));
    }
    driver.shut_down().await;
}
